"""The comparison: protocol, divergence, edges, and what is asked for wrongly."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

import descend
from comparisons import SMALL_TASK, finished_in, prepare, small, trials_of, without_times
from descend import tasks
from descend.experiments import compare as protocol
from descend.experiments import defaults, loop, options, results, search_space, trial
from descend.experiments.console import table
from descend.experiments.errors import UsageError
from descend.experiments.trial import Trial
from descend.tasks import TaskError, TensorTask


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to read."""
    return finished_in(tmp_path_factory.mktemp("finished"))


# ---- the protocol ----------------------------------------------------------------------------------------------------


def test_every_optimizer_gets_equal_budgets_and_fresh_seeds(finished):
    tuning, final = trials_of(finished, "tuning"), trials_of(finished, "final")
    assert [(t["optimizer"], t["seed"]) for t in tuning] == [("sgd", 0), ("adam", 0)] * 3
    for optimizer in finished.results["optimizers"]:
        assert [t["rate"] for t in tuning if t["optimizer"] == optimizer["name"]] == optimizer["rates"]
    assert [(t["optimizer"], t["seed"]) for t in final] == [("sgd", 1), ("adam", 1), ("sgd", 2), ("adam", 2)]
    assert finished.results["manifest"]["seeds"] == {"tuning": [0], "final": [1, 2]}


def test_the_rate_is_chosen_on_validation_and_the_test_set_seen_by_final_runs_only(finished):
    for optimizer in finished.results["optimizers"]:
        mine = [t for t in trials_of(finished, "tuning") if t["optimizer"] == optimizer["name"]]
        best = max(mine, key=lambda t: (t["validation_metric"], -t["validation_loss"]))
        assert optimizer["best_rate"] == best["rate"]
        assert {t["rate"] for t in trials_of(finished, "final") if t["optimizer"] == optimizer["name"]} == {
            best["rate"]
        }
    assert all(t["test_loss"] is None and t["test_metric"] is None for t in trials_of(finished, "tuning"))
    assert all(t["test_loss"] is not None and t["test_metric"] is not None for t in trials_of(finished, "final"))


def test_the_test_set_is_evaluated_once_per_final_run(monkeypatch):
    seen = []
    original = TensorTask.evaluate
    monkeypatch.setattr(TensorTask, "evaluate", lambda self, m, split: seen.append(split) or original(self, m, split))
    small()
    assert seen.count("test") == 4
    assert seen.index("test") > 6  # after all of the tuning


def test_same_seed_same_initialisation_and_data_for_all_optimizers(monkeypatch):
    seen = {}
    problem = tasks.load("blobs.py")
    original = type(problem).loss

    def loss(self, model, batch):
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        seen.setdefault(key, []).append((weights, batch[0]))
        return original(self, model, batch)

    monkeypatch.setattr(type(problem), "loss", loss)
    for key in itertools.product(["sgd", "lion"], [1, 2]):
        trial.run(problem, Trial("final", key[0], 0.01, key[1]), steps=6)
    for seed in (1, 2):
        one, other = seen["sgd", seed], seen["lion", seed]
        assert torch.equal(one[0][0], other[0][0])
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert not torch.equal(seen["sgd", 1][0][0], seen["sgd", 2][0][0])
    assert not torch.equal(seen["sgd", 1][0][1], seen["sgd", 2][0][1])


def test_a_trial_agrees_with_a_plain_loop_of_torch():
    digits, rate, steps, seed = tasks.load("digits"), 3e-3, 30, 4
    model = digits.model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for s, batch in enumerate(itertools.islice(digits.batches(seed), steps)):
        shape = (s + 1) / 3 if s < 3 else (1 + math.cos(math.pi * (s - 3) / 27)) / 2
        optimizer.param_groups[0]["lr"] = rate * shape
        optimizer.zero_grad()
        loss = digits.loss(model, batch)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    record = trial.run(digits, Trial("final", "adam", rate, seed), steps)
    assert [point["step"] for point in record.curve] == list(range(2, 31, 2))
    expected = np.reshape(losses, (15, 2)).mean(1)
    np.testing.assert_allclose([point["train_loss"] for point in record.curve], expected, rtol=1e-4)
    assert record.test_loss == pytest.approx(digits.evaluate(model, "test")["loss"], rel=1e-3)
    assert record.validation_metric == pytest.approx(digits.evaluate(model, "validation")["accuracy"], abs=0.003)


