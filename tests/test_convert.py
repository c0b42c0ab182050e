"""States of other libraries go on in our classes as they would have gone on where they come from, and back in torch's.

The oracles are the libraries' updates in straight-line torch code, on state and groups in the libraries' own form; the
libraries themselves, where they are installed, run in the tests marked long.
"""

import copy
import importlib
import importlib.util
import sys
import types
import warnings
from dataclasses import dataclass, field

import pytest
import torch

import descend
from descend.checkpoint import convert
from descend.checkpoint.sources import _ABSENT, DIFFERENT, SOURCES
from optimizers import ROWS, gradients, parameters, relative_difference, train


def average(x, new, beta):
    return beta * x + (1 - beta) * new


def adam_step(s, g, t, group, m="exp_avg", v="exp_avg_sq"):
    beta1, beta2 = group["betas"]
    s[m], s[v] = average(s.get(m, 0 * g), g, beta1), average(s.get(v, 0 * g), g * g, beta2)
    return group["lr"] * s[m] / (1 - beta1**t) / ((s[v] / (1 - beta2**t)).sqrt() + group["eps"])


def counted(s):
    s["step"] = s.get("step", 0) + 1
    return s["step"]


def bnb(update):
    """bitsandbytes nests what may be quantized, and counts in an int."""

    def step(p, g, s, group):
        inner = s.setdefault("__bnb_optimizer_quant_state__", {})
        return update(p, g, inner, group, counted(s))

    return step


@bnb
def bnb_adam(p, g, s, group, t):
    return p * (1 - group["lr"] * group["weight_decay"]) - adam_step(s, g, t, group, "state1", "state2")


@bnb
def bnb_adagrad(p, g, s, group, t):
    g = g + group["weight_decay"] * p
    s["state1"] = s.get("state1", 0) + g * g
    return p - group["lr"] * g / (s["state1"].sqrt() + group["eps"])


@bnb
def bnb_lion(p, g, s, group, t):
    beta1, beta2 = group["betas"]
    m = s.get("state1", 0 * g)
    s["state1"] = average(m, g, beta2)
    return p * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * average(m, g, beta1).sign()


@bnb
def bnb_rmsprop(p, g, s, group, t):
    g = g + group["weight_decay"] * p
    s["state1"] = average(s.get("state1", 0 * g), g * g, group["betas"][0])
    return p - group["lr"] * g / (s["state1"].sqrt() + group["eps"])


@bnb
def bnb_sgd(p, g, s, group, t):
    g = g + group["weight_decay"] * p
    s["state1"] = g if t == 1 else group["betas"][0] * s["state1"] + g
    return p - group["lr"] * s["state1"]


def apex_adamw(p, g, s, group):  # the count stands in the group and is advanced by who runs the group
    return p - adam_step(s, g, group["step"], group) - group["lr"] * group["weight_decay"] * p


def apex_adam(p, g, s, group):
    return p - adam_step(s, g + group["weight_decay"] * p, group["step"], group)


def apex_adagrad(p, g, s, group):
    g = g + group["weight_decay"] * p
    s["sum"] = s.get("sum", 0) + g * g
    return p - group["lr"] * g / (s["sum"].sqrt() + group["eps"])


def sgd(p, g, s, group):
    decays = "caution" not in group
    d = g + group["weight_decay"] * p if decays else g
    first = "momentum_buffer" not in s
    s["momentum_buffer"] = d if first else group["momentum"] * s["momentum_buffer"] + (1 - group["dampening"]) * d
    d = d + group["momentum"] * s["momentum_buffer"] if group["nesterov"] else s["momentum_buffer"]
    return (p if decays else p * (1 - group["lr"] * group["weight_decay"])) - group["lr"] * d


def timm_adamw(p, g, s, group):
    s["step"] = s.get("step", torch.tensor(0.0)) + 1
    return p * (1 - group["lr"] * group["weight_decay"]) - adam_step(s, g, s["step"].item(), group)


def timm_lion(p, g, s, group):
    beta1, beta2 = group["betas"]
    m = s.get("exp_avg", 0 * g)
    s["exp_avg"] = average(m, g, beta2)
    return p * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * average(m, g, beta1).sign()


