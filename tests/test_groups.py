"""Param groups of models: what decays, how fast layers learn, what patterns choose, and how the three go together."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group

import descend
from descend import groups, rules
from descend.schedules import warmup

BLOCKS = 3


class OwnNorm(nn.Module):
    """A normalization that torch does not know, with a scale of three dimensions."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1, 4))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm((2, 4))
        self.attn = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Transformer(nn.Module):
    """Every kind of parameter that the functions tell apart; the head is tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 2, 4))
        self.scales = nn.Parameter(torch.ones(4))
        self.embed = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = OwnNorm()
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight


class Sparing(Transformer):
    def no_weight_decay(self):
        return {"position", "embed.*"}


def names(group):
    return [name for name, _ in group["params"]]


def by_name(split, key):
    return {name: group[key] for group in split for name in names(group)}


def decayed(split):
    return {name for name, value in by_name(split, "weight_decay").items() if value != 0}


def every(model):
    return [name for name, _ in model.named_parameters()]


MATRICES = {f"blocks.{i}.{name}.weight" for i in range(BLOCKS) for name in ("attn.out_proj", "mlp.0", "mlp.2")} | {
    f"blocks.{i}.attn.in_proj_weight" for i in range(BLOCKS)
}


def test_no_decay_spares_biases_norms_and_what_has_less_than_two_dimensions():
    model = Transformer()
    split = groups.no_decay(model, 0.1)
    assert [group["weight_decay"] for group in split] == [0.1, 0.0]
    assert decayed(split) == MATRICES | {"position", "embed.weight"}
    assert sorted(by_name(split, "weight_decay")) == sorted(every(model))


def test_a_model_spares_its_own_parameters():
    assert decayed(groups.no_decay(Sparing(), 0.1)) == MATRICES
    inside = groups.no_decay(nn.ModuleDict({"body": Sparing()}), 0.1)
    assert decayed(inside) == {f"body.{name}" for name in MATRICES}


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.RMSNorm((2, 4)),
        nn.LayerNorm((2, 4)),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_no_norm_decays(norm):
    assert not decayed(groups.no_decay(nn.Sequential(norm), 0.1))


@pytest.mark.parametrize("name", ["bias", "in_proj_bias", "relative_position_bias_table", "bias_k", "biases"])
def test_no_bias_decays_whatever_its_shape(name):
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.ones(2, 3, 4)))
    module.register_parameter("debiased_weight", nn.Parameter(torch.ones(2, 3)))
    assert decayed(groups.no_decay(module, 0.1)) == {"debiased_weight"}


@pytest.mark.parametrize("make", [torch.optim.AdamW, descend.AdamW])
def test_a_step_decays_the_weights_and_nothing_else(make):
    model = Transformer()
    before = copy.deepcopy(model.state_dict())
    optimizer = make(groups.no_decay(model, 0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    kept = MATRICES | {"position", "embed.weight"}
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5 if name in kept else 1))
    assert [group["param_names"] for group in optimizer.param_groups] == list(map(names, groups.no_decay(model, 0.5)))


def test_layers_from_the_stem_to_the_head():
    split = groups.layerwise(Transformer(), decay=0.5, lr=1.0)
    layers = [sorted({name.rsplit(".", 1)[0] for name in names(group)}) for group in split]
    assert layers[0] == ["embed", "position", "scales"]
    assert layers[2] == ["blocks.1.attn", "blocks.1.attn.out_proj", "blocks.1.mlp.0", "blocks.1.mlp.2", "blocks.1.norm"]
    assert layers[4] == ["head", "norm"]
    assert [group["lr"] for group in split] == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert [name for group in split for name in names(group)] == every(Transformer())


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
def test_a_step_moves_each_layer_by_its_rate(make):
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))).double()
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    make(groups.layerwise(model, 0.75, lr=0.1)).step()
    for i in range(4):
        for key in (f"{i}.weight", f"{i}.bias"):
            torch.testing.assert_close(model.state_dict()[key], before[key] - 0.1 * 0.75 ** (3 - i))


def test_rates_that_follow_a_schedule():
    rate = 0.8 * warmup(4)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    split = groups.layerwise(model, 0.5, lr=rate)
    assert split[1]["lr"] == rate  # the head's is the schedule as it was given
    optimizer = descend.SGD(split)
    for s in range(6):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate(s) / 2, rate(s)])
        optimizer.step()


def residual_network():
    def block():
        return nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3), "down": nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))})

    parts = {"conv1": nn.Conv2d(3, 2, 3), "layer1": nn.Sequential(block(), block()), "layer2": nn.Sequential(block())}
    return nn.ModuleDict({**parts, "fc": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (residual_network(), ["conv1", "layer1.0", "layer1.1", "layer2.0", "fc"]),
        (
            nn.Sequential(nn.Identity(), residual_network()),
            ["1.conv1", "1.layer1.0", "1.layer1.1", "1.layer2.0", "1.fc"],
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Flatten(), nn.Linear(2, 1)), ["0", "2", "4"]),
    ],
    ids=["stages", "wrapped", "sequential"],
)
def test_layers_are_found_in_models(model, layers):
    split = groups.layerwise(model, 0.5, lr=1.0)
    assert len(split) == len(layers)
    assert all(
        name.startswith(f"{layer}.") for group, layer in zip(split, layers, strict=True) for name in names(group)
    )


def test_what_stands_beside_the_members_of_a_container_is_one_layer_and_a_tied_weight_in_its_first():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.register_parameter("token", nn.Parameter(torch.ones(2)))
    model.register_parameter("position", nn.Parameter(torch.ones(2)))
    split = groups.layerwise(model, 0.5, lr=1.0)
    assert list(map(names, split)) == [["token", "position"], ["0.weight", "0.bias"], ["1.bias"]]


def test_layers_that_are_given():
    model = Transformer()
    order = [[model.position, model.embed], model.blocks[2], nn.ReLU(), [model.blocks[0], model.blocks[1]], model]
    split = groups.layerwise(model, 0.5, lr=1.0, layers=order)
    assert [group["lr"] for group in split] == [0.125, 0.25, 0.5, 1.0]
    assert names(split[0]) == ["position", "embed.weight"]
    assert {name.split(".")[1] for name in names(split[1])} == {"2"}
    assert {name.split(".")[1] for name in names(split[2])} == {"0", "1"}
    assert names(split[3]) == ["scales", "norm.scale", "head.bias"]


def test_patterns():
    model = Transformer()
    patterns = {"head.*": {"lr": 0.5}, "blocks.[01].*.bias": {"betas": (0.8, 0.9)}, "*bias": rules.sgd}
    split = groups.by_pattern(model, patterns)
    assert [set(group) - {"params"} for group in split] == [{"lr"}, {"betas"}, {"rule"}, set()]
    assert names(split[0]) == ["embed.weight", "head.bias"]  # the embedding is head.weight, too
    assert set(names(split[1])) == {
        f"blocks.{i}.{m}.bias" for i in (0, 1) for m in ("norm", "attn.out_proj", "mlp.0", "mlp.2")
    }
    assert split[2]["rule"] is rules.sgd
    assert "blocks.2.norm.bias" in names(split[2])
    assert "blocks.0.attn.in_proj_bias" in names(split[2])
    optimizer = descend.AdamW(split)
    assert [group.get("rule") for group in optimizer.param_groups] == [None, None, "sgd", None]


def test_patterns_that_leave_nothing_make_no_empty_group():
    model = nn.Linear(2, 2)
    assert len(groups.by_pattern(model, {"*": {"lr": 0.1}})) == 1
    assert len(groups.no_decay(nn.Linear(2, 2, bias=False), 0.1)) == 1


def test_matrices_and_the_rest():
    split = groups.matrices(Transformer())
    assert [group.get("rule") for group in split] == [None, rules.adamw]
    assert names(split[0])[:2] == ["position", "blocks.0.attn.in_proj_weight"]
    assert {"scales", "embed.weight", "blocks.0.mlp.0.bias", "head.bias"} < {*names(split[1])}
    assert sum(len(names(group)) for group in split) == len(list(Transformer().parameters()))
    optimizer = descend.Muon(split, lr=0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]


def test_the_rest_has_options_and_what_has_a_rule_stays():
    model = Transformer()
    head = groups.by_pattern(model, {"blocks.2.*": rules.sgd})
    split = groups.matrices(model, {"rule": rules.lion, "lr": 1e-4}, groups=head)
    assert [group.get("rule") for group in split] == [rules.sgd, None, rules.lion]
    assert [group.get("lr") for group in split] == [None, None, 1e-4]
    assert names(split[0]) == names(head[0])
    optimizer = descend.Muon(split, lr=0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02, 1e-4]


def test_the_three_together():
    model = Transformer()
    split = groups.no_decay(model, 0.1)
    split = groups.layerwise(model, 0.5, lr=1.0, groups=split)
    split = groups.by_pattern(model, {"position": {"weight_decay": 0.0}, "head.bias": {"lr": 7.0}}, groups=split)
    rates, decays = by_name(split, "lr"), by_name(split, "weight_decay")
    alone = by_name(groups.layerwise(model, 0.5, lr=1.0), "lr")
    assert rates == {**alone, "head.bias": 7.0}
    assert decays == {**by_name(groups.no_decay(model, 0.1), "weight_decay"), "position": 0.0}
    assert all(group["params"] for group in split)
    assert len(rates) == sum(len(group["params"]) for group in split) == len(every(model))
    other = groups.layerwise(model, 0.5, lr=1.0)
    other = groups.no_decay(model, 0.1, groups=other)
    assert by_name(other, "lr") == alone
    assert decayed(other) == decayed(groups.no_decay(model, 0.1))


def test_what_a_group_has_is_the_base():
    model = Transformer()
    split = groups.by_pattern(model, {"*mlp*": {"rule": rules.sgd, "lr": 8.0, "weight_decay": 0.5}})
    rates = by_name(groups.layerwise(model, 0.5, lr=1.0, groups=split), "lr")
    assert [rates[f"blocks.{i}.mlp.0.weight"] for i in range(3)] == [1.0, 2.0, 4.0]
    assert rates["blocks.2.attn.in_proj_weight"] == 0.5
    decays = by_name(groups.no_decay(model, 0.1, groups=split), "weight_decay")
    assert (decays["blocks.0.mlp.0.weight"], decays["blocks.0.mlp.0.bias"], decays["embed.weight"]) == (0.5, 0.0, 0.1)
    with pytest.raises(ValueError, match="layerwise needs the rate of the last layer"):
        groups.layerwise(model, 0.5, groups=split)
    everywhere = groups.by_pattern(model, {"*": {"lr": 2.0}})
    assert by_name(groups.layerwise(model, 0.5, groups=everywhere), "lr")["head.bias"] == 2.0


def test_groups_by_hand_and_those_of_an_optimizer_are_split():
    model = Transformer()
    by_hand = [{"params": model.head.parameters()}, {"params": [("mine", model.position)], "lr": 3.0}]
    assert [(names(g), g["lr"]) for g in groups.layerwise(model, 0.5, lr=1.0, groups=by_hand)] == [
        (["embed.weight"], 0.0625),
        (["head.bias"], 1.0),
        (["position"], 3.0 / 16),
    ]
    split = groups.no_decay(model, 0.1)
    expected = [(names(group), group["weight_decay"]) for group in split]
    torch.optim.SGD(split, lr=0.1)  # takes the dicts for its own: from here on they hold tensors, and names apart
    again = groups.no_decay(model, 0.1, groups=split)
    assert [(names(group), group["weight_decay"]) for group in again] == expected
    assert "param_names" not in again[0]


def test_what_is_given_stays_as_it_is():
    model = Transformer()
    given = groups.no_decay(model, 0.1)
    before = [dict(group) for group in given]
    groups.layerwise(model, 0.5, lr=1.0, groups=given)
    assert [[id(value) for value in group.values()] for group in given] == [
        [id(value) for value in group.values()] for group in before
    ]


def test_frozen_parameters_are_in_and_integers_are_not():
    model = Transformer()
    for p in model.parameters():
        p.requires_grad_(False)
    model.quantized = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    model.complex = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
    for split in (
        groups.no_decay(model, 0.1),
        groups.layerwise(model, 0.5, lr=1.0),
        groups.by_pattern(model, {"*": {}}),
    ):
        assert sorted(by_name(split, "params")) == sorted(set(every(model)) - {"quantized"})


def compiled(model):
    return torch.compile(model, backend="eager")


def test_names_are_without_what_wrappers_put_in():
    model = Transformer()
    inner = nn.ModuleDict({"module": nn.Linear(2, 2)})  # a module of that name is no wrapper
    assert names(groups.no_decay(inner, 0.1)[0]) == ["module.weight"]
    parallel = nn.DataParallel(model)
    for wrapped in (parallel, compiled(model), compiled(parallel)):
        assert decayed(groups.no_decay(wrapped, 0.1)) == decayed(groups.no_decay(model, 0.1))
        assert by_name(groups.layerwise(wrapped, 0.5, lr=1.0), "lr") == by_name(groups.layerwise(model, 0.5, 1.0), "lr")
        assert names(groups.by_pattern(wrapped, {"head.b*": {}})[0]) == ["head.bias"]
        assert decayed(groups.no_decay(nn.ModuleDict({"a": wrapped}), 0.1)) == {f"a.{n}" for n in MATRICES} | {
            "a.position",
            "a.embed.weight",
        }
    assert decayed(groups.no_decay(compiled(Sparing()), 0.1)) == MATRICES


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_names_under_distributed_data_parallel():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        assert [names(group) for group in groups.layerwise(wrapped, 0.5, lr=1.0)] == [
            ["0.weight", "0.bias"],
            ["1.weight", "1.bias"],
        ]
    finally:
        destroy_process_group()


def _linear():
    return nn.Linear(2, 2)


def _two():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


_SHARED = _linear()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: groups.matrices(_two(), {"lr": 0.1}), TypeError, "rest takes a rule such as descend.rules.adamw, or"),
        (lambda: groups.matrices(nn.ReLU()), ValueError, "model has no parameters: ReLU"),
        (lambda: groups.no_decay([torch.ones(2)], 0.1), TypeError, "model must be a torch.nn.Module, not list; groups"),
        (lambda: groups.no_decay(nn.ReLU(), 0.1), ValueError, "model has no parameters: ReLU"),
        (lambda: groups.no_decay(nn.LazyLinear(2), 0.1), ValueError, "weight has no shape yet; run a batch"),
        (lambda: groups.no_decay(_linear(), -0.1), ValueError, "weight_decay must be a number from 0 up, not -0.1"),
        (lambda: groups.no_decay(_linear(), float("nan")), ValueError, "weight_decay must be a number from 0 up"),
        (lambda: groups.no_decay(_linear(), True), TypeError, "weight_decay takes a number or a schedule, not True"),
        (lambda: groups.no_decay(_linear(), 0.1, groups=[]), ValueError, "groups holds no parameters"),
        (lambda: groups.no_decay(_linear(), 0.1, groups=_two().parameters()), TypeError, "groups takes param groups"),
        (
            lambda: groups.no_decay(_linear(), 0.1, groups=groups.no_decay(_linear(), 0.1)),
            ValueError,
            r"groups holds what is no parameter of the model: a Parameter of shape \(2, 2\)",
        ),
        (
            lambda: groups.no_decay(_SHARED, 0.1, groups=[{"params": [_SHARED.bias]}, {"params": [_SHARED.bias]}]),
            ValueError,
            "bias is in groups twice",
        ),
        (lambda: groups.layerwise(_two(), 0.5), ValueError, r"layerwise\(model, decay=0.5, lr=1e-3\)"),
        (lambda: groups.layerwise(_two(), 1.5, lr=1.0), ValueError, r"decay is the factor .* got 1.5"),
        (lambda: groups.layerwise(_two(), 0, lr=1.0), ValueError, "decay is the factor"),
        (lambda: groups.layerwise(_two(), 0.5, lr="1"), TypeError, "lr takes a number or a schedule, not '1'"),
        (lambda: groups.layerwise(_linear(), 0.5, lr=1.0), ValueError, "no ModuleList or Sequential .* layers="),
        (lambda: groups.layerwise(_linear(), 0.5, lr=1.0, layers=3), TypeError, "layers takes a list of modules"),
        (lambda: groups.layerwise(_linear(), 0.5, lr=1.0, layers=["a"]), TypeError, "layers takes modules, .* not 'a'"),
        (
            lambda: groups.layerwise(_linear(), 0.5, 1.0, layers=[_linear()]),
            ValueError,
            "layers holds what is no param",
        ),
        (
            lambda: groups.layerwise(_SHARED, 0.5, 1.0, layers=[_SHARED.bias]),
            ValueError,
            "layers leaves out weight; add .* or put the model itself",
        ),
        (lambda: groups.by_pattern(_linear(), {}), TypeError, "patterns takes a dict such as"),
        (lambda: groups.by_pattern(_linear(), {3: {}}), TypeError, "patterns takes names with"),
        (lambda: groups.by_pattern(_linear(), {"*": 0.1}), TypeError, "takes options such as {'lr': 0.01}, or a rule"),
        (lambda: groups.by_pattern(_linear(), {"*": {"params": []}}), ValueError, "which the pattern itself chooses"),
        (lambda: groups.by_pattern(_linear(), {"wieght": {}}), ValueError, "no parameter; did you mean 'weight'"),
        (lambda: groups.by_pattern(_two(), {"1": {}}), ValueError, r"no parameter; did you mean '1\.\*'"),
        (lambda: groups.by_pattern(_two(), {"*": {}, "0.*": {}}), ValueError, "patterns before '0.*' take all"),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()
