"""Averages of weights against closed forms, numpy and torch, also where torch errs."""

import copy
import io
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import swa_utils

from descend.averaging import AveragedModel, average, greedy_soup


def net(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4))


def data(count=50, dtype=torch.float32):
    return (torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3 + 2).cumsum(0) / 10


def same(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


# average


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6))
def test_the_mean_is_that_of_numpy(pairs):
    weights, values = zip(*pairs, strict=True)
    if not sum(weights):
        weights = [weight + 1 for weight in weights]
    states = [{"w": torch.tensor([value])} for value in values]
    expected = np.average(np.array(values, dtype=np.float64), weights=np.array(weights))
    scale = max(map(abs, values))
    assert average(states, weights)["w"].item() == pytest.approx(expected, rel=1e-6, abs=1e-12 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.complex64])
def test_states_of_low_precision_are_rounded_once(dtype):
    states = [{"w": torch.full((2,), 1 + k / 128).to(dtype)} for k in range(128)]
    exact = torch.stack([state["w"].to(torch.complex128) for state in states]).mean(0)
    found = average(iter(states))["w"]
    assert found.dtype == dtype
    assert torch.equal(found, (exact if dtype.is_complex else exact.real).to(dtype))


def test_the_mean_of_equal_states_is_that_state_and_no_alias():
    state = net().state_dict()
    mean = average([state] * 3)
    assert same(mean, state)
    mean["2.weight"].add_(1)
    mean["0.num_batches_tracked"].add_(1)
    assert not torch.equal(mean["2.weight"], state["2.weight"])
    assert state["0.num_batches_tracked"] == 0


def test_counts_are_those_of_the_last_and_a_state_of_weight_0_is_left_out():
    states = [{"w": torch.tensor(value), "n": torch.tensor(n)} for value, n in ((1.0, 5), (math.nan, 6), (3.0, 7))]
    assert average(states, [1, 0, 3]) == {"w": torch.tensor(2.5), "n": torch.tensor(7)}


class Held(dict):
    """A dict that can be referred to weakly."""


def test_one_state_is_in_memory_at_a_time():
    alive = weakref.WeakSet()

    def read():
        for k in range(5):
            assert not alive
            state = Held(w=torch.tensor(float(k)))
            alive.add(ref := _Ref(state))
            state.ref = ref
            del ref
            yield state
            del state

    assert average(read(), [1] * 5)["w"] == 2


class _Ref:
    def __init__(self, state):
        self.state = weakref.ref(state)


ONE = {"w": torch.zeros(2)}


@pytest.mark.parametrize(
    ("states", "weights", "message"),
    [
        ([], None, "states is empty"),
        (ONE, None, "states is one state"),
        ([nn.Linear(1, 1)], None, "give what model.state_dict"),
        ([ONE, {"v": torch.zeros(2)}], None, "'w'"),
        ([ONE, {**ONE, "v": torch.zeros(2)}], None, "'v'"),
        ([ONE, {"w": torch.zeros(3)}], None, r"'w' is of shape \(3,\)"),
        ([ONE, ONE], [1], "give one per state"),
        (iter([ONE, ONE]), [1], "there are more states"),
        (iter([ONE]), [1, 1], "for 1 states"),
        ([ONE, ONE], [1, -1], "from 0 up"),
        ([ONE, ONE], [0, 0], "above 0"),
        ([ONE, ONE], [1, math.nan], "finite"),
    ],
)
def test_wrong_states_and_weights(states, weights, message):
    with pytest.raises((TypeError, ValueError), match=message):
        average(states, weights)


# the average along a run


def walk(model, averaged, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for tensor in [*model.parameters(), model[0].running_mean]:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
        averaged.update_parameters(model)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_in_float32_it_is_torchs(decay):
    rule = None if decay is None else swa_utils.get_ema_multi_avg_fn(decay)
    model, other = net(), net()
    ours, theirs = AveragedModel(model, decay=decay), swa_utils.AveragedModel(other, multi_avg_fn=rule)
    walk(model, ours, 20)
    walk(other, theirs, 20)
    if decay is None:  # which torch computes by another formula on the CPU
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-6)
    else:
        assert same(ours.state_dict(), theirs.state_dict())
        assert torch.equal(ours.eval()(data()), theirs.eval()(data()))
    assert torch.equal(ours.module[0].running_mean, model[0].running_mean)


def test_the_equal_average_in_float64():
    model, theirs = nn.Linear(1, 1, bias=False).double(), [torch.zeros(1, dtype=torch.float64)]
    averaged = AveragedModel(model)
    for k in range(3):
        nn.init.constant_(model.weight, k * k)
        averaged.update_parameters(model)
        swa_utils.get_swa_multi_avg_fn()(theirs, [model.weight.detach()[0]], torch.tensor(k))
    assert averaged.module.weight.item() == pytest.approx(5 / 3, rel=1e-15)
    assert theirs[0].item() == 1.6666667014360428