def test_a_trial_depends_on_nothing_outside_and_leaves_nothing_behind():
    problem, wanted = tasks.load("blobs.py"), Trial("final", "adamw", 0.01, 3)
    torch.manual_seed(1)
    one = trial.run(problem, wanted, 12)
    torch.manual_seed(2)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    other = trial.run(problem, wanted, 12)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(before, torch.random.get_rng_state())
    assert without_times(one.as_dict()) == without_times(other.as_dict())


def test_checkpoints_end_with_the_last_step_and_seconds_rise():
    record = trial.run(tasks.load("blobs.py"), Trial("final", "sgd", 0.1, 1), 47)
    steps, seconds = ([point[key] for point in record.curve] for key in ("step", "seconds"))
    assert steps == [*range(3, 47, 3), 47]
    assert all(a < b for a, b in itertools.pairwise([0, *seconds]))


@pytest.mark.parametrize("name", sorted(descend.rules.catalog()))
def test_every_optimizer_can_be_compared(name):
    record = trial.run(tasks.load("blobs.py"), Trial("tuning", name, search_space.rates(name, 1)[0], 0), 30)
    assert not record.diverged
    assert record.curve[-1]["train_loss"] < 1.2


def test_state_bytes_are_the_tensors_of_the_state():
    weights = 2 * 4 + 4 + 4 * 3 + 3
    records = {
        name: trial.run(tasks.load("blobs.py"), Trial("tuning", name, 0.01, 0), 4)
        for name in ("sgd", "lion", "adam", "amsgrad")
    }
    assert {name: record.state_bytes for name, record in records.items()} == {
        "sgd": 4 * weights,
        "lion": 4 * weights,
        "adam": 8 * weights + 4 * 4,
        "amsgrad": 12 * weights,
    }


@pytest.mark.parametrize("count", [1, 2, 5, 7, 9, 30])
def test_grids_are_equal_sized_log_spaced_and_centred(count):
    for name in defaults.OPTIMIZERS:
        grid = search_space.rates(name, count)
        logs = np.log10(grid)
        assert len(set(grid)) == count
        assert logs.mean() == pytest.approx(math.log10(search_space.space(name).rate), abs=2e-3)
        if count > 1:
            assert np.ptp(np.diff(logs)) < 5e-3
            assert logs[-1] - logs[0] == pytest.approx(min(0.5 * (count - 1), 3), abs=5e-3)


def test_a_rule_of_matrices_has_adamw_beside_it(tmp_path):
    results = finished_in(tmp_path, optimizers=["muon"]).results
    assert "AdamW stepped what is no matrix, and embeddings, at the same rate, of Muon." in results["caveats"]
    assert results["optimizers"][0]["hyper_parameters"]["adjust_lr_fn"] == "match_rms_adamw"


def test_a_rule_that_tunes_itself_has_one_rate_and_as_many_seeds(tmp_path):
    finished = finished_in(tmp_path, optimizers=["sgd", "yellowfin"])
    tuned = [(one["optimizer"], one["rate"]) for one in trials_of(finished, "tuning")]
    rates = search_space.rates("sgd", 3)
    assert tuned == [("sgd", rates[0]), ("yellowfin", 1.0), ("sgd", rates[1]), ("sgd", rates[2])]
    assert [one["optimizer"] for one in trials_of(finished, "final")] == ["sgd", "yellowfin"] * 2
    (said,) = [text for text in finished.results["caveats"] if "YellowFin" in text and "schedule" in text]
    assert said.startswith("The rate follows no schedule of YellowFin, which sets it itself, and ran at its default")
    assert {row["optimizer"]: row["edge"] for row in finished.results["summary"]}["yellowfin"] is None


def test_the_published_decays_take_the_schedule_as_their_multiplier():
    shape = trial.schedule(20)
    assert search_space.arguments("adamwpaper", 0.01, shape) == {"lr": 0.01, "eta": shape}
    assert search_space.arguments("adamw", 0.01, shape) == {"lr": 0.01 * shape}
    assert search_space.arguments("rprop", 0.01, shape) == {"lr": 0.01}


# ---- divergence, edges, targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "test"), [("tuning", None), ("final", 0.0)])
def test_a_divergence_is_the_worst_result_not_a_missing_one(phase, test):
    record = trial.run(tasks.load("digits"), Trial(phase, "sgd", 1e30, 0), 20)
    assert record.diverged
    assert (record.validation_metric, record.test_metric) == (0.0, test)
    assert (record.validation_loss, record.test_loss, record.steps_to_target) == (None, None, None)
    assert len(record.curve) < 20
    json.dumps(record.as_dict(), allow_nan=False)


