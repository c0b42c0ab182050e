"""State is loaded by name, in its own type, and nothing mismatched passes silently."""

import copy

import pytest
import torch
from torch import nn

import descend
from descend import schedules
from descend.state import FORMAT


class Model(nn.Module):
    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.full((3,), float(ord(name[0])), dtype=torch.float64)))


def trained(optimizer, model, steps=3, of=None):
    for step in range(steps):
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, (ord(name[0]) - 90.0) * (step + 1))
        optimizer.step()
    return optimizer


def state_by_name(optimizer):
    return {
        name: {key: value.clone() for key, value in optimizer.state[param].items()}
        for group in optimizer.param_groups
        for name, param in zip(group["param_names"], group["params"], strict=True)
        if param in optimizer.state
    }


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[name].keys() == b[name].keys() and all(torch.equal(a[name][key], b[name][key]) for key in a[name])
        for name in a
    )


def saved(*names, cls=descend.AdamW, **options):
    model = Model(*names)
    return trained(cls(model.named_parameters(), **options), model)


@pytest.mark.parametrize("cls", [descend.AdamW, torch.optim.AdamW])
def test_another_order_takes_each_its_own_state(cls):
    first = saved("a", "b", "c", cls=cls)
    second = descend.AdamW(Model("c", "a", "b").named_parameters())
    assert second.load_state_dict(first.state_dict()) == ([], [], [])
    assert equal(state_by_name(first), state_by_name(second))
    assert second.param_groups[0]["param_names"] == ["c", "a", "b"]


def test_without_names_on_both_sides_places_count_as_in_torch():
    first = saved("a", "b")
    second = descend.AdamW(Model("b", "a").parameters())
    with pytest.warns(UserWarning, match="matched by their places"):
        second.load_state_dict(first.state_dict())
    b, _ = second.param_groups[0]["params"]
    assert torch.equal(second.state[b]["exp_avg"], state_by_name(first)["a"]["exp_avg"])
    assert second.param_groups[0]["param_names"] == ["a", "b"]  # torch's behaviour


def test_names_of_wrappers_do_not_count():
    first = saved("a", "b")
    model = Model("b", "a")
    for wrapped in ("module.", "_orig_mod.", "module._orig_mod."):
        second = descend.AdamW([(f"{wrapped}{name}", p) for name, p in model.named_parameters()])
        second.load_state_dict(first.state_dict())
        assert equal({f"{wrapped}{name}": entry for name, entry in state_by_name(first).items()}, state_by_name(second))


def test_missing_and_unexpected_names_are_reported_together_and_nothing_changes():
    first = saved("a", "b", "old")
    second = saved("a", "b", "new")
    before, groups = state_by_name(second), copy.deepcopy(second.state_dict()["param_groups"])
    with pytest.raises(ValueError, match=r"missing.*: new; unexpected.*: old\..*strict=False"):
        second.load_state_dict(first.state_dict())
    assert equal(before, state_by_name(second))
    assert second.state_dict()["param_groups"] == groups


def test_what_fits_is_loaded_on_demand_and_the_rest_is_returned():
    first = saved("a", "b", "old", lr=0.5)
    second = descend.AdamW(Model("new", "b", "a").named_parameters(), lr=0.25)
    mismatch = second.load_state_dict(first.state_dict(), strict=False)
    assert mismatch == (["new"], ["old"], [])
    expected = {name: entry for name, entry in state_by_name(first).items() if name != "old"}
    assert equal(expected, state_by_name(second))
    assert second.param_groups[0]["lr"] == 0.25  # the group is another one: the constructor's numbers hold
    assert second.applied_steps == 3


def test_shapes_are_compared():
    first = saved("a", "b")
    model = Model("a", "b")
    model.b = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    second = descend.AdamW(model.named_parameters())
    with pytest.raises(ValueError, match=r"of another shape.*b \('exp_avg' of shape \(3,\).*\(4,\)"):
        second.load_state_dict(first.state_dict())
    assert second.load_state_dict(first.state_dict(), strict=False).reshaped[0].startswith("b ")
    assert list(state_by_name(second)) == ["a"]
    trained(second, model, 1)


def test_groups_are_found_by_their_names():
    def grouped(*groups):
        model = Model("a", "b", "c")
        named = dict(model.named_parameters())
        return model, descend.AdamW(
            [{"params": [(n, named[n]) for n in names], "weight_decay": decay} for names, decay in groups]
        )

    model, first = grouped(("ab", 0.1), ("c", 0.0))
    trained(first, model)
    _, swapped = grouped(("c", 0.7), ("ba", 0.8))
    swapped.load_state_dict(first.state_dict())
    assert [group["weight_decay"] for group in swapped.param_groups] == [0.0, 0.1]
    assert equal(state_by_name(first), state_by_name(swapped))
    _, cut = grouped(("a", 0.7), ("bc", 0.8))
    with pytest.raises(ValueError, match="other parameters than param groups 0, 1"):
        cut.load_state_dict(first.state_dict())
    assert cut.load_state_dict(first.state_dict(), strict=False) == ([], [], [])
    assert [group["weight_decay"] for group in cut.param_groups] == [0.7, 0.8]
    assert equal(state_by_name(first), state_by_name(cut))
    assert cut.applied_steps == 3


