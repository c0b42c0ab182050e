"""Tasks: fixed splits, standardisation, seeds that decide everything, and the user's own file."""

import itertools
import math
import random
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from descend import tasks
from descend.restoring import evaluating
from descend.tasks import TaskError, TensorTask, seeded, standardize, stratified_split

EXAMPLE = Path(__file__).parent.parent / "examples" / "mytask.py"

OWN_FILE = """
import torch
from torch import nn
from descend.tasks import TensorTask, task

@task
class Mine(TensorTask):
    "Two blobs."
    name, target = "mine", 0.9

    def tensors(self):
        x = torch.arange(24.0).reshape(12, 2)
        y = torch.arange(12) % 2
        return {"train": (x, y), "validation": (x, y), "test": (x, y)}

    def network(self):
        return nn.Linear(2, 2)
"""


@pytest.fixture(scope="module")
def digits():
    return tasks.load("digits")


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_digits_splits_are_disjoint_complete_and_stratified(digits):
    from sklearn.datasets import load_digits

    labels = torch.tensor(load_digits().target)
    parts = stratified_split(labels, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1998)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1797))
    for name, chosen in parts.items():
        assert digits.sizes[name] == len(chosen)
        share = torch.bincount(labels[chosen]) / torch.bincount(labels)
        assert share.max() - share.min() < 0.01


def test_digits_splits_never_change():
    from sklearn.datasets import load_digits

    parts = stratified_split(
        torch.tensor(load_digits().target), {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1998
    )
    assert {name: chosen[:6].tolist() for name, chosen in parts.items()} == {
        "train": [1, 2, 3, 4, 7, 10],
        "validation": [0, 5, 6, 21, 23, 39],
        "test": [8, 9, 17, 18, 30, 36],
    }


def test_digits_are_standardised_with_the_training_part(digits):
    splits = digits.tensors()
    train = splits["train"][0].double()
    assert abs(train.mean().item()) < 1e-6
    assert abs(train.std().item() - 1) < 1e-6
    raw_range = [(inputs.min().item(), inputs.max().item()) for inputs, _ in splits.values()]
    assert len({tuple(round(x, 6) for x in pair) for pair in raw_range}) == 1  # 0 and 16 map alike in every part


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    seed=st.integers(0, 5),
    cut=st.floats(0.1, 0.8),
)
def test_stratified_split_is_a_partition_with_equal_shares(labels, seed, cut):
    classes = torch.tensor(labels)
    fractions = {"one": cut, "two": 1 - cut}
    parts = stratified_split(classes, fractions, seed)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(labels)))
    for label in set(labels):
        count = (classes == label).sum().item()
        assert abs((classes[parts["one"]] == label).sum().item() - cut * count) <= 0.5 + 1e-9
    again = stratified_split(classes, fractions, seed)
    assert all(torch.equal(parts[name], again[name]) for name in parts)


def test_stratified_split_refuses_fractions_that_do_not_add_up():
    with pytest.raises(ValueError, match="add up to 1"):
        stratified_split(torch.zeros(4, dtype=torch.int64), {"train": 0.5, "test": 0.4}, 0)


def test_standardize_per_channel_and_constant_channels_are_only_shifted():
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    test = torch.tensor([[5.0, 6.0]])
    done = standardize({"train": (train, torch.zeros(2)), "test": (test, torch.zeros(1))})
    deviation = math.sqrt(2)
    torch.testing.assert_close(done["train"][0], torch.tensor([[-1 / deviation, 0.0], [1 / deviation, 0.0]]))
    torch.testing.assert_close(done["test"][0], torch.tensor([[3 / deviation, 1.0]]))


def test_the_seed_alone_decides_model_and_batches(digits):
    def first_batches(seed):
        return [labels for _, labels in itertools.islice(digits.batches(seed), 40)]

    torch.manual_seed(1)
    model, batches = digits.model(5), first_batches(5)
    torch.manual_seed(2)
    assert same_weights(model, digits.model(5))
    assert all(torch.equal(a, b) for a, b in zip(batches, first_batches(5), strict=True))
    assert not same_weights(model, digits.model(6))
    assert not all(torch.equal(a, b) for a, b in zip(batches, first_batches(6), strict=True))


def test_an_epoch_sees_each_example_once_and_epochs_differ(digits):
    per_epoch = digits.sizes["train"] // digits.batch_size
    batches = list(itertools.islice(digits.batches(0), 2 * per_epoch))
    assert {len(labels) for _, labels in batches} == {digits.batch_size}
    flat = [torch.cat([x.flatten(1) for x, _ in batches[i * per_epoch :][:per_epoch]]) for i in (0, 1)]
    assert len(torch.unique(flat[0], dim=0)) == len(flat[0])
    assert not torch.equal(flat[0], flat[1])


def test_global_generators_are_left_alone(digits):
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    digits.model(0)
    next(digits.batches(0))
    with seeded(7):
        torch.rand(3), np.random.rand(3), random.random()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_evaluate_agrees_with_a_plain_computation_and_restores_the_mode(digits):
    model = digits.model(0).train()
    inputs, labels = digits.tensors()["validation"]
    outputs = model(inputs)
    scores = digits.evaluate(model, "validation")
    assert model.training
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, labels).item(), rel=1e-6)
    assert scores["accuracy"] == (outputs.argmax(1) == labels).sum().item() / len(labels)


