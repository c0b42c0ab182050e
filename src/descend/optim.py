"""The drop-in names: `descend.AdamW` for `torch.optim.AdamW`, and a class for every other rule, made from the rules.

A class whose name torch has too takes torch's constructor signature (names, order, defaults) and param group keys;
what torch lacks follows as keyword-only arguments: the rule's other hyper-parameters, torch's flags, and our options.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch

from descend import rules
from descend.arguments import FLAGS, OPTIONS, with_remedy
from descend.optimizer import Optimizer
from descend.rule import Rule

_ELSEWHERE = {
    "LBFGS": "it evaluates the loss several times per step and is no formula: use torch.optim.LBFGS",
    "SparseAdam": "use torch.optim.SparseAdam for sparse gradients, or AdamW with dense ones",
    "Adafactor": "its state is factored, which no formula of one parameter says: use torch.optim.Adafactor",
    **dict.fromkeys(
        ("AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"),
        "docs/coming-from.md shows what comes near it",
    ),
    "Lamb": "it is descend.LAMB",
    "Lars": "it is descend.LARS",
}


class DropIn(Optimizer):
    """The base of the drop-in classes: an optimizer whose rule is the class's own."""

    rule: ClassVar[Rule]
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unknown = [name for name in kwargs if name not in self.__signature__.parameters]
        if unknown:
            hint = _nearest(unknown[0], self.__signature__.parameters)
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {unknown[0]!r}; {hint}")
        bound = self.__signature__.bind(*args, **kwargs)
        super().__init__(rule=self.rule, **bound.arguments)

    def _check_combination(self, values: dict[str, Any]) -> None:
        """Give torch's class of the same name the same numbers and flags, for what it alone forbids."""
        torch_class = twin(self.rule.title)
        if torch_class is None:
            return
        known = inspect.signature(torch_class.__init__).parameters
        given = {name: _as_torch_takes_it(value) for name, value in values.items() if name in known}
        try:
            torch_class([torch.zeros(1, 1)], **given)
        except (ValueError, RuntimeError) as error:
            raise with_remedy(error) from None
        except TypeError:  # no refusal: ours takes tensors where torch's takes numbers only
            pass


def _as_torch_takes_it(value: Any) -> Any:
    """Whole numbers in a tuple as floats: torch's Adam takes betas=(0.0, 0.9) and no (0, 0.9)."""
    return tuple(float(x) if isinstance(x, int) else x for x in value) if isinstance(value, (tuple, list)) else value


def twin(name: str) -> type[torch.optim.Optimizer] | None:
    """torch's class of the same name, if it has one."""
    found = getattr(torch.optim, name, None)
    return found if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) else None


def _constants(torch_class: Any, signature: inspect.Signature) -> dict[str, Any]:
    """Group entries that torch's class keeps and that no argument of ours sets (AdamW's decoupling)."""
    entries = torch_class([torch.zeros(1, 1)]).defaults if torch_class else {}
    return {name: value for name, value in entries.items() if name not in signature.parameters}


def _signature(rule: Rule) -> inspect.Signature:
    keyword, positional = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    torch_class = twin(rule.title)
    if torch_class is not None:
        known = dict(list(inspect.signature(torch_class.__init__).parameters.items())[1:])
    else:
        known = {"params": inspect.Parameter("params", positional)}
        known |= {name: inspect.Parameter(name, positional, default=d) for name, d in rule.hyper_parameters.items()}
    more = {**rule.hyper_parameters, **FLAGS, **OPTIONS}
    known |= {name: inspect.Parameter(name, keyword, default=d) for name, d in more.items() if name not in known}
    return inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in known.values()])


_ARGUMENTS = """

    Args:
        params: parameters, named parameters, or dicts of them with a group's own values.
        {hyper_parameters}: numbers, schedules or 1-element tensors; bools choose the variant.
        maximize: ascend instead of descend.
        foreach: True steps eagerly by torch's multi-tensor functions, which False forbids there.
        capturable: keep step counts and the rate in tensors on the parameter's device, and read none in a step.
        differentiable: let gradients flow through the step (parameters must then not be leaves).
        fused: True demands a fused kernel and raises, saying why, where there can be none; False forbids it.
        backend: "auto" steps in a fused kernel what can be and the rest eagerly, as `explain` tells; "cpp" demands
            kernels as `fused` does, "eager" takes none.
        state_dtype: the storage type of state shaped like the parameter; None is the parameter's.
        stochastic_rounding: round at random what is stored in bfloat16, so that its mean stays.
        clip_norm: scale all gradients together down to this norm, as torch.nn.utils.clip_grad_norm_ does.
        clip_value: hold each element of the gradients between -clip_value and clip_value, before clip_norm.
        clip_agc: scale the gradient of each unit down to this share of its weights' norm; a param group with
            `clip_agc=None` is left out.
        ema_decay: keep an average of the weights, which `with optimizer.averaged():` puts in their place.
        seed: chooses the random numbers of stochastic rounding.
        step: where the schedules start: the number of steps applied before.
    """


def make(rule: Rule) -> type[DropIn]:
    """The optimizer class of a rule, named by its title."""
    signature = _signature(rule)
    arguments = _ARGUMENTS.format(hyper_parameters=", ".join(rule.hyper_parameters))
    body = {
        "__doc__": f"{(rule.__doc__ or rule.name).rstrip()}{arguments}",
        "__module__": __name__,
        "rule": rule,
        "__signature__": signature,
    }
    return type(rule.title, (DropIn,), {**body, "_constants": _constants(twin(rule.title), signature)})


classes: dict[str, type[DropIn]] = {rule.title: make(rule) for rule in rules.catalog().values()}
"""Every drop-in class by name."""
globals().update(classes)
__all__ = sorted(["Optimizer", *classes])


def by_name(name: str) -> type[DropIn]:
    """The drop-in class of a rule's name or a class's name, in any case.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    found = {title.lower(): cls for title, cls in classes.items()}
    if name.lower() not in found:
        elsewhere = {title.lower(): where for title, where in _ELSEWHERE.items()}
        hint = elsewhere.get(name.lower()) or _nearest(name.lower(), found)
        raise ValueError(f"there is no optimizer {name!r}; {hint}")
    return found[name.lower()]


def of(rule: Rule) -> Callable[..., Optimizer]:
    """What makes optimizers of a rule from `params` and hyper-parameters: the drop-in class of one that is shipped."""
    if rules.catalog().get(rule.name) is rule:
        return classes[rule.title]
    return partial(Optimizer, rule=rule)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    titles = {title.lower(): title for title in classes}
    hint = _ELSEWHERE.get(name) or _nearest(titles.get(name.lower(), name), classes)
    raise AttributeError(f"descend has no {name}; {hint}")