def timm_nadam(p, g, s, group):
    t, (beta1, beta2) = counted(s), group["betas"]
    g = g + group["weight_decay"] * p
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * group["schedule_decay"])) for k in (t, t + 1))
    s["m_schedule"] = s.get("m_schedule", 1.0) * mu
    s["exp_avg"] = average(s.get("exp_avg", 0 * g), g, beta1)
    s["exp_avg_sq"] = average(s.get("exp_avg_sq", 0 * g), g * g, beta2)
    m = g * (1 - mu) / (1 - s["m_schedule"]) + s["exp_avg"] * mu_next / (1 - s["m_schedule"] * mu_next)
    return p - group["lr"] * m / ((s["exp_avg_sq"] / (1 - beta2**t)).sqrt() + group["eps"])


def timm_radam(p, g, s, group):
    t, (beta1, beta2) = counted(s), group["betas"]
    s["exp_avg"] = average(s.get("exp_avg", 0 * g), g, beta1)
    s["exp_avg_sq"] = average(s.get("exp_avg_sq", 0 * g), g * g, beta2)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    step = group["lr"] * s["exp_avg"] / (1 - beta1**t)
    if length >= 5:
        factor = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        step = step * (factor * (1 - beta2**t)) ** 0.5 / (s["exp_avg_sq"].sqrt() + group["eps"])
    return p * (1 - group["lr"] * group["weight_decay"]) - step


def timm_lamb(p, g, s, group):
    t, (beta1, beta2) = group["step"], group["betas"]
    s["exp_avg"] = average(s.get("exp_avg", 0 * g), g, beta1)
    s["exp_avg_sq"] = average(s.get("exp_avg_sq", 0 * g), g * g, beta2)
    u = s["exp_avg"] / (1 - beta1**t) / ((s["exp_avg_sq"] / (1 - beta2**t)).sqrt() + group["eps"])
    u = u + group["weight_decay"] * p
    return p - group["lr"] * p.norm() / u.norm() * u


def timm_lars(p, g, s, group):
    whole = g.norm() + group["weight_decay"] * p.norm() + group["eps"]
    d = group["trust_coeff"] * p.norm() / whole * (g + group["weight_decay"] * p)
    s["momentum_buffer"] = group["momentum"] * s["momentum_buffer"] + d if "momentum_buffer" in s else d
    return p - group["lr"] * s["momentum_buffer"]


BNB_ADAM = dict(lr=0.01, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1, alpha=0.0, t_alpha=None, t_beta3=None)
APEX_ADAM = dict(lr=0.01, bias_correction=True, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1)
MOMENTUM = dict(lr=0.01, momentum=0.9, dampening=0.0, weight_decay=0.1, nesterov=True)
TIMM_OPTIONS = dict(caution=False, corrected_weight_decay=False, max_lr_snapshot=0.02, maximize=False, foreach=None)
LAMB_OPTIONS = dict(
    bias_correction=True,
    grad_averaging=True,
    trust_clip=False,
    always_adapt=False,
    caution=False,
    decoupled_decay=False,
    corrected_weight_decay=False,
    max_lr_snapshot=0.02,
    foreach=None,
)
LARS_OPTIONS = dict(
    lr=0.5,
    momentum=0.9,
    dampening=0.0,
    weight_decay=0.1,
    nesterov=False,
    trust_coeff=0.02,
    eps=1e-8,
    trust_clip=False,
    always_adapt=False,
    foreach=None,
)
TIMM_ADAM = dict(lr=0.01, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1)


@dataclass(frozen=True)
class Foreign:
    source: str
    to: str
    step: object
    group: dict
    counts_in_group: bool = False
    note: str | None = None
    torch: str | None = None  # torch's class of the same rule
    constructor: dict = field(default_factory=dict)  # what the loaded state must overrule

    def run(self, params, state_dict, steps):
        """Steps as the library takes them; `state_dict` is its own and changes."""
        params = [p.detach().clone() for p in params]
        (group,) = state_dict["param_groups"]
        for step in steps:
            if self.counts_in_group:
                group["step"] = group.get("step", 0) + 1
            for i, g in enumerate(gradients(step, params)):
                params[i] = self.step(params[i], g, state_dict["state"].setdefault(i, {}), group)
        return params

    def fresh(self, n):
        return {"state": {}, "param_groups": [{**self.group, "params": list(range(n))}]}