def test_a_loss_that_is_not_finite_ends_a_run_at_once(monkeypatch):
    problem, seen = tasks.load("blobs.py"), []

    def loss(self, model, batch):
        seen.append(None)
        return sum(p.sum() for p in model.parameters()) * (math.nan if len(seen) == 3 else 1.0)

    monkeypatch.setattr(type(problem), "loss", loss)
    training = loop.train(
        problem, model := problem.model(0), torch.optim.SGD(model.parameters(), lr=0.1), seed=0, steps=20
    )
    assert training.diverged
    assert (len(seen), len(training.step_seconds), training.curve) == (3, 2, [])
    assert all(p.isfinite().all() for p in model.parameters())


def test_weights_that_are_not_finite_end_a_run_even_with_a_finite_loss():
    class Blind(TensorTask):
        """A loss that hides one weight once it has grown."""

        name, target = "blind", 0.5

        def tensors(self):
            return {name: (torch.ones(4, 1), torch.zeros(4)) for name in ("train", "validation", "test")}

        def network(self):
            return nn.Linear(1, 1)

        def criterion(self, outputs, targets):
            return torch.where(outputs.isfinite(), outputs, 0.0).mean()

        def score(self, outputs, targets):
            return 1.0

    record = trial.run(Blind(), Trial("final", "sgd", 1e39, 0), 6)
    assert record.diverged
    assert record.test_metric == 0.0


def test_divergences_lose_and_the_table_counts_them(monkeypatch):
    monkeypatch.setitem(search_space.DECLARED, "adam", search_space.Space(1e40))
    problem = small()
    row = {row["optimizer"]: row for row in problem.results["summary"]}["adam"]
    assert problem.results["summary"][-1] is row
    assert (row["diverged"], row["test_mean"], row["validation_mean"], row["steps_to_target"]) == (2, 0.0, 0.0, None)
    assert any("Diverged final runs" in text and "Adam (2 of 2)" in text for text in problem.results["caveats"])
    assert row["edge"] is None  # no rate was better than another
    assert row["state_bytes"] > 0  # the first step was taken


def test_an_optimizer_that_takes_no_step_has_neither_edge_nor_state(tmp_path):
    own = "\n    def criterion(self, outputs, targets):\n        return outputs.sum() * float('nan')\n"
    (tmp_path / "blobs.py").write_text(SMALL_TASK + own)
    found = small().results
    for entry in (*found["summary"], *found["optimizers"]):
        assert (entry["edge"], entry["state_bytes"]) == (None, None)
    table(found, 80)


@pytest.mark.parametrize(
    ("rate", "grid", "edge"), [(1, [1, 2, 3], "low"), (2, [1, 2, 3], None), (3, [1, 2, 3], "high"), (1, [1], None)]
)
def test_a_best_rate_at_the_end_of_its_grid_is_an_edge(rate, grid, edge):
    assert results.edge_of(rate, grid) == edge


def test_an_edge_is_flagged_in_results_and_caveats(monkeypatch):
    monkeypatch.setitem(search_space.DECLARED, "adam", search_space.Space(1e-6))
    found = small().results
    assert {o["name"]: o["edge"] for o in found["optimizers"]}["adam"] == "high"
    assert {row["optimizer"]: row["edge"] for row in found["summary"]}["adam"] == "high"
    assert any("end of the grid" in text and "Adam (" in text for text in found["caveats"])


def curve(*metrics):
    return loop.Training(curve=[loop.Checkpoint(10 * i + 10, 0.0, 0.0, 0.0, m) for i, m in enumerate(metrics)])


def test_steps_to_target_is_the_first_checkpoint_that_reaches_it():
    problem = tasks.load("blobs.py")
    assert trial.at_target(problem, curve(0.1, 0.8, 0.2)).step == 20
    assert trial.at_target(problem, curve(0.1, 0.79)) is None
    problem.direction, problem.target = "minimize", 0.5
    assert trial.at_target(problem, curve(0.9, 0.6, 0.5)).step == 30


