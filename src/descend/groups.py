"""Param groups of a model: which parameters decay, how fast each layer learns, what a pattern of names gets.

    from descend import groups

    split = groups.no_decay(model, weight_decay=0.05)
    split = groups.layerwise(model, decay=0.75, lr=1e-3 * warmup(500), groups=split)
    split = groups.by_pattern(model, {"head.*": {"lr": 1e-2}}, groups=split)
    opt = descend.AdamW(split)
    opt = descend.Muon(groups.matrices(model))                            # AdamW for what is no matrix
    print(opt.explain())                     # which parameter got which rule, rate and decay

Each function makes ordinary param groups, for torch's optimizers too (which take numbers but no schedules), and splits
those that it is given as `groups`: the result then holds the same parameters. A value that a group already has stands
in for the function's own, so that a group of another rule keeps its rate and decay as the base; `by_pattern` alone
writes over it.

- Every parameter is in one group, named, in the model's order; no group is empty. A tied weight counts once, under its
  first name.
- Frozen parameters (`requires_grad=False`) are in, as in `model.parameters()`: they can be thawed, and a checkpoint
  fits whichever are frozen. An optimizer does not touch them. (timm leaves them out.) Integers are left out.
- Names are the model's own, without what torch.compile, DistributedDataParallel, DataParallel, FSDP and activation
  checkpointing put in.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from numbers import Real
from operator import itemgetter
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from descend.places import Place, places_of
from descend.rule import Rule
from descend.rules import adamw
from descend.schedules import Schedule

Group = dict[str, Any]
"""A param group: `params`, a list of (name, parameter), and hyper-parameters."""


def no_decay(model: nn.Module, weight_decay: float | Schedule, *, groups: Iterable[Group] | None = None) -> list[Group]:
    """Groups with `weight_decay`, and groups without for biases, the parameters of norms and all of 0 or 1 dimensions.

    Not decayed are: every parameter of fewer than 2 dimensions (biases, scales of norms and layers, temperatures); of
    any shape those called bias (`in_proj_bias`, `relative_position_bias_table`), those of torch's normalization modules
    and of classes called ...Norm, and those that the model's own `no_weight_decay()` names, as timm's models do.
    Embeddings are decayed; to leave them out, too, `by_pattern(model, {"embed.*": {"weight_decay": 0.0}}, groups=...)`.

    timm decides by dimensions, the ending `.bias` and `no_weight_decay()`, so it decays biases and norms of more
    dimensions; transformers by the names and classes of biases and norms, so it decays other 1-dimensional parameters.

    Args:
        model: a module, wrapped or not.
        weight_decay: of what decays: a number from 0 up or a schedule. A group that has its own keeps it.
        groups: what to split; None for all of the model's parameters in one group.

    Raises:
        TypeError, ValueError: for a model without parameters, a decay that is none, groups that are not the model's.
    """
    places, base = places_of(model), _checked("weight_decay", weight_decay)
    exempt = {param: any(_is_exempt(param, place) for place in found) for param, found in places.items()}

    def options(group: Group, is_exempt: int) -> Group:
        own = _checked("weight_decay", group["weight_decay"]) if "weight_decay" in group else base
        return {"weight_decay": 0.0 if is_exempt else own}

    return _split(_normalized(places, groups), exempt, options)


def layerwise(
    model: nn.Module,
    decay: float,
    lr: float | Schedule | None = None,
    *,
    layers: Sequence[Any] | None = None,
    groups: Iterable[Group] | None = None,
) -> list[Group]:
    """A group per layer, from the stem to the head: at `lr` in the last one, `decay` times that in the one before.

    Layer i of n learns at lr * decay**(n - 1 - i): Clark et al. 2020, arXiv:2003.10555; for ViTs Bao et al. 2021,
    arXiv:2106.08254. The rates are in the groups, so no scheduler needs to know of a scale (timm's groups hold
    `lr_scale`, which only its schedulers read).

    The order in which the model registers its modules is taken for their depth. Each member of an outermost ModuleList
    or Sequential is a layer, and so is what stands in a row outside of them: embeddings before the blocks are one layer
    (the stem), norm and head behind them one (the head). A container around the whole model is looked through. A tied
    weight belongs to the first of its layers. Where this is not the model's order, give `layers`.

    Args:
        model: a module, wrapped or not.
        decay: factor from a layer to the one before it, in (0, 1].
        lr: rate of the last layer: a number or a schedule such as 1e-3 * warmup(500). A group that has its own keeps
            it as the base; it may be left out where all have.
        layers: the layers in order, the stem first: each a module, a parameter, or a list of these. What stands in
            several belongs to the first of them, so that `model` itself can come last, for the rest.
        groups: what to split; None for all of the model's parameters in one group.

    Raises:
        TypeError, ValueError: for a model in which no layers are found, layers that leave something out, a decay or
            rate that is none, groups that are not the model's.
    """
    places = places_of(model)
    if not _is_number(decay) or not 0 < decay <= 1:
        raise ValueError(
            f"decay is the factor from a layer to the one before it, in (0, 1], such as 0.75; got {decay!r}"
        )
    base = None if lr is None else _checked("lr", lr)
    found = _normalized(places, groups)
    layer_of = _layers_found(places) if layers is None else _layers_given(places, layers, found)
    last = max(layer_of.values())

    def options(group: Group, layer: int) -> Group:
        own = _checked("lr", group["lr"]) if "lr" in group else base
        if own is None:
            raise ValueError(
                "layerwise needs the rate of the last layer, as the groups hold rates: "
                f"layerwise(model, decay={decay}, lr=1e-3)"
            )
        return {"lr": own * float(decay) ** (last - layer)}

    return _split(found, layer_of, options)


def by_pattern(
    model: nn.Module, patterns: Mapping[str, Group | Rule], *, groups: Iterable[Group] | None = None
) -> list[Group]:
    """A group per pattern with its options, the first that matches a parameter's name; the rest in a group without.

    Patterns are those of a shell (fnmatch), for whole names: `*` matches any text, dots too, `?` a character, `[0-5]`
    one of these. "head.*" is everything below head, "*.bias" every bias but the model's own. A tied weight is matched
    under each of its names.

        groups.by_pattern(model, {"embed.*": {"lr": 1e-4, "betas": (0.9, 0.95)}, "*.bias": descend.rules.sgd})

    Args:
        model: a module, wrapped or not.
        patterns: from a pattern to what its group gets over what it has: a dict of hyper-parameters, flags and `rule`,
            or a rule. Rules are for descend's optimizers.
        groups: what to split; None for all of the model's parameters in one group.

    Raises:
        ValueError: for a pattern that matches nothing, or only what patterns before it have taken.
        TypeError: for options that are neither a dict nor a rule, groups that are not the model's.
    """
    places, chosen = places_of(model), _options(patterns)
    found = _normalized(places, groups)
    names = {param: [place.name for place in places[param]] for group in found for _, param in group["params"]}
    taken = {}
    for param, aliases in names.items():
        matching = (i for i, pattern in enumerate(chosen) if any(fnmatchcase(name, pattern) for name in aliases))
        taken[param] = next(matching, len(chosen))
    for i, pattern in enumerate(chosen):
        if i not in taken.values():
            raise ValueError(_of_no_use(pattern, [name for aliases in names.values() for name in aliases]))
    gains = [*chosen.values(), {}]
    return _split(found, taken, lambda _, index: gains[index])


def matrices(model: nn.Module, rest: Rule | Group = adamw, *, groups: Iterable[Group] | None = None) -> list[Group]:
    """Groups of weights that are matrices, for a rule such as Muon, and groups of the rest, which another rule steps.

        descend.Muon(groups.matrices(model, {"rule": descend.rules.adamw, "lr": 1e-3}), lr=0.02)

    Matrices are parameters of 2 and more dimensions (a filter is one of its first dimension by the rest) but for
    biases, norms and embeddings, tied ones too. The author of Muon leaves the output layer to AdamW as well (Jordan
    2024); which one that is only you know: `groups=by_pattern(model, {"head.*": {"rule": descend.rules.adamw, "lr":
    1e-3}})` takes it out. Give the rest a rate, and what else shall differ: what is given to the class holds for all.

    Args:
        model: a module, wrapped or not.
        rest: the rule of the rest, or options with a `rule`. A hyper-parameter that they leave open is what the
            optimizer's constructor is given for all groups (a rate of 0.02, say), else the rule's default.
        groups: what to split, where groups that have a rule stay as they are; None for all of the model's parameters.

    Raises:
        TypeError, ValueError: for a model without parameters, a rest without a rule, groups that are not the model's.
    """
    places, options = places_of(model), {"rule": rest} if isinstance(rest, Rule) else rest
    if not isinstance(options, dict) or not isinstance(options.get("rule"), Rule):
        raise TypeError(
            f"rest takes a rule such as descend.rules.adamw, or options with one under 'rule', not {rest!r}"
        )
    found = _normalized(places, groups)
    is_rest = {
        param: "rule" not in group and any(_is_no_matrix(param, place) for place in places[param])
        for group in found
        for _, param in group["params"]
    }
    return _split(found, is_rest, lambda group, is_rest: options if is_rest else {})


# ---- splitting -------------------------------------------------------------------------------------------------------


def _normalized(places: Mapping[Tensor, list[Place]], groups: Iterable[Group] | None) -> list[Group]:
    """The groups to split, with every parameter under the model's name for it.

    They may come from these functions, from an optimizer (torch's take the dicts that they are given for their own) or
    be written by hand.
    """
    if groups is None:
        every = [(found[0].name, p) for p, found in places.items() if p.is_floating_point() or p.is_complex()]
        return [{"params": every}]
    normalized, seen = [], set[Tensor]()
    for group in groups:
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"groups takes param groups, dicts with a list under 'params', not {type(group).__name__}")
        listed = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        params = [entry[-1] if isinstance(entry, tuple) else entry for entry in listed]
        for param in params:
            if not isinstance(param, Tensor) or param not in places:
                raise ValueError(f"groups holds what is no parameter of the model: {_shown(param)}")
            if param in seen:
                raise ValueError(f"{places[param][0].name} is in groups twice; name each parameter once")
            seen.add(param)
        rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        normalized.append({"params": [(places[param][0].name, param) for param in params], **rest})
    if not seen:
        raise ValueError("groups holds no parameters; leave it out to split all of the model's")
    return normalized


def _shown(value: object) -> str:
    return f"a {type(value).__name__} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _split(
    groups: Iterable[Group], part_of: Mapping[Tensor, int], options: Callable[[Group, int], Group]
) -> list[Group]:
    """Split each group into its parts, in their order, each with its options over what the group has."""
    split = []
    for group in groups:
        parts: dict[int, list[tuple[str, Tensor]]] = {}
        for name, param in group["params"]:
            parts.setdefault(part_of[param], []).append((name, param))
        split += [{**group, "params": parts[part], **options(group, part)} for part in sorted(parts)]
    return split


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _checked(name: str, value: Any) -> float | Schedule:
    """A rate or decay: a schedule, or a number that no step refuses."""
    if isinstance(value, Schedule):
        return value
    if not _is_number(value):
        raise TypeError(f"{name} takes a number or a schedule, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number from 0 up, not {value!r}")
    return float(value)


# ---- what does not decay ---------------------------------------------------------------------------------------------

_EMBEDDINGS: Final = (nn.Embedding, nn.EmbeddingBag)
_NORMS: Final = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_CLASS: Final = re.compile(r"norm(\dd)?$", re.IGNORECASE)
_BIAS: Final = re.compile(r"(^|_)bias(es)?(_|$)")


def _is_exempt(param: Tensor, place: Place) -> bool:
    return _is_no_weight(param, place) or any(map(_spares, place.modules, _names_below(place)))


def _is_no_weight(param: Tensor, place: Place) -> bool:
    """Whether the parameter is a bias, belongs to a norm or has less than two dimensions."""
    owner = place.modules[-1]
    is_of_norm = isinstance(owner, _NORMS) or bool(_NORM_CLASS.search(type(owner).__name__))
    return param.ndim < 2 or is_of_norm or bool(_BIAS.search(place.keys[-1]))


def _is_no_matrix(param: Tensor, place: Place) -> bool:
    return _is_no_weight(param, place) or isinstance(place.modules[-1], _EMBEDDINGS)


def _names_below(place: Place) -> list[str]:
    """The parameter's name in each of the modules on the way down."""
    return [".".join(place.keys[depth:]) for depth in range(len(place.keys))]


def _spares(module: nn.Module, name: str) -> bool:
    """Whether the module's own `no_weight_decay()` names this parameter of it."""
    spared = getattr(module, "no_weight_decay", None)
    return callable(spared) and any(fnmatchcase(name, pattern) for pattern in spared())


# ---- layers ----------------------------------------------------------------------------------------------------------


def _layers_found(places: Mapping[Tensor, list[Place]]) -> dict[Tensor, int]:
    """The layer of each parameter: a member of an outermost container, or a run of parameters outside of them."""
    above = 0
    while True:
        blocks = {param: _block(found[0], above) for param, found in places.items()}
        runs = [(block, [param for param, _ in run]) for block, run in groupby(blocks.items(), key=itemgetter(1))]
        if len(runs) > 1:
            return {param: layer for layer, (_, run) in enumerate(runs) for param in run}
        above = len(runs[0][0])  # a container around the whole model is looked through
        if not above:
            raise ValueError(
                "the model has no ModuleList or Sequential to find layers in; give them in order, the stem first: "
                "layers=[model.embed, model.body, model.head], say"
            )


def _block(place: Place, above: int) -> tuple[str, ...]:
    """The keys down to the member of the outermost container that holds the parameter; none outside of containers."""
    for depth in range(above, len(place.keys) - 1):
        if isinstance(place.modules[depth], (nn.ModuleList, nn.Sequential)):
            return place.keys[: depth + 1]
    return ()


def _layers_given(
    places: Mapping[Tensor, list[Place]], layers: Iterable[Any], groups: Iterable[Group]
) -> dict[Tensor, int]:
    """The layer of each parameter among those of the user. What adds no parameter is no layer."""
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers takes a list of modules, the stem first, not {layers!r}")
    layer_of: dict[Tensor, int] = {}
    layer = 0
    for entry in layers:
        parts = entry if isinstance(entry, (list, tuple)) else [entry]
        added = {param for part in parts for param in _parameters_of(part, places)} - layer_of.keys()
        layer_of.update(dict.fromkeys(added, layer))
        layer += bool(added)
    left_out = [name for group in groups for name, param in group["params"] if param not in layer_of]
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise ValueError(
            f"layers leaves out {', '.join(left_out[:3])}{more}; add their modules, or put the model itself where the "
            "rest belongs"
        )
    return layer_of


def _parameters_of(part: object, places: Mapping[Tensor, list[Place]]) -> list[Tensor]:
    if not isinstance(part, (nn.Module, Tensor)):
        raise TypeError(f"layers takes modules, parameters and lists of these, not {part!r}")
    params: list[Tensor] = [part] if isinstance(part, Tensor) else list(part.parameters())
    for param in params:
        if param not in places:
            raise ValueError(f"layers holds what is no parameter of the model: {_shown(param)}")
    return params


# ---- patterns --------------------------------------------------------------------------------------------------------


def _options(patterns: Mapping[str, Group | Rule]) -> dict[str, Group]:
    """What each pattern gives, as options of a group."""
    if not isinstance(patterns, Mapping) or not patterns:
        raise TypeError(f"patterns takes a dict such as {{'head.*': {{'lr': 0.01}}}}, not {patterns!r}")
    options: dict[str, Group] = {}
    for pattern, gains in patterns.items():
        if not isinstance(pattern, str):
            raise TypeError(f"patterns takes names with * and ? as keys, such as 'head.*', not {pattern!r}")
        if not isinstance(gains, (dict, Rule)):
            raise TypeError(
                f"patterns[{pattern!r}] takes options such as {{'lr': 0.01}}, or a rule such as descend.rules.sgd, "
                f"not {gains!r}"
            )
        options[pattern] = {"rule": gains} if isinstance(gains, Rule) else gains
        if "params" in options[pattern]:
            raise ValueError(f"patterns[{pattern!r}] has 'params', which the pattern itself chooses; leave it out")
    return options


def _of_no_use(pattern: str, names: Sequence[str]) -> str:
    """Why no parameter is in a pattern's group."""
    if any(fnmatchcase(name, pattern) for name in names):
        return f"patterns before {pattern!r} take all that it matches; the first that matches holds, so put it earlier"
    below = {
        f"{'.'.join(keys[:depth])}.*" for keys in (name.split(".") for name in names) for depth in range(1, len(keys))
    }
    (near,) = difflib.get_close_matches(pattern, [*sorted(below), *names], n=1, cutoff=0.0)
    return f"pattern {pattern!r} matches the name of no parameter; did you mean {near!r}?"