FOREIGN = [
    Foreign("bitsandbytes.AdamW32bit", "AdamW", bnb_adam, BNB_ADAM, note="on CUDA", torch="AdamW"),
    Foreign("bitsandbytes.PagedAdam", "Adam", bnb_adam, BNB_ADAM, note="decoupled in Adam too", torch="Adam"),
    Foreign("bitsandbytes.Adam", "AdamW", bnb_adam, {**BNB_ADAM, "weight_decay": 0.0}, torch="AdamW"),
    Foreign(
        "bitsandbytes.Adagrad",
        "Adagrad",
        bnb_adagrad,
        dict(lr=0.1, betas=(0.0, 0.0), eps=1e-10, weight_decay=0.1),
        torch="Adagrad",
        constructor={"lr_decay": 0.5},
    ),
    Foreign(
        "bitsandbytes.Lion8bit",
        "Lion",
        bnb_lion,
        dict(lr=0.01, betas=(0.9, 0.99), eps=0.0, weight_decay=0.1),
        note="32-bit CUDA kernel",
    ),
    Foreign(
        "bitsandbytes.RMSprop",
        "RMSprop",
        bnb_rmsprop,
        dict(lr=0.01, betas=(0.9, 0.5), eps=1e-8, weight_decay=0.1),
        note="does not read it",
        torch="RMSprop",
        constructor={"centered": True},
    ),
    Foreign(
        "bitsandbytes.SGD",
        "SGD",
        bnb_sgd,
        dict(lr=0.01, betas=(0.9, 0.5), eps=0.0, weight_decay=0.1),
        note="does not read it",
        torch="SGD",
        constructor={"momentum": 0.5, "nesterov": True},
    ),
    Foreign("apex.FusedAdam", "AdamW", apex_adamw, APEX_ADAM, True, note="adam_w_mode", torch="AdamW"),
    Foreign("apex.FusedAdam", "Adam", apex_adam, APEX_ADAM, True, note="adam_w_mode", torch="Adam"),
    Foreign("apex.FusedSGD", "SGD", sgd, MOMENTUM, note="wd_after_momentum", torch="SGD"),
    Foreign(
        "apex.FusedAdagrad",
        "Adagrad",
        apex_adagrad,
        dict(lr=0.1, eps=1e-10, weight_decay=0.0),
        note="no count of steps",
        torch="Adagrad",
    ),
    Foreign(
        "timm.AdamWLegacy",
        "AdamW",
        timm_adamw,
        {**TIMM_ADAM, **TIMM_OPTIONS, "amsgrad": False, "capturable": False, "clipping_threshold": None},
        torch="AdamW",
    ),
    Foreign("timm.Lion", "Lion", timm_lion, dict(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, **TIMM_OPTIONS)),
    Foreign("timm.SGDW", "SGDW", sgd, {**MOMENTUM, **TIMM_OPTIONS}),
    Foreign("timm.NAdamLegacy", "NAdam", timm_nadam, {**TIMM_ADAM, "schedule_decay": 0.01}, torch="NAdam"),
    Foreign("timm.RAdamLegacy", "RAdam", timm_radam, TIMM_ADAM, torch="RAdam"),
    Foreign(
        "timm.Lamb",
        "LAMB",
        timm_lamb,
        {**TIMM_ADAM, **LAMB_OPTIONS, "max_grad_norm": None},
        True,
        note="here that is clip_norm",
        constructor={"trust_clip": True, "norm_limit": 3.0},
    ),
    Foreign("timm.Lars", "LARS", timm_lars, LARS_OPTIONS, constructor={"trust_coefficient": 0.5}),
]
foreign_ones = pytest.mark.parametrize("foreign", FOREIGN, ids=lambda f: f"{f.source}-{f.to}")


