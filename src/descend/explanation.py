"""What an optimizer says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from descend import render

if TYPE_CHECKING:
    from descend.optimizer import Optimizer


def explain(optimizer: Optimizer) -> str:
    """See `Optimizer.explain`."""
    chosen = str(optimizer.options)
    lines = [f"options: {chosen}"] if chosen else []
    names = optimizer.options.numbers(None, differentiable=False)
    for i, (rule, group) in enumerate(zip(optimizer._rules, optimizer.param_groups, strict=True)):
        count = sum(param.numel() for param in group["params"])
        held = [v for p in group["params"] for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
        schedules = optimizer._schedules[i]
        numbers = ", ".join(
            f"{name}={group[name]!r}" + (f" by {schedules[name]}" if name in schedules else "")
            for name in rule.hyper_parameters
        )
        lines.append(
            f"group {i}: {rule.name} on {len(group['params'])} tensors, {count:,} parameters\n"
            f"  {numbers}\n"
            f"  backend eager: torch's multi-tensor functions, the only backend of this version\n"
            f"  state {sum(v.numel() * v.element_size() for v in held):,} bytes; "
            f"{render.cost(optimizer._formula(i, 2, names))}"
        )
    return "\n".join(lines)