def test_a_clock_survives_new_groups_where_the_state_has_no_step():
    model = Model("a", "b")
    first = trained(descend.SGD(model.named_parameters(), lr=0.1 * schedules.cosine(10)), model)
    names = [[item] for item in Model("a", "b").named_parameters()]
    second = descend.SGD([{"params": item} for item in names], lr=0.1 * schedules.cosine(10))
    second.load_state_dict(first.state_dict(), strict=False)
    assert second.applied_steps == 3
    assert second.param_groups[1]["lr"] == first.param_groups[0]["lr"]


def test_a_parameter_that_never_had_a_gradient_is_not_missing():
    model = Model("a", "b")
    optimizer = descend.AdamW(model.named_parameters())
    model.a.grad = torch.ones_like(model.a)
    optimizer.step()
    second = descend.AdamW(Model("b", "a").named_parameters())
    second.load_state_dict(optimizer.state_dict())
    assert list(state_by_name(second)) == ["a"]


def test_the_state_of_another_rule_is_refused():
    first = saved("a", "b")
    for second in (
        descend.SGD(Model("a", "b").named_parameters(), momentum=0.9),
        descend.Lion(Model("a", "b").named_parameters()),
    ):
        with pytest.raises(ValueError, match=r"unexpected.*exp_avg_sq of a"):
            second.load_state_dict(first.state_dict())


def test_a_rule_that_keeps_the_same_state_is_told_by_its_numbers():
    for cls, message in [
        (descend.AdamWPaper, "another rule than adamwpaper: it has amsgrad and it lacks eta"),
        (descend.AMSGrad, "another rule than amsgrad: it has amsgrad"),
        (descend.RAdam, "another rule than radam: it has amsgrad"),
    ]:
        second = cls(Model("a", "b").named_parameters())
        with pytest.raises(ValueError, match=message):
            second.load_state_dict(saved("a", "b").state_dict())
        assert not second.state
    theirs = saved("a", "b", cls=torch.optim.Adam, amsgrad=True)
    with pytest.raises(ValueError, match="another rule than amsgrad"):
        descend.AMSGrad(Model("a", "b").named_parameters()).load_state_dict(theirs.state_dict())


def test_what_the_rule_keeps_and_the_state_lacks_is_said():
    first = saved("a", "b")
    second = descend.AMSGrad(Model("a", "b").named_parameters())
    with pytest.warns(UserWarning, match="lacks 'max_exp_avg_sq'"):
        second.load_state_dict(first.state_dict(), strict=False)
    third = descend.AdamW(Model("a", "b").named_parameters(), ema_decay=0.9)
    with pytest.warns(UserWarning, match="lacks 'ema'"):
        third.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["param_groups"][0].update(lr="x"), "lr takes a number"),
        (lambda d: d["param_groups"][0].update(lr=float("nan")), "Invalid learning rate: nan"),
        (lambda d: d["param_groups"][0].update(betas=(0.9,)), "betas takes 2 numbers"),
        (lambda d: d["param_groups"][0].update(weight_decay=None), "weight_decay takes a number"),
        (lambda d: d["param_groups"][0].update(applied_steps="a"), "applied_steps='a'"),
        (lambda d: d["param_groups"][0].pop("params"), "under 'params'"),
        (lambda d: d["state"].update({0: 3}), "3 and no dict"),
        (lambda d: d["state"][0].update(exp_avg=torch.ones(3, dtype=torch.long)), "of type torch.int64"),
        (lambda d: d["state"][0].update(step="x"), "'step', which is no single number"),
        (lambda d: d.update(state={str(k): v for k, v in d["state"].items()}), "under '0', which no group lists"),
        (lambda d: d["state"].update({7: d["state"][0]}), "under 7, which no group lists"),
    ],
)
def test_damaged_dicts_are_refused_before_anything_changes(damage, message):
    state = copy.deepcopy(saved("a", "b").state_dict())
    damage(state)
    second = descend.AdamW(Model("a", "b").named_parameters(), lr=0.25)
    before = copy.deepcopy(second.state_dict()["param_groups"])
    with pytest.raises((ValueError, TypeError), match=message):
        second.load_state_dict(state)
    assert not second.state
    assert second.state_dict()["param_groups"] == before