def records(**metrics):
    """One tuning record per optimizer and (metric, loss) pair, at rising rates."""
    blank = dict(curve=[], test_loss=None, test_metric=None, steps_to_target=None, state_bytes=0)
    times = dict(ms_per_step=None, optimizer_ms_per_step=None)
    return [
        trial.Record(
            "tuning", name, i + 1.0, 0, metric is None, validation_loss=loss, validation_metric=metric, **blank, **times
        )
        for name, pairs in metrics.items()
        for i, (metric, loss) in enumerate(pairs)
    ]


def test_the_choice_prefers_metric_then_loss_then_the_lower_rate():
    problem = tasks.load("blobs.py")
    asked = options.Options("blobs.py", None, {}, {}, None, ("a", "b", "c"), 3, 1, 12, False, {})
    tuned = records(a=[(0.5, 1), (0.9, 2), (0.9, 1)], b=[(0.0, None), (0.1, 9), (0.1, 9)], c=[(None, None)] * 3)
    best = protocol.chosen(problem, asked, tuned)
    assert {name: trial.rate for name, trial in best.items()} == {"a": 3.0, "b": 2.0, "c": 1.0}
    problem.direction, problem.worst = "minimize", math.inf
    assert protocol.chosen(problem, asked, tuned)["a"].rate == 1.0


# ---- what is asked for wrongly ---------------------------------------------------------------------------------------


def test_an_error_in_the_users_model_keeps_its_type_and_names_the_trial(tmp_path):
    (tmp_path / "blobs.py").write_text(SMALL_TASK.replace("nn.Linear(4, 3)", "nn.Linear(5, 3)"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        small()
    assert caught.value.__notes__ == ["in tuning trial of sgd, rate 0.0316, seed 0"]


def test_batches_that_end_are_reported(tmp_path):
    own = (
        SMALL_TASK
        + "\n    def batches(self, seed):\n        yield from list(zip(range(5), super().batches(seed)))[:0]\n"
    )
    (tmp_path / "blobs.py").write_text(own)
    with pytest.raises(TaskError, match=r"batches\(\) ended after 0 batches; let it go on without end"):
        small()


def test_an_evaluation_without_its_metric_is_reported(tmp_path):
    (tmp_path / "blobs.py").write_text(
        SMALL_TASK + "\n    def evaluate(self, model, split):\n        return {'loss': 1.0}\n"
    )
    with pytest.raises(TaskError, match=r"returned \['loss'\], without 'accuracy'; add it"):
        small()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            "float('nan')",
            r"task blobs: score\(\) gave nan at a finite loss \(accuracy, validation split\); let it return",
        ),
        ("float('inf')", r"score\(\) gave inf at a finite loss"),
        ("torch.ones(3)", "task blobs: accuracy is a Tensor that is no single number; let score"),
        ("None", "accuracy is a NoneType that is no single number"),
    ],
)
def test_a_score_that_says_nothing_is_reported(tmp_path, score, message):
    own = f"\n    def score(self, outputs, targets):\n        return {score}\n"
    (tmp_path / "blobs.py").write_text(SMALL_TASK + own)
    with pytest.raises(TaskError, match=message):
        small()


def test_a_score_may_be_a_tensor_of_one_element(tmp_path, finished):
    own = "\n    def score(self, outputs, targets):\n        return (outputs.argmax(1) == targets).double().mean()\n"
    (tmp_path / "blobs.py").write_text(SMALL_TASK + own)
    assert without_times(small().results["summary"]) == without_times(finished.results["summary"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(optimizers=["adm"]), "adm.*did you mean 'adam'"),
        (dict(optimizers=["lbfgs"]), "no optimizer 'lbfgs'.*use torch.optim.LBFGS"),
        (dict(optimizers=["adam", "Adam"]), "'adam' is named twice"),
        (dict(optimizers=[]), "no optimizer named"),
        (dict(optimizers="adam"), "optimizers is the word 'adam'; give a list"),
        (dict(trials=0), "trials is 0; give 1 or more"),
        (dict(seeds=0), "seeds is 0; give 1 or more"),
        (dict(steps=1), "steps is 1; give 2 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(UsageError, match=message):
        small(**wrong)
    assert not (tmp_path / "run").exists()


def test_without_the_lab_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r"vl_convert is missing.*pip install 'descend\[lab\]'"):
        small()
    assert not (tmp_path / "run").exists()


def test_the_default_directory_is_named_by_task_and_options():
    one = small(out=None, seeds=1).directory
    assert one.parent.name == "runs"
    assert one.name.startswith("compare-blobs-")
    assert small(out=None, seeds=2).directory != one
    assert small(out=None, seeds=1).directory == one
