"""Scores, temperatures, diversity and bootstrap of predicted probabilities, against plain loops, SciPy and by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from descend.ensembles import bootstrap, scores
from descend.ensembles.bootstrap import Draws, interval, over_seeds
from descend.ensembles.calibration import fit_temperature, tempered
from descend.ensembles.diversity import diversity

INF = math.inf
KINDS = ("width", "adaptive", "classwise")


def predictions(seed=0, n=200, classes=5, scale=2.0):
    """Log-probabilities, and targets drawn from them: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logs = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)).log_softmax(1)
    return logs, torch.multinomial(logs.exp(), 1, generator=generator).squeeze(1)


def logs_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


# the scores


def test_nll_is_scikit_learns_and_brier_the_squared_distance_from_one_hot():
    from sklearn.metrics import log_loss

    logs, targets = predictions()
    expected = log_loss(targets.numpy(), logs.exp().numpy(), labels=range(5))
    assert scores.nll(logs, targets).mean().item() == pytest.approx(expected, abs=1e-12)
    expected = ((np.exp(logs.numpy()) - np.eye(5)[targets.numpy()]) ** 2).sum(1)
    np.testing.assert_allclose(scores.brier(logs, targets), expected, atol=1e-12)


def test_sure_predictions():
    logs, targets = logs_of([1, 0], [1, 0]), torch.tensor([0, 1])
    assert scores.nll(logs, targets).tolist() == [0, INF]
    assert scores.brier(logs, targets).tolist() == [0, 2]
    assert scores.correct(logs, targets).tolist() == [True, False]
    assert [scores.calibration_error(logs, targets, kind=kind) for kind in KINDS] == [0.5] * 3