def test_evaluate_switches_dropout_off(digits):
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    assert digits.evaluate(noisy, "test") == digits.evaluate(noisy, "test")


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(TaskError, match="unknown task 'digit'; did you mean 'digits'"):
        tasks.load("digit")
    with pytest.raises(TaskError, match=r"a file of your own.*digits"):
        tasks.load("qwertz")


def test_catalog_lists_each_task_with_one_line():
    for name, cls in tasks.catalog().items():
        assert cls.name == name
        assert cls.description
        assert "\n" not in cls.description


def test_the_example_file_is_a_task():
    example = tasks.load(str(EXAMPLE))
    assert example.name == "tumours"
    assert sum(example.sizes.values()) == 569
    model = example.model(0)
    assert f"{sum(p.numel() for p in model.parameters()):,} weights" in example.description
    before = example.loss(model, next(example.batches(0))).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in itertools.islice(example.batches(0), 60):
        optimizer.zero_grad()
        example.loss(model, batch).backward()
        optimizer.step()
    assert example.loss(model, next(example.batches(0))).item() < before / 2


def test_what_help_shows_is_a_task(tmp_path):
    shown = textwrap.dedent(tasks.__doc__[tasks.__doc__.index("    import torch") : tasks.__doc__.index("Every file")])
    own = tasks.load(write(tmp_path, shown))
    assert sum(own.sizes.values()) == 500
    assert own.evaluate(own.model(0), "test").keys() == {"loss", "accuracy"}


def write(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return str(path)


def test_own_file_and_its_defaults(tmp_path):
    own = tasks.load(write(tmp_path, OWN_FILE))
    assert (own.title, own.description, own.metric, own.direction) == ("mine", "Two blobs.", "accuracy", "maximize")


def test_an_edit_within_the_same_second_is_seen(tmp_path):
    assert tasks.load(write(tmp_path, OWN_FILE)).target == 0.9
    assert tasks.load(write(tmp_path, OWN_FILE.replace("0.9", "0.8"))).target == 0.8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@task", "", "no task in this file; put @descend.tasks.task above your class"),
        (", target", ", goal", "class Mine lacks an attribute `target`; add it$"),
        ("def network", "def net", "network"),
        ("import torch\n", "import torch\n1 / 0\n", "running the file failed with ZeroDivisionError"),
        ("from torch import nn", "import no_such_package", "no_such_package"),
        ("(TensorTask)", "", "class Mine lacks an attribute `title`.*derive the class from descend.tasks.TensorTask"),
        ('"mine", 0.9', '"mine", 0.9\n    direction = "down"', "direction is 'down'; write"),
        ('"mine", 0.9', '"mine", 0.9\n    direction = "minimize"', "worst .0.0. is not worse than target"),
        ('"mine", 0.9', '"mine", 0.9\n    steps = 2.5', "steps is 2.5; give a whole number"),
        ('"mine", 0.9', '"mine", 0.9\n    metric = "loss"', "metric is 'loss', under which .* choose another name"),
        ('"mine", 0.9', '"mine", 0.9\n    title = 5', "title is 5; give a text"),
        ('"mine", 0.9', '"mine", "0.9"', "target is '0.9'; give a number"),
        ('"mine", 0.9', '"mine", 0.9\n    worst = None', "worst is None; give a number"),
        ('"mine", 0.9', '"mine", float("nan")', "target is nan; give the validation accuracy to reach"),
        (
            '"Two blobs."',
            '"Two blobs."\n    def __init__(self, size): pass',
            "cannot be made without more arguments: missing",
        ),
        ("@task", "@task\nclass Other(TensorTask): pass\n@task", "2 tasks in this file"),
    ],
)
def test_errors_of_an_own_file_name_file_and_remedy(tmp_path, old, new, message):
    assert old in OWN_FILE
    path = write(tmp_path, OWN_FILE.replace(old, new, 1))
    with pytest.raises(TaskError, match=message) as caught:
        tasks.load(path)
    assert path in str(caught.value)


def test_a_model_leaves_evaluation_even_by_an_error():
    model = torch.nn.Linear(2, 2)

    def fails():
        with evaluating(model):
            assert (model.training, torch.is_grad_enabled()) == (False, False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert (model.training, torch.is_grad_enabled()) == (True, True)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(TaskError, match=r"nothing.py: no such file.*help\(descend.tasks\)"):
        tasks.load(str(tmp_path / "nothing.py"))
    with pytest.raises(TaskError, match="cannot be read"):
        tasks.load(str(tmp_path) + "/")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"train": (torch.zeros(2, 1), torch.zeros(2))}, "no 'validation'"),
        ({"train": (torch.zeros(2, 1), torch.zeros(3))}, "2 inputs and 3 targets"),
        ({"train": (torch.zeros(0, 1), torch.zeros(0))}, "at least one"),
    ],
)
def test_incomplete_tensors_are_refused(tensors, message):
    class Incomplete(TensorTask):
        name, target = "incomplete", 0.5

        def tensors(self):
            return tensors

        def network(self):
            return nn.Linear(1, 1)

    with pytest.raises(TaskError, match=message):
        Incomplete().sizes  # noqa: B018


def test_a_task_may_do_without_a_target(tmp_path):
    import descend

    path = write(tmp_path, OWN_FILE.replace('"mine", 0.9', '"mine", None', 1))
    found = descend.compare(path, ["sgd"], trials=1, seeds=1, steps=4, workers=1, out=tmp_path / "run").results
    assert found["task"]["target"] is None
    assert found["summary"][0]["steps_to_target"] is None
