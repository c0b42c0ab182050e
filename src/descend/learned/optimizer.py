"""A network as a `torch.optim.Optimizer`, for any model: groups, schedules, checkpoints, and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from descend.arguments import chosen_groups, listed
from descend.hyper_parameters import at
from descend.interrupts import HeldBack
from descend.learned.network import Network
from descend.schedules import Schedule
from descend.scheduling import Schedules

_FORMAT: Final = 1


class LearnedOptimizer(torch.optim.Optimizer):
    """Steps parameters by a network that was trained to step them.

    Args:
        params: parameters, named parameters, or dicts of them with a group's own `lr` and `network`: so there can be
            one network for each kind of parameter.
        network: a trained one, such as `descend.learned.pretrained("lstm-digits")`. It is copied onto no device: each
            of its weights is read where it lies, so keep it beside the parameters.
        lr: what steps are multiplied by: a number, or a schedule. A learned optimizer needs none; 1 leaves its steps.
        chunk_bytes: what a step takes in memory beside gradients and state, about.
        maximize: ascend instead of descend.

    Raises:
        TypeError: the network is none.
        ValueError: lr is negative or not finite, chunk_bytes is below 1, or there are no parameters.

    The state of the LSTM is 2 * layers * hidden numbers for an element: 320 bytes in float32 with its defaults, where
    Adam has 8; that of the perceptron 16 bytes, and rows and columns. Steps of narrower parameters than float32 are
    computed in float32, and so is the state. Weights of the network are not in the state dict, only what tells them
    from others; load a state dict beside the same network.
    """

    def __init__(
        self,
        params: Any,
        network: Network,
        lr: float | Schedule = 1.0,
        *,
        chunk_bytes: int = 2**25,
        maximize: bool = False,
    ) -> None:
        if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {chunk_bytes!r}; give a whole number of bytes from 1")
        self.chunk_bytes = chunk_bytes
        self._network = _checked(network)
        self._networks: list[Network] = []
        self._schedules = Schedules()
        self._rate = lr
        super().__init__(listed(params), {"lr": lr, "maximize": bool(maximize)})
        self.defaults["lr"] = self.param_groups[0]["lr"] if isinstance(lr, Schedule) else lr

    @property
    def applied_steps(self) -> int:
        """The clock of the schedules: how many steps have been applied."""
        return int(self.param_groups[0]["applied_steps"]) if self.param_groups else 0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with torch's keys, `lr`, and a `network` of its own if it has one."""
        group = dict(param_group)
        network = _checked(group.pop("network", self._network))
        rate = group.get("lr", self._rate)
        clock = self.applied_steps
        numbers = self._schedules.add_group({"lr": rate}, clock)
        try:
            _check_rate(numbers["lr"])
            super().add_param_group({**group, **numbers})
            for param in self.param_groups[-1]["params"]:
                if not param.is_floating_point():
                    raise TypeError(f"a parameter is of {param.dtype}; a learned optimizer steps real numbers")
        except BaseException:
            self._schedules.drop_last_group()
            del self.param_groups[len(self._networks) :]
            raise
        self._networks.append(network)
        self.param_groups[-1].update(
            network=network.digest(), applied_steps=clock, state_format=_FORMAT, capturable=False
        )

    def set_schedule(self, name: str, value: float | Schedule, group: int | None = None) -> None:
        """Put a number or a schedule in force from the next step on.

        Args:
            name: "lr".
            value: a number or a schedule.
            group: the index of one param group; None for all.

        Raises:
            TypeError: it is another name.
            IndexError: there is no such group.
            ValueError: the value in force is negative or not finite.
        """
        if name != "lr":
            raise TypeError(f"{name!r} is no hyper-parameter of a learned optimizer; it has lr")
        for place in chosen_groups(group, len(self.param_groups)):
            _check_rate(at(value, self.applied_steps))
            self._schedules.replace(place, self.param_groups[place], name, value, self.applied_steps)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient is sparse, or state has another shape than its parameter asks for; nothing has
                changed then.
            ValueError: the rate in force is negative or not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        driven = self._schedules.settle(self.param_groups, self.applied_steps)
        with torch.no_grad():
            work = self._checked_work()
            with HeldBack():
                for group, network, param, state in work:
                    self._step(group, network, param, state)
                for group in self.param_groups:
                    group["applied_steps"] += 1
                self._schedules.put(self.param_groups, self._schedules.upcoming(driven, self.applied_steps))
        return loss

    def _checked_work(self) -> list[tuple[dict[str, Any], Network, Tensor, dict[str, Tensor]]]:
        """What is to be stepped; whatever a step would fail at is said here, and new state is made."""
        found = []
        for group, network in zip(self.param_groups, self._networks, strict=True):
            _check_rate(group["lr"])
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError("a gradient is sparse; a learned optimizer takes dense ones")
                state = self.state.get(param) or network.first(param.detach().to(_computed_in(param)))
                _check_state(state, network.first(param.detach().to("meta", _computed_in(param))), param)
                found.append((group, network, param, state))
        for _, _, param, state in found:
            self.state[param] = state
        return found

    def _step(self, group: Mapping[str, Any], network: Network, param: Tensor, state: Mapping[str, Tensor]) -> None:
        dtype, elements = _computed_in(param), max(1, self.chunk_bytes // network.bytes_per_element)
        assert param.grad is not None
        grad = param.grad.to(dtype)
        value = param.detach().to(dtype).contiguous()
        network.step(value, -grad if group["maximize"] else grad, state, float(group["lr"]), elements)
        if value.data_ptr() != param.data_ptr():
            param.copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        ours = ("chunk_bytes", "_network", "_networks", "_rate", "_schedules")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in ours}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict; state keeps its type, and schedules go on at the loaded clock.

        Raises:
            ValueError: the groups do not match, or were stepped by other networks; nothing has changed then.
        """
        groups = state_dict["param_groups"]
        if len(groups) == len(self.param_groups):
            for place, (saved, own) in enumerate(zip(groups, self.param_groups, strict=True)):
                if saved.get("network") != own["network"]:
                    raise ValueError(
                        f"param_groups[{place}] was stepped by network {saved.get('network')}, and is now to be by "
                        f"{own['network']}; build the optimizer with the network that was saved beside this state"
                    )
        super().load_state_dict(state_dict)
        entries = {
            number: param
            for saved, own in zip(groups, self.param_groups, strict=True)
            for number, param in zip(saved["params"], own["params"], strict=True)
        }
        for number, state in state_dict["state"].items():  # torch casts it to the type of the parameter
            if number in entries:
                param = entries[number]
                self.state[param] = {name: one.detach().clone().to(param.device) for name, one in state.items()}
        self._schedules.restart(self.param_groups, self.applied_steps)


def _checked(network: Any) -> Network:
    if not isinstance(network, Network):
        raise TypeError(f"network is {network!r}; give one of descend.learned, such as pretrained('lstm-digits')")
    return network


def _check_rate(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"lr is {value!r}; give a finite number from 0, or a schedule")


def _check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], param: Tensor) -> None:
    shapes = {name: tuple(one.shape) for name, one in state.items()}
    asked = {name: tuple(one.shape) for name, one in wanted.items()}
    if shapes != asked:
        raise RuntimeError(
            f"the state of a parameter of shape {tuple(param.shape)} has {shapes}, and its network keeps {asked}; "
            "delete the entry, and the step makes it anew"
        )


def _computed_in(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32