def quietly(state_dict, **names):
    """Converted, without what the conversion says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(state_dict, **names)


def goes_on_as_it_was(foreign, cls, target):
    params = parameters()
    saved = foreign.fresh(len(params))
    halfway = foreign.run(params, saved, range(9))
    here = [p.clone().requires_grad_() for p in halfway]
    ours = cls(here, **foreign.constructor)
    ours.load_state_dict(quietly(saved, source=foreign.source, to=target))
    train(ours, here, range(9, 20))
    whole = foreign.run(params, foreign.fresh(len(params)), range(20))
    assert relative_difference(here, whole) <= 1e-12
    native_params = parameters()
    native = cls(native_params)
    native.param_groups[0] |= {k: v for k, v in ours.param_groups[0].items() if k != "params"}
    train(native, native_params, range(1))
    assert set(ours.state[here[0]]) == set(native.state[native_params[0]])
    return ours


@foreign_ones
def test_training_goes_on_in_our_class(foreign, float64):
    ours = goes_on_as_it_was(foreign, getattr(descend, foreign.to), f"descend.{foreign.to}")
    keeps_none = foreign.source in ("timm.Lion", "timm.SGDW", "timm.Lars", "apex.FusedSGD", "apex.FusedAdagrad")
    assert ours.applied_steps == (11 if keeps_none else 20)


@pytest.mark.parametrize("foreign", [f for f in FOREIGN if f.torch], ids=lambda f: f"{f.source}-{f.torch}")
def test_training_goes_on_in_torch_s_class(foreign, float64):
    theirs = goes_on_as_it_was(foreign, getattr(torch.optim, foreign.torch), f"torch.{foreign.torch}")
    native = getattr(torch.optim, foreign.torch)(parameters())
    train(native, native.param_groups[0]["params"], range(1))
    assert set(theirs.param_groups[0]) == set(native.param_groups[0])


@foreign_ones
def test_what_the_state_does_not_tell_is_said(foreign):
    saved = foreign.fresh(2)
    foreign.run(parameters()[:2], saved, range(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert(saved, source=foreign.source, to=f"descend.{foreign.to}")
    assert [str(w.message) for w in caught if w.filename != __file__] == []
    assert len(caught) == (foreign.note is not None)
    assert foreign.note is None or foreign.note in str(caught[0].message)


def test_the_state_given_stays_as_it_is_and_shares_its_tensors():
    foreign = FOREIGN[0]
    saved = foreign.fresh(2)
    foreign.run(parameters()[:2], saved, range(3))
    before = copy.deepcopy(saved)
    converted = quietly(saved, source=foreign.source, to="descend.AdamW")
    assert saved["param_groups"] == before["param_groups"]
    assert saved["state"][0].keys() == before["state"][0].keys()
    mine = saved["state"][0]["__bnb_optimizer_quant_state__"]["state1"]
    assert converted["state"][0]["exp_avg"] is mine
    assert torch.equal(mine, before["state"][0]["__bnb_optimizer_quant_state__"]["state1"])


def test_other_entries_of_groups_and_unstepped_parameters_are_passed_on():
    saved = FOREIGN[0].fresh(3)
    FOREIGN[0].run(parameters()[:1], saved, range(2))
    saved["param_groups"][0] |= {"initial_lr": 0.5, "param_names": ["a", "b", "c"], "lr_scale": 2}
    converted = quietly(saved, source="bitsandbytes.AdamW", to="descend.AdamW")
    (group,) = converted["param_groups"]
    assert (group["initial_lr"], group["param_names"], group["lr_scale"]) == (0.5, ["a", "b", "c"], 2)
    assert list(converted["state"]) == [0]
    assert "t_alpha" not in group


def test_classes_stand_for_their_names():
    params = parameters()
    theirs = torch.optim.AdamW(params, lr=0.01)
    train(theirs, params, range(3))
    by_class = convert(theirs.state_dict(), source=torch.optim.AdamW, to=descend.AdamW)
    by_name = convert(theirs.state_dict(), source="torch.optim.AdamW", to="descend.AdamW")
    assert by_class["param_groups"] == by_name["param_groups"]
    descend.AdamW(parameters()).load_state_dict(by_class)


@pytest.mark.parametrize("row", [row for row in ROWS if row.twin], ids=lambda row: row.name)
def test_ours_become_torch_s_own(row, float64):
    for options in list(row.combinations())[::5]:
        params = parameters()
        ours = row.ours(params, **options)
        train(ours, params, range(5))
        native_params = parameters()
        native = row.twin(native_params, **options)
        train(native, native_params, range(5))
        wrote = convert(ours.state_dict(), source=f"descend.{row.name}", to=f"torch.{row.name}")
        want = native.state_dict()
        assert wrote["param_groups"] == want["param_groups"]
        for i, entry in want["state"].items():
            kept = {key: value for key, value in entry.items() if value is not None}
            assert {key: (v.shape, v.dtype) for key, v in wrote["state"].get(i, {}).items()} == {
                key: (v.shape, v.dtype) for key, v in kept.items()
            }
            for key, value in kept.items():
                torch.testing.assert_close(wrote["state"][i][key], value, rtol=1e-12, atol=1e-12)


def test_torch_gets_no_average_of_the_weights():
    params = parameters()
    ours = descend.SGD(params, lr=0.1, ema_decay=0.9)
    train(ours, params, range(3))
    with pytest.warns(UserWarning, match="keeps no average of the weights") as caught:
        wrote = convert(ours.state_dict(), source=descend.SGD, to=torch.optim.SGD)
    assert len(caught) == 1
    assert not any(wrote["state"].values())
    assert not {"applied_steps", "state_format"} & set(wrote["param_groups"][0])
    kept = convert(ours.state_dict(), source=descend.SGD, to=descend.SGD)
    assert "ema" in kept["state"][0]
    assert kept["param_groups"][0]["applied_steps"] == 3


def test_numbers_of_old_states_become_tensors():
    params = parameters()
    ours = descend.NAdam(params)
    train(ours, params, range(3))
    saved = ours.state_dict()
    for entry in saved["state"].values():
        entry["step"], entry["mu_product"] = 2**24 + 1, float(entry["mu_product"])
    entry = convert(saved, source="descend.NAdam", to="torch.NAdam")["state"][0]
    assert entry["step"].dtype is torch.float64
    assert entry["step"].item() == 2**24 + 1
    assert (entry["mu_product"].dtype, entry["mu_product"].shape) == (torch.float32, ())


def stepped(cls, **options):
    params = parameters()
    optimizer = cls(params, **options)
    train(optimizer, params, range(2))
    return optimizer.state_dict()


def test_adam_and_adamw_are_one_rule_where_the_decay_agrees():
    for giver, receiver, options in [
        (descend.AdamW, torch.optim.Adam, dict(weight_decay=0.1)),
        (descend.AdamW, descend.Adam, dict(weight_decay=0.1)),
        (torch.optim.Adam, descend.AdamW, dict(weight_decay=0.1, decoupled_weight_decay=True)),
        (torch.optim.Adam, torch.optim.AdamW, dict(weight_decay=0.0)),
    ]:
        first_params = parameters()
        first = giver(first_params, **options)
        train(first, first_params, range(4))
        params = [p.detach().clone().requires_grad_() for p in first_params]
        second = receiver(params)
        second.load_state_dict(convert(copy.deepcopy(first.state_dict()), source=giver, to=receiver))
        train(first, first_params, range(4, 9))
        train(second, params, range(4, 9))
        assert relative_difference(params, first_params) <= 1e-6
    wrote = convert(stepped(torch.optim.Adam), source="torch.Adam", to="torch.AdamW")
    assert wrote["param_groups"][0]["decoupled_weight_decay"] is True
    with pytest.raises(ValueError, match=r"adds its weight_decay=0\.1 to the gradient.*convert to descend\.Adam"):
        convert(stepped(torch.optim.Adam, weight_decay=0.1), source="torch.Adam", to="descend.AdamW")


def foreign_state(source):
    foreign = next(f for f in FOREIGN if f.source == source)
    saved = foreign.fresh(2)
    foreign.run(parameters()[:2], saved, range(2))
    return saved


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        (
            "bitsandbytes.AdamW23bit",
            "descend.AdamW",
            r"'bitsandbytes\.AdamW23bit' is unknown; did you mean bitsandbytes\.AdamW32bit",
        ),
        ("keras.Ftrl", "descend.AdamW", "write library.Class, of descend, torch, timm, apex"),
        ("AdamW", "descend.AdamW", "did you mean descend.AdamW or torch.AdamW or timm.AdamW or bitsandbytes.AdamW"),
        (
            "torch.AdamW",
            "torch.AdamWW",
            r"only for classes of ours and torch's twins; did you mean torch\.Adam or torch\.AdamW",
        ),
        ("torch.AdamW", "timm.AdamW", "no state can be written for 'timm.AdamW'"),
        ("timm.Lion", "torch.Lion", "torch has no Lion"),
        ("timm.RMSpropTF", "descend.RMSprop", "eps inside the root, starts the average of squares at 1"),
        ("timm.NAdamW", "descend.NAdam", "its momentum is constant"),
        ("timm.AdamP", "descend.Adam", "no such rule here"),
        ("bitsandbytes.PagedAdEMAMix32bit", "descend.AdamW", "no such rule here"),
        ("torch.SparseAdam", "descend.Adam", "only in rows that have a gradient"),
        (
            "torch.AdamW",
            "descend.AdamWPaper",
            r"have different rules; convert to descend\.AdamW\n.*: AdamW\. .*\n.*AdamW as published",
        ),
        ("bitsandbytes.Lion", "descend.Signum", "convert to descend.Lion"),
    ],
)
def test_other_rules_and_unknown_names_are_refused(source, to, message):
    with pytest.raises(ValueError, match=message):
        convert({"state": {}, "param_groups": []}, source=source, to=to)


@pytest.mark.parametrize(
    ("source", "option", "value", "message"),
    [
        ("timm.Lion", "caution", True, "leaves out the elements of the update.*set 'caution' to False"),
        ("timm.AdamWLegacy", "corrected_weight_decay", True, "decays by lr"),
        ("timm.AdamWLegacy", "clipping_threshold", 1.0, "set 'clipping_threshold' to None"),
        ("apex.FusedAdam", "bias_correction", False, "leaves the averages biased"),
        ("bitsandbytes.AdamW32bit", "betas", (0.9, 0.99, 0.999), None),
        ("timm.Lion", "betas", (0.9, 0.99, 0.999), "betas takes 2 numbers"),
        ("timm.Lion", "lr", -1.0, "Invalid learning rate"),
        ("timm.Lion", "rule", "adamw", "rule 'adamw' of its own"),
    ],
)
def test_options_that_make_another_formula_are_refused(source, option, value, message):
    saved = foreign_state(source)
    saved["param_groups"][0][option] = value
    foreign = next(f for f in FOREIGN if f.source == source)
    with pytest.raises(ValueError, match=message or "betas takes 2 numbers"):
        quietly(saved, source=source, to=f"descend.{foreign.to}")


def test_8_bit_state_is_refused_with_the_remedy():
    saved = foreign_state("bitsandbytes.AdamW32bit")
    inner = saved["state"][1]["__bnb_optimizer_quant_state__"]
    inner["state1"] = inner["state1"].to(torch.uint8)
    with pytest.raises(ValueError, match=r"parameter 1 .*quantized to 8 bits; put bitsandbytes\.functional"):
        quietly(saved, source="bitsandbytes.AdamW8bit", to="descend.AdamW")


def test_states_of_another_class_are_noticed():
    sgd_state = stepped(torch.optim.SGD, momentum=0.9)
    adamw = stepped(torch.optim.AdamW)
    for saved, source, to, message in [
        (sgd_state, "torch.AdamW", "descend.AdamW", "has no 'betas'"),
        (adamw, "timm.Lion", "descend.Lion", "holds 'exp_avg_sq', which is not of Lion"),
        (adamw, "bitsandbytes.RMSprop", "descend.RMSprop", "holds 'exp_avg'"),
        ({"model": {}, "optimizer": {}}, "torch.AdamW", "descend.AdamW", "under a key of its own.*'optimizer'"),
    ]:
        with pytest.raises(ValueError, match=message):
            quietly(saved, source=source, to=to)


def test_arguments_of_the_wrong_type_are_refused():
    optimizer = torch.optim.AdamW(parameters())
    with pytest.raises(TypeError, match=r"what an optimizer's state_dict\(\) returns, not AdamW"):
        convert(optimizer, source="torch.AdamW", to="descend.AdamW")
    with pytest.raises(TypeError, match="take a class or its name"):
        convert(optimizer.state_dict(), source=optimizer, to="descend.AdamW")


@pytest.mark.parametrize("key", ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"])
def test_missing_state_is_noticed(key):
    saved = stepped(torch.optim.AdamW, amsgrad=True)
    del saved["state"][0][key]
    with pytest.raises(ValueError, match=f"parameter 0 of torch.AdamW has no '{key}'"):
        convert(saved, source="torch.AdamW", to="descend.AdamW")


def test_a_hyper_parameter_that_torch_lacks_is_refused():
    saved = stepped(descend.Rprop, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"param group 0 .*weight_decay=0\.1, and torch's Rprop has no weight_decay"):
        convert(saved, source="descend.Rprop", to="torch.Rprop")


def test_the_table_names_rules_that_exist_and_those_that_do_not():
    assert {title for source in SOURCES.values() for title in source.rules} <= set(descend.optim.classes)
    assert not SOURCES.keys() & DIFFERENT.keys()
    ours = {title.lower() for title in descend.optim.classes}
    absent = {name.removeprefix("Fused").lower() for names in _ABSENT.values() for name in names.split()}
    assert not absent & ours, "the rule has been written: say in the table whether it is the same one"


@pytest.fixture
def timm(monkeypatch):
    """timm's optimizers alone: the package itself asks for torchvision."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is not installed")
    for name, folder in [("timm", ""), ("timm.optim", "/optim")]:
        package = types.ModuleType(name)
        package.__path__ = [found.submodule_search_locations[0] + folder]
        monkeypatch.setitem(sys.modules, name, package)
    yield lambda module, name: getattr(importlib.import_module(f"timm.optim.{module}"), name)
    for name in [name for name in sys.modules if name.startswith("timm.optim.")]:
        del sys.modules[name]