def test_of_tied_classes_the_lowest_is_chosen():
    assert scores.correct(logs_of(*[[0.2, 0.4, 0.4]] * 2), torch.tensor([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_types_are_computed_in_float64(dtype):
    logs, targets = predictions()
    small = logs.to(dtype)
    assert scores.nll(small, targets).dtype == scores.brier(small, targets).dtype == torch.float64
    assert scores.score(small, targets) == scores.score(small.double(), targets)


def test_score_is_the_mean_of_each():
    logs, targets = predictions()
    found = scores.score(logs, targets, bins=7)
    assert dataclasses.astuple(found) == pytest.approx(
        [
            *(f(logs, targets).double().mean().item() for f in (scores.correct, scores.nll, scores.brier)),
            *(scores.calibration_error(logs, targets, bins=7, kind=kind) for kind in KINDS),
        ]
    )


def test_calibration_errors_by_hand():
    # tops 0.6 wrong, 0.7 right, 0.8 right, 0.9 wrong; two bins of width: all in the upper one
    logs, targets = logs_of([0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]), torch.tensor([1, 0, 0, 1])
    assert scores.calibration_error(logs, targets, bins=2) == pytest.approx(0.75 - 0.5)
    # of equal mass {0.6, 0.7} and {0.8, 0.9}: |0.65 - 0.5| and |0.85 - 0.5|
    assert scores.calibration_error(logs, targets, bins=2, kind="adaptive") == pytest.approx((0.15 + 0.35) / 2)
    # class 0 as above, and class 1: 0.4, 0.3, 0.2, 0.1 in the lower bin, hits 1, 0, 0, 1
    assert scores.calibration_error(logs, targets, bins=2, kind="classwise") == pytest.approx(0.25)


def test_a_bin_holds_its_upper_edge():
    probabilities = torch.tensor([0, 0.1, 0.2, 0.2 + 1e-12, 0.8, 1, 1 + 1e-9], dtype=torch.float64)
    assert scores.width_bins(probabilities, 5).tolist() == [0, 0, 0, 1, 3, 4, 4]


def naive_error(probabilities, hits, bins):
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(probabilities) if b / bins < p <= (b + 1) / bins or (b == 0 and p == 0)]
        if inside:
            gap = np.mean([probabilities[i] for i in inside]) - np.mean([hits[i] for i in inside])
            total += len(inside) / len(hits) * abs(gap)
    return total


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 4), st.integers(1, 20))
def test_calibration_errors_are_those_of_plain_loops(seed, n, classes, bins):
    logs, targets = predictions(seed, n, classes)
    top, classes_chosen = logs.exp().max(1)
    hits = (classes_chosen == targets).tolist()
    found = {kind: scores.calibration_error(logs, targets, bins=bins, kind=kind) for kind in KINDS}
    assert found["width"] == pytest.approx(naive_error(top.tolist(), hits, bins), abs=1e-12)
    per_class = [naive_error(logs[:, k].exp().tolist(), (targets == k).tolist(), bins) for k in range(classes)]
    assert found["classwise"] == pytest.approx(np.mean(per_class), abs=1e-12)
    ranked = sorted(zip(top.tolist(), hits, strict=True))
    parts = [ranked[b * n // bins : (b + 1) * n // bins] for b in range(bins)]
    assert found["adaptive"] == pytest.approx(sum(abs(sum(p - h for p, h in part)) for part in parts) / n, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_tied_examples_does_not_matter(kind):
    logs, targets = logs_of(*[[0.7, 0.3]] * 8), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    for order in (torch.arange(8), torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])):
        assert scores.calibration_error(logs, targets[order], bins=4, kind=kind) == pytest.approx(0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_predictions_have_no_error_in_the_limit(kind):
    few, many = (scores.calibration_error(*predictions(1, n), kind=kind) for n in (100, 100_000))
    assert many < 0.01 < few


# the temperature


@pytest.mark.parametrize("true", [0.3, 1, 2.5, 20])
def test_the_temperature_of_the_labels_is_found(true):
    logs, targets = predictions(2, n=20_000, scale=3)  # calibrated
    assert fit_temperature(tempered(logs, 1 / true), targets) == pytest.approx(true, rel=0.03)


@given(st.integers(0, 10**6), st.floats(0.05, 50))
def test_no_temperature_of_a_grid_is_better(seed, scale):
    logs, targets = predictions(seed, n=20, classes=3, scale=scale)
    targets = targets.roll(seed % 2)
    fitted, *grid = (
        scores.nll(tempered(logs, t), targets).mean().item()
        for t in (fit_temperature(logs, targets), *np.geomspace(1 / 100, 100, 200))
    )
    assert fitted <= min(grid) * (1 + 1e-12)


def test_data_without_a_finite_optimum_give_the_bound():
    right = torch.tensor([0, 1, 2])
    for gap in (1e-3, 1, 1e4):
        logs = (gap * torch.eye(3, dtype=torch.float64)).log_softmax(1)
        assert fit_temperature(logs, right) == pytest.approx(1 / 100)
        assert fit_temperature(logs, right.roll(1)) == pytest.approx(100)


def test_probabilities_of_zero_do_not_disturb_the_temperature():
    logs, targets = predictions(3)
    never = torch.cat([logs, torch.full((len(logs), 1), -INF)], dim=1)
    expected = fit_temperature(logs, targets)
    assert fit_temperature(never, targets) == pytest.approx(expected)
    impossible = torch.cat([never, never[:1]]), torch.cat([targets, torch.tensor([5])])
    assert fit_temperature(*impossible) == pytest.approx(expected)
    assert torch.isneginf(tempered(never, 3)[:, 5]).all()


def test_where_all_temperatures_are_alike_it_is_one():
    assert fit_temperature(logs_of(*[[1 / 3] * 3] * 2), torch.tensor([0, 1])) == 1
    assert fit_temperature(logs_of([1, 0], [1, 0]), torch.tensor([0, 1])) == 1


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_a_temperature_changes_no_choice(seed, temperature):
    logs, targets = predictions(seed, n=20)
    changed = tempered(logs, temperature)
    assert torch.allclose(changed.exp().sum(1), torch.ones(20, dtype=torch.float64))
    assert torch.equal(scores.correct(changed, targets), scores.correct(logs, targets))
    assert tempered(logs.float(), temperature).dtype == torch.float32


# diversity


def test_identical_members_have_no_diversity():
    logs, targets = predictions(4)
    for members in (1, 3):
        found = diversity([logs] * members, targets)
        assert found.members == members
        assert found.disagreement == 0
        assert found.pairwise == [[0.0] * members] * members
        assert (found.mutual_information, found.ambiguity) == pytest.approx((0, 0), abs=1e-12)
        assert found.error_correlation == (None if members == 1 else pytest.approx(1))
        assert found.mean_accuracy == pytest.approx(found.ensemble_accuracy)


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_diversity_against_numpy_and_scipy(seed, members):
    logs = [predictions(seed + k, n=15, classes=3)[0] for k in range(members)]
    targets = predictions(seed, n=15, classes=3)[1]
    found = diversity(iter(logs), targets)
    probabilities = np.stack([member.exp().numpy() for member in logs])
    mean, choices, right = probabilities.mean(0), probabilities.argmax(2), targets.numpy()
    pairs = [(i, j) for i in range(members) for j in range(i)]
    assert np.array_equal(found.pairwise, np.transpose(found.pairwise))
    assert found.disagreement == pytest.approx(np.mean([(choices[i] != choices[j]).mean() for i, j in pairs]))
    information = stats.entropy(mean, axis=1).mean() - stats.entropy(probabilities, axis=2).mean()
    assert found.mutual_information == pytest.approx(information, abs=1e-12)
    nlls = -np.log(probabilities[:, range(15), right])
    ambiguity = nlls.mean() + np.log(mean[range(15), right]).mean()
    assert found.ambiguity == pytest.approx(ambiguity, abs=1e-12)
    assert found.ambiguity >= 0
    errors = choices != right
    defined = [(i, j) for i, j in pairs if 0 < errors[i].mean() < 1 and 0 < errors[j].mean() < 1]
    correlations = [stats.pearsonr(errors[i], errors[j]).statistic for i, j in defined]
    assert found.error_correlation == (pytest.approx(np.mean(correlations), abs=1e-12) if correlations else None)
    assert found.mean_accuracy == pytest.approx(1 - errors.mean())
    assert found.ensemble_accuracy == (mean.argmax(1) == right).mean()


def test_diversity_by_hand():
    first, second = logs_of(*[[0.9, 0.1]] * 4), logs_of([0.8, 0.2], [0.2, 0.8], [0.2, 0.8], [0.8, 0.2])
    found = diversity([first, second], torch.tensor([0, 1, 0, 1]))
    assert (found.disagreement, found.pairwise) == (0.5, [[0, 0.5], [0.5, 0]])
    assert found.error_correlation == 0  # errors 0101 and 0011
    assert (found.mean_accuracy, found.ensemble_accuracy) == (0.5, 0.5)
    assert diversity([first, second], torch.tensor([0, 0, 0, 0])).error_correlation is None  # the first has no errors


def test_tiny_probabilities_keep_the_ambiguity_finite():
    logs, targets = torch.tensor([[0.0, -2000.0]]), torch.tensor([1])
    assert diversity([logs, logs], targets).ambiguity == pytest.approx(0, abs=1e-9)
    impossible, fair = logs_of([1, 0]), logs_of([0.5, 0.5])
    assert diversity([impossible, impossible], targets).ambiguity == 0
    assert diversity([impossible, fair], targets).ambiguity == INF


def test_one_member_at_a_time_is_held():
    import weakref

    logs, targets = predictions(5)
    held = []

    def members():
        for _ in range(3):
            assert all(reference() is None for reference in held)
            member = logs.clone()
            held.append(weakref.ref(member))
            yield member
            del member

    assert diversity(members(), targets).members == 3


# the bootstrap


def results(seeds=3, examples=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    confidences = torch.rand(seeds, examples, generator=generator, dtype=torch.float64)
    return confidences, torch.rand(seeds, examples, generator=generator) < confidences


def resampled_mean(values, count, seed=0, block=1):
    """Replicates of the mean of (seeds, examples) over both."""
    return over_seeds(Draws(values.shape[1], count, seed, block=block).means(values), seed)


def errors_of(confidences, correct, count, block=1):
    """Replicates of the calibration error of each seed."""
    every = [
        scores.Binned(scores.width_bins(p, 15), p - hits.double(), 15)
        for p, hits in zip(confidences, correct, strict=True)
    ]
    return Draws(confidences.shape[1], count, block=block).calibration_errors(every)


@pytest.mark.parametrize("chunk", [bootstrap._CHUNK, 100])
@pytest.mark.parametrize("kept", [bootstrap._KEPT, 0])
def test_replicates_are_those_of_repeated_indices(chunk, kept, monkeypatch):
    monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
    monkeypatch.setattr(bootstrap, "_KEPT", kept)
    confidences, correct = results(3)
    draws = Draws(40, count=7)
    means, errors = [], []
    for counts in torch.cat(list(draws.weights())).long().numpy():
        columns = np.repeat(range(40), counts)
        assert len(columns) == 40
        p, hits = confidences[:, columns].numpy(), correct[:, columns].numpy()
        means.append(p.mean(1))
        errors.append([naive_error(p[k], hits[k], 15) for k in range(3)])
    np.testing.assert_allclose(draws.means(confidences).T, means, atol=1e-12)
    np.testing.assert_allclose(errors_of(confidences, correct, 7).T, errors, atol=1e-12)


def test_drawn_seeds_weigh_what_they_gave():
    replicates = torch.tensor([[1.0, 1.0, 1.0], [10.0, 10.0, 10.0]]).repeat(1, 400)
    found = over_seeds(replicates)
    assert set(found.tolist()) == {1.0, 5.5, 10.0}
    assert found.mean().item() == pytest.approx(5.5, abs=0.4)
    assert torch.equal(over_seeds(replicates[:1]), replicates[0].double())


@pytest.mark.parametrize("kind", ["width", "adaptive", "classwise"])
def test_binnings_weighed_alike_give_the_error(kind):
    logs, targets = predictions(11)
    every = list(scores.binned(logs, targets, kind=kind))
    error = scores.calibration_error(logs, targets, kind=kind)
    spread = Draws(len(targets), 400).calibration_errors(every).mean(0)
    alike = [torch.bincount(one.places, one.gaps, one.bins).abs().sum() / len(targets) for one in every]
    assert sum(alike).item() / len(alike) == pytest.approx(error)
    assert spread.min().item() < spread.mean().item() < spread.max().item()
    assert len(every) == (logs.shape[1] if kind == "classwise" else 1)


def test_the_spread_over_examples_is_the_standard_error():
    values = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    expected = values.std(correction=0).item() / math.sqrt(500)
    assert resampled_mean(values, 4000).std().item() == pytest.approx(expected, rel=0.05)


def test_the_spread_over_both_is_the_analytic_one():
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values += torch.tensor([[0.0], [0.2], [0.4], [0.9]])
    # weights u = counts / n of n multinomial draws: E[u u'] = (1 - 1/n) m m' + I / n^2 with m = 1/n everywhere
    seeds, examples = ((1 - 1 / n) * torch.full((n, n), n**-2.0) + torch.eye(n) / n**2 for n in (4, 50))
    square = (values * (seeds.double() @ values @ examples.double())).sum()
    expected = (square - values.mean() ** 2).sqrt().item()
    assert resampled_mean(values, 20_000).std().item() == pytest.approx(expected, rel=0.03)


def test_intervals_cover_the_true_mean():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for trial in range(200):
        values = torch.randn(1, 100, generator=generator)
        low, high = interval(resampled_mean(values, 500, trial), 0.9)
        covered += low < 0 < high
    assert 0.83 <= covered / 200 <= 0.96


def test_blocks_are_drawn_together():
    """Ten copies of each number are no more evidence than one; a last block may be short."""
    values = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double().abs() / 4
    copies, right = values.repeat_interleave(10, 1), values > 0.1
    assert torch.allclose(resampled_mean(values, 300), resampled_mean(copies, 300, block=10))
    whole = errors_of(copies, right.repeat_interleave(10, 1), 300, block=10)
    assert torch.allclose(errors_of(values, right, 300), whole)
    short = Draws(7, 200, block=3)
    [blocks] = short.weights()
    sums, sizes = torch.tensor([3.0, 12.0, 6.0]).double(), torch.tensor([3.0, 3.0, 1.0]).double()
    assert torch.allclose(short.means(torch.arange(7.0)[None])[0], (blocks @ sums) / (blocks @ sizes))


def test_replicates_are_paired_and_repeat():
    first, second = results(seed=1)[0], results(seed=2)[0]
    draws = Draws(40, 50)
    torch.testing.assert_close(draws.means(first - second), draws.means(first) - draws.means(second))
    assert torch.equal(draws.means(first), Draws(40, 50).means(first))
    assert not torch.equal(draws.means(first), Draws(40, 50, generator_seed=1).means(first))


def test_the_interval_is_that_of_percentiles():
    assert interval(torch.arange(101), 0.9) == pytest.approx((5, 95))
    assert interval(torch.tensor([0.5])) == (0.5, 0.5)


# wrong inputs

LOGS, TARGETS = predictions(7, n=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scores.nll(LOGS, TARGETS.int()), "targets: need class indices of type int64"),
        (lambda: scores.nll(LOGS, TARGETS[:3]), r"targets: need one class for each of 4 rows"),
        (lambda: scores.brier(LOGS, TARGETS + 5), "targets: need classes from 0 to 4"),
        (lambda: scores.correct(LOGS.long(), TARGETS), "log_probabilities: need a floating-point type"),
        (lambda: scores.score(LOGS[0], TARGETS), "log_probabilities: need shape"),
        (lambda: scores.score(LOGS.exp(), TARGETS), "do not sum to 1"),
        (lambda: scores.score(LOGS * math.nan, TARGETS), "holds NaN"),
        (lambda: scores.calibration_error(LOGS, TARGETS, bins=0), "bins: need 1 or more"),
        (lambda: scores.calibration_error(LOGS, TARGETS, kind="mass"), 'kind: need "width"'),
        (lambda: fit_temperature(LOGS + 1, TARGETS), "do not sum to 1"),
        *((lambda t=t: tempered(LOGS, t), "temperature: need a finite number above 0") for t in (0, -1, INF, math.nan)),
        (lambda: diversity([], TARGETS), "members: need at least one"),
        (lambda: diversity([LOGS, predictions(n=4, classes=6)[0]], TARGETS), "members: need log-probabilities of one"),
        (lambda: Draws(0), "examples: need 1 or more"),
        (lambda: Draws(4, block=0), "block: need 1 or more"),
        (lambda: Draws(4).means(torch.zeros(4)), r"values: need shape \(k, 4\)"),
        (lambda: Draws(1).means(torch.tensor([[INF]])), "values: need finite"),
        (lambda: Draws(3).calibration_errors(list(scores.binned(LOGS, TARGETS))), r"gaps: need shape \(k, 3\)"),
        (lambda: over_seeds(torch.zeros(4)), "replicates: need shape"),
        (lambda: interval(torch.zeros(0)), "replicates: need shape"),
        (lambda: interval(torch.tensor([math.nan])), "replicates: need numbers"),
        (lambda: interval(torch.zeros(2), 95), "confidence: need a number"),
    ],
)
def test_a_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
