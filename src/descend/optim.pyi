# Written by `python -m descend.stubs` (`make stubs`) from the rules; a test holds it to them.
from inspect import Signature
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from descend.optimizer import Optimizer as Optimizer
from descend.rule import Rule
from descend.schedules import Schedule

_Number = float | Tensor | Schedule

__all__: list[str]
classes: dict[str, type[DropIn]]

def by_name(name: str) -> type[DropIn]: ...
def make(rule: Rule) -> type[DropIn]: ...
def twin(name: str) -> type[torch.optim.Optimizer] | None: ...

class DropIn(Optimizer):
    rule: ClassVar[Rule]
    __signature__: ClassVar[Signature]
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

class AMSGrad(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class ASGD(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        lambd: _Number = 0.0001,
        alpha: _Number = 0.75,
        t0: _Number = 1000000.0,
        weight_decay: _Number = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Adadelta(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 1.0,
        rho: _Number = 0.9,
        eps: _Number = 1e-06,
        weight_decay: _Number = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Adagrad(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        lr_decay: _Number = 0,
        weight_decay: _Number = 0,
        initial_accumulator_value: _Number = 0,
        eps: _Number = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Adam(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class AdamW(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class AdamWPaper(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        eta: _Number = 1.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Adamax(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class AddSign(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        beta: _Number = 0.9,
        alpha: _Number = 1.0,
        f: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Lion(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.0001,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        weight_decay: _Number = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class NAdam(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0,
        momentum_decay: _Number = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class PowerSign(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        beta: _Number = 0.9,
        base: _Number = 2.718281828459045,
        f: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class RAdam(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class RMSprop(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        alpha: _Number = 0.99,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0,
        momentum: _Number = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Rprop(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.01,
        etas: tuple[_Number, _Number] = (0.5, 1.2),
        step_sizes: tuple[_Number, _Number] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        weight_decay: _Number = 0.0,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class SGD(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        momentum: _Number = 0,
        dampening: _Number = 0,
        weight_decay: _Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class SGDW(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class SGDWPaper(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.001,
        momentum: _Number = 0.9,
        weight_decay: _Number = 0.0,
        eta: _Number = 1.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...

class Signum(DropIn):
    def __init__(
        self,
        params: ParamsT,
        lr: _Number = 0.0001,
        beta: _Number = 0.9,
        weight_decay: _Number = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None: ...