def library_goes_on_here(cls, to, tolerance, dtype, **options):
    params = parameters(dtype=dtype)
    theirs = cls(params, **options)
    train(theirs, params, range(9))
    here = [p.detach().clone().requires_grad_() for p in params]
    ours = getattr(descend, to)(here)
    ours.load_state_dict(quietly(theirs.state_dict(), source=cls, to=f"descend.{to}"))
    train(theirs, params, range(9, 20))
    train(ours, here, range(9, 20))
    assert relative_difference(here, params) <= tolerance


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "to", "options", "tolerance"),
    [
        ("adamw", "AdamWLegacy", "AdamW", dict(lr=0.01, amsgrad=True, weight_decay=0.1), 1e-12),
        ("lion", "Lion", "Lion", dict(lr=0.01, weight_decay=0.1), 1e-12),
        ("sgdw", "SGDW", "SGDW", dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1), 1e-12),
        ("sgdw", "SGDW", "SGDW", dict(lr=0.01, weight_decay=0.1), 1e-12),
        ("nadam", "NAdamLegacy", "NAdam", dict(lr=0.01, weight_decay=0.1, schedule_decay=0.01), 1e-12),
        ("radam", "RAdamLegacy", "RAdam", dict(lr=0.01, weight_decay=0.1), 1e-5),  # it computes in float32
    ],
)
def test_timm_goes_on_here(timm, module, name, to, options, tolerance, float64):
    dtype = torch.float64 if tolerance < 1e-6 else torch.float32
    library_goes_on_here(timm(module, name), to, tolerance, dtype, **options)