def test_a_whole_checkpoint_is_told_where_its_optimizer_is():
    with pytest.raises(TypeError, match=r"state_dict\['optimizer'\] looks like one"):
        saved("a").load_state_dict({"epoch": 3, "optimizer": saved("a").state_dict()})


def test_after_a_partial_load_the_next_checkpoint_is_a_whole_one():
    first = saved("a", cls=descend.SGD, lr=0.1, momentum=0.9)
    second = descend.AdamW((model := Model("a")).named_parameters())
    with pytest.warns(UserWarning, match="lacks 'exp_avg'"):
        mismatch = second.load_state_dict(first.state_dict(), strict=False)
    assert mismatch.unexpected == ["momentum_buffer of a"]
    trained(second, model, 1)
    third = descend.AdamW(Model("a").named_parameters())
    assert third.load_state_dict(second.state_dict()) == ([], [], [])


def test_names_that_differ_by_a_wrapper_s_prefix_alone_are_different_names():
    w, v = (torch.full((2,), x, requires_grad=True) for x in (1.0, 2.0))
    first = descend.AdamW([("module.w", w), ("w", v)])
    w.grad, v.grad = torch.ones(2), -torch.ones(2)
    first.step()
    second = descend.AdamW([("w", v), ("module.w", w)])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.state[w]["exp_avg"], first.state[w]["exp_avg"])


def test_torch_s_sparse_momentum_goes_on():
    with torch.sparse.check_sparse_tensor_invariants():
        p, q = (torch.ones(4, 2, dtype=torch.float64).requires_grad_() for _ in range(2))
        gradient = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2, dtype=torch.float64), (4, 2))
        theirs = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        p.grad = gradient
        theirs.step()
        q.data.copy_(p.data)
        ours = descend.SGD([q], lr=0.1, momentum=0.9)
        ours.load_state_dict(theirs.state_dict())
        for param, optimizer in ((p, theirs), (q, ours)):
            param.grad = gradient
            optimizer.step()
        torch.testing.assert_close(p, q)


def test_entries_of_the_user_s_own_pass():
    first = saved("a", "b")
    first.state[first.param_groups[0]["params"][0]]["note"] = "mine"
    first.state[first.param_groups[0]["params"][0]]["counts"] = torch.arange(2)
    second = descend.AdamW(Model("b", "a").named_parameters())
    second.load_state_dict(first.state_dict())
    entry = second.state[second.param_groups[0]["params"][1]]
    assert entry["note"] == "mine"
    assert torch.equal(entry["counts"], torch.arange(2))


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_state_beside_narrow_parameters_keeps_its_digits(dtype):
    p = torch.ones(5, dtype=dtype, requires_grad=True)
    first = descend.AdamW([p], state_dtype=torch.float32)
    p.grad = torch.full_like(p, 0.3)
    first.step()
    second = descend.AdamW([p.detach().clone().requires_grad_()])
    second.load_state_dict(first.state_dict())
    ours, theirs = (next(iter(o.state.values())) for o in (second, first))
    assert ours["exp_avg"].dtype is torch.float32
    assert torch.equal(ours["exp_avg"], theirs["exp_avg"])


def test_narrow_state_is_widened_with_a_note():
    p = torch.ones(5, requires_grad=True)
    first = descend.AdamW([p], state_dtype=torch.bfloat16)
    p.grad = torch.full_like(p, 0.3)
    first.step()
    second = descend.AdamW([p.detach().clone().requires_grad_()])
    with pytest.warns(UserWarning, match="narrower type.*exp_avg of 0"):
        second.load_state_dict(first.state_dict())
    entry = next(iter(second.state.values()))
    assert entry["exp_avg"].dtype is torch.float32
    assert torch.equal(entry["exp_avg"], first.state[p]["exp_avg"].float())


# --- the format ------------------------------------------------------------------------------------------------------


def test_the_format_is_in_every_group_and_older_ones_load():
    first = saved("a", "b")
    assert all(group["state_format"] == FORMAT for group in first.param_groups)
    state = first.state_dict()
    del state["param_groups"][0]["state_format"]
    second = descend.AdamW(Model("a", "b").named_parameters())
    second.load_state_dict(state)
    assert second.param_groups[0]["state_format"] == FORMAT
    assert second.applied_steps == 3


def test_a_later_format_is_refused():
    state = saved("a", "b").state_dict()
    state["param_groups"][0]["state_format"] = FORMAT + 1
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}.*up to {FORMAT}"):
        descend.AdamW(Model("a", "b").named_parameters()).load_state_dict(state)


@pytest.mark.parametrize("damage", [{}, {"state": {}}, {"param_groups": []}, {"state": [], "param_groups": 3}, "x"])
def test_what_is_no_state_dict_is_refused_by_name(damage):
    optimizer = descend.AdamW(Model("a").named_parameters())
    with pytest.raises(TypeError, match="state dict"):
        optimizer.load_state_dict(damage)
