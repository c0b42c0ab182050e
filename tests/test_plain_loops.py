"""Every task is trained to the same losses by a plain loop with torch's own optimizer."""

import itertools
import math

import pytest
import torch

import descend
from descend import tasks
from descend.experiments import search_space
from descend.experiments.loop import train
from task_data import write_all

STEPS, SEED = 50, 3
TASKS = [(name, {}) for name in tasks.catalog()] + [("mnist", {"model": "mlp"})]
OPTIMIZERS = {
    "AdamW": (descend.AdamW, torch.optim.AdamW, {"weight_decay": 0.01}, 1e-3),
    "SGD": (descend.SGD, torch.optim.SGD, {"momentum": 0.9}, 0.05),
}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_all(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESCEND_DATA", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield


@pytest.fixture(params=TASKS, ids=lambda one: "-".join([one[0], *one[1].values()]))
def task(request):
    name, settings = request.param
    return tasks.load(name, **settings)


def doubled(batch):
    """The batch with its floating-point tensors in float64."""
    return tuple(part.double() if part.is_floating_point() else part for part in batch)


def rate(step, peak):
    """Warm-up over a tenth of the steps, then half a cosine to 0, written without our schedules."""
    rising = STEPS // 10
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (STEPS - rising)))


def plain_losses(task, cls, options, peak):
    """The losses of a loop in float64 that knows nothing of us but model, batches and loss."""
    model = task.model(SEED).double()
    optimizer = cls(model.parameters(), lr=peak, **options)
    model.train()
    losses = []
    for step, batch in enumerate(itertools.islice(task.batches(SEED), STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, peak)
        optimizer.zero_grad()
        loss = task.loss(model, doubled(batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class InDouble:
    """A task whose batches are in float64, which notes its losses."""

    def __init__(self, task):
        self._task, self.losses = task, []

    def __getattr__(self, name):
        return getattr(self._task, name)

    def batches(self, seed):
        return map(doubled, self._task.batches(seed))

    def loss(self, model, batch):
        loss = self._task.loss(model, batch)
        self.losses.append(loss.item())
        return loss

    def evaluate(self, model, split):
        return {"loss": 0.0, self._task.metric: 0.0}  # an evaluation in float32 data would not fit the model


SLOW = ("char-lm", "cifar10")  # ten seconds and more


def runs():
    for one in TASKS:
        for name in OPTIMIZERS:
            is_quick = name == "AdamW" and one[0] not in SLOW
            yield pytest.param(one, name, marks=[] if is_quick else [pytest.mark.long], id="-".join([one[0], name]))


@pytest.mark.parametrize(("task", "name"), list(runs()), indirect=["task"])
def test_losses_in_float64_are_those_of_a_plain_loop_with_torchs_optimizer(task, name):
    ours, theirs, options, peak = OPTIMIZERS[name]
    expected = plain_losses(task, theirs, options, peak)
    noted = InDouble(task)
    model = task.model(SEED).double()
    optimizer = ours(model.parameters(), lr=peak * search_space.schedule(STEPS), **options)
    train(noted, model, optimizer, seed=SEED, steps=STEPS)
    assert len(noted.losses) == STEPS
    assert max(abs(ours - theirs) for ours, theirs in zip(noted.losses, expected, strict=True)) < 1e-8
    assert sum(expected[-5:]) < sum(expected[:5])  # something was learned, so that the agreement says something


def test_the_first_loss_in_float32_is_that_in_float64(task):
    batch = next(task.batches(SEED))
    single = task.loss(task.model(SEED), batch).item()
    double = task.loss(task.model(SEED).double(), doubled(batch)).item()
    assert single == pytest.approx(double, rel=1e-6)


def test_evaluation_repeats_itself_and_disturbs_nothing(task):
    model = task.model(SEED)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for split in ("validation", "test"):
        found = task.evaluate(model, split)
        assert task.evaluate(model, split) == found
        assert {"loss", task.metric} <= set(found)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_seed_decides_weights_and_batches_and_nothing_outside_is_disturbed(task):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, same, other = (task.model(seed) for seed in (1, 1, 2))
    first, again, different = (list(itertools.islice(task.batches(seed), 3)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)

    def equal(models):
        return all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))

    def alike(batches):
        pairs = (zip(*both, strict=True) for both in zip(*batches, strict=True))
        return all(a.shape == b.shape and torch.equal(a, b) for pair in pairs for a, b in pair)

    assert equal((one, same))
    assert not equal((one, other))
    assert alike((first, again))
    assert not alike((first, different))