@pytest.fixture
def bitsandbytes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bitsandbytes", exc_type=ImportError)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "to", "options"),
    [
        ("AdamW32bit", "AdamW", dict(lr=0.01, weight_decay=0.1)),
        ("Adam", "Adam", dict(lr=0.01, weight_decay=0.1)),
        ("AdamW8bit", "AdamW", dict(lr=0.01, weight_decay=0.1)),  # these parameters are too small to be quantized
        ("Lion32bit", "Lion", dict(lr=0.01, weight_decay=0.1)),
        ("Adagrad32bit", "Adagrad", dict(lr=0.1, weight_decay=0.1)),
        ("RMSprop32bit", "RMSprop", dict(lr=0.01, momentum=0.5, weight_decay=0.1)),
        ("SGD32bit", "SGD", dict(lr=0.01, momentum=0.9, dampening=0.5, nesterov=True, weight_decay=0.1)),
    ],
)
def test_bitsandbytes_goes_on_here(bitsandbytes, name, to, options):
    library_goes_on_here(getattr(bitsandbytes.optim, name), to, 1e-5, torch.float32, **options)


@pytest.mark.long
def test_the_remedy_for_8_bit_state_is_one(bitsandbytes):
    p = torch.randn(70, 70, requires_grad=True)
    theirs = bitsandbytes.optim.AdamW8bit([p], lr=0.01)
    train(theirs, [p], range(3))
    saved = theirs.state_dict()
    with pytest.raises(ValueError, match="quantized to 8 bits"):
        quietly(saved, source="bitsandbytes.AdamW8bit", to="descend.AdamW")
    inner = saved["state"][0].pop("__bnb_optimizer_quant_state__")
    for k in "12":
        saved["state"][0][f"state{k}"] = bitsandbytes.functional.dequantize_blockwise(
            inner[f"state{k}"], absmax=inner[f"absmax{k}"], code=inner[f"qmap{k}"], blocksize=256
        )
    converted = quietly(saved, source="bitsandbytes.AdamW8bit", to="descend.AdamW")
    exact = torch.optim.AdamW([torch.zeros(70, 70, requires_grad=True)], betas=(0.9, 0.999))
    train(exact, exact.param_groups[0]["params"], range(3))
    want = exact.state_dict()["state"][0]["exp_avg"]
    assert (converted["state"][0]["exp_avg"] - want).abs().max() <= 0.05 * want.abs().max()