@pytest.mark.parametrize(("dtype", "torchs"), [(torch.bfloat16, 1.0), (torch.float16, 1.01171875)])
def test_averages_of_low_precision_move(dtype, torchs):
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    ours = AveragedModel(model, decay=0.999)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.999))
    for step in range(5001):
        if step == 1:
            nn.init.constant_(model.weight, 1.5)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert theirs.module.weight.item() == torchs
    expected = 1.5 - 0.5 * 0.999**5000
    assert ours.float32.weight.item() == pytest.approx(expected, abs=1e-4)
    assert ours.module.weight.item() == ours.float32.weight.to(dtype).item() == pytest.approx(expected, rel=0.004)


def test_the_equal_average_in_bfloat16():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    ours, theirs = AveragedModel(model), swa_utils.AveragedModel(model)
    for k in range(1000):
        nn.init.constant_(model.weight, 1 + k / 1000)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert theirs.module.weight.item() == 1
    assert ours.module.weight.item() == 1.5


def test_warmup_is_that_of_tensorflow():
    model = nn.Linear(1, 1, bias=False).double()
    averaged, expected = AveragedModel(model, decay=0.5, warmup=True), 0.0
    for t in range(30):
        nn.init.constant_(model.weight, t * t)
        decay = min(0.5, (1 + t) / (10 + t)) if t else 0
        expected = decay * expected + (1 - decay) * t * t
        averaged.update_parameters(model)
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"decay": 0.99}, {"decay": 0.9, "warmup": True}])
def test_a_resumed_average_is_the_same_bit_for_bit(dtype, options):
    model = net().to(dtype)
    whole = AveragedModel(model, **options)
    walk(model, whole, 5)
    file = io.BytesIO()
    torch.save((model.state_dict(), whole.state_dict()), file)
    file.seek(0)
    model_state, state = torch.load(file)
    second = net().to(dtype)
    resumed = AveragedModel(second, **options)
    second.load_state_dict(model_state)
    resumed.load_state_dict(state)
    walk(model, whole, 5, seed=1)
    walk(second, resumed, 5, seed=1)
    assert same(whole.state_dict(), resumed.state_dict())
    assert copy.deepcopy(whole).state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AveragedModel(net(), decay=1.0), "below 1"),
        (lambda: AveragedModel(net(), decay=math.nan), "below 1"),
        (lambda: AveragedModel(net(), decay="0.9"), "give a number"),
        (lambda: AveragedModel(net(), warmup=True), "decay=0.999"),
        (lambda: AveragedModel(net().parameters()), "give a torch module"),
        (lambda: AveragedModel(net()).update_parameters(net()[:1]), "'2.weight'"),
    ],
)
def test_wrong_averaged_models(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# soups


class Lazy:
    """States that are read when asked for, and how often they were."""

    def __init__(self, values):
        self.values, self.reads = values, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, place):
        self.reads.append(place)
        return {"w": torch.tensor([self.values[place]]), "n": torch.tensor(place)}


def test_a_soup_by_hand():
    """The loss is |w|: 1 is best, the mean with -2 is -0.5, those with 3 and -4 are worse, and NaN is never taken."""
    states = Lazy([3.0, -2.0, 1.0, math.nan, -4.0])
    soup = greedy_soup(states, lambda state: abs(state["w"].item()), mode="min")
    assert soup.chosen == (2, 1)
    assert soup.score == 0.5
    assert soup.state == {"w": torch.tensor([-0.5]), "n": torch.tensor(1)}
    assert soup.scores[:3] == (3, 2, 1)
    assert math.isnan(soup.scores[3])
    assert states.reads == [0, 1, 2, 3, 4, 2, 1, 0, 4]
    other = greedy_soup(Lazy([3.0, -2.0, 1.0]), lambda state: -abs(state["w"]))
    assert (other.chosen, other.score) == ((2, 1), -0.5)
    alike = greedy_soup(Lazy([1.0, 1.0]), lambda state: state["w"].item())
    assert alike.chosen == (0, 1)  # no worse is enough


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6))
def test_a_soup_is_never_worse_than_its_best_and_is_the_average_of_its_ingredients(values):
    states = Lazy(values)
    soup = greedy_soup(states, lambda state: (state["w"].item() - 1) ** 2, mode="min")
    assert soup.score <= min(soup.scores)
    assert same(soup.state, average([states[place] for place in soup.chosen]))


def test_wrong_soups():
    with pytest.raises(ValueError, match="states is empty"):
        greedy_soup([], float)
    with pytest.raises(ValueError, match="NaN for every state"):
        greedy_soup([ONE], lambda state: math.nan)
    with pytest.raises(ValueError, match="'max'"):
        greedy_soup([ONE], lambda state: 0.0, mode="best")
    with pytest.raises(ValueError, match="'w'"):
        greedy_soup([ONE, {"w": torch.zeros(3)}], lambda state: 0.0)
