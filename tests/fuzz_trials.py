"""Runs the cases of the fuzzer on an optimizer, and compares every step with the truth and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

import descend
from descend.backends import compiler, kernels
from descend.backends.cpp import Storage
from descend.backends.draws import Draw
from descend.expr import Expr, is_random, leaf, rebuild
from descend.formula import draw_number
from descend.rule import Formula, Rule
from descend.vocabulary import log, minimum, sqrt, where
from error_bounds import FORMATS, HOST, Carried, Extended, Format, Member, compare, evaluate
from kernel_fuzzer import Case

STEPS = 2
BATCH = 24
"""Trials whose kernels stand in one translation unit."""


@dataclass
class Report:
    """What came of trials: numbers of elements, what was wrong in words, the largest error over its bound."""

    compared: int = 0
    excluded: int = 0
    tightness: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.compared += other.compared
        self.excluded += other.excluded
        self.tightness = max(self.tightness, other.tightness)
        self.wrong += other.wrong

    @property
    def share_excluded(self) -> float:
        return self.excluded / max(self.compared, 1)


class Trial:
    """One case in one storage type on one backend, ready for its first step."""

    def __init__(self, case: Case, dtype: str, backend: str, rule: Rule | None = None) -> None:
        self.case, self.dtype, self.backend = case, dtype, backend
        rule = rule or case.rule()
        self.formula = rule.formula()
        self.params = [self._numbers(0, i).requires_grad_() for i in range(len(case.settings.shapes))]
        second = case.settings.second
        groups = [{"params": self.params[:second]}]
        if self.params[second:]:
            rates = {name: tuple(x) if isinstance(x, list) else x for name, x in case.settings.rates.items()}
            groups.append({"params": self.params[second:], **rates})
        start, seed = case.settings.start, case.settings.seed
        self.optimizer = descend.Optimizer(groups, rule, backend=backend, step=start, seed=seed)
        if case.settings.start:
            for param in self.params:
                self.optimizer.state[param]["step"] = torch.tensor(float(case.settings.start))
        self._give_gradients(0)

    def _numbers(self, step: int, index: int, like: Tensor | None = None) -> Tensor:
        """The parameter of an index (step 0) or its gradient (from step 1)."""
        settings = self.case.settings
        random = np.random.default_rng([settings.seed, step, index])
        numbers = random.normal(size=settings.shapes[index])
        unusual = {
            "": [],
            "zeros": [0.0, -0.0, 1.0, -2.0, 1e-40 if self.dtype != "float64" else 5e-310],
            "infinities": [np.inf, -np.inf, np.nan, 0.0, 1e30],
        }[settings.special]
        if unusual and index % 2 == 0:
            chosen = random.choice(unusual, size=numbers.shape)
            numbers = np.where(random.random(numbers.shape) < 0.1, chosen, numbers)
        tensor = torch.from_numpy(np.asarray(numbers)).to(getattr(torch, self.dtype))
        if settings.special == "zeros" and like is not None:  # some gradients equal their parameter
            equal = torch.from_numpy(np.asarray(random.random(numbers.shape) < 0.05))
            tensor = torch.where(equal, like.detach(), tensor)
        by_columns = settings.transposed and tensor.ndim == 2
        return tensor.t().contiguous().t() if by_columns else tensor.contiguous()

    def kernels(self) -> list[tuple[Formula, Storage]]:
        """The kernels that the steps take: with all slots fresh, and with none."""
        names = ["p", "g", *self.formula.slots]
        types = tuple((name, self._storage(name).name) for name in names)
        settled = [self.formula.settle(fresh) for fresh in (self.formula.asks_fresh, frozenset())]
        return [(formula, Storage(types)) for formula in settled]

    def _give_gradients(self, step: int) -> None:
        absent = self.case.settings.absent if step == 0 else ()
        for index, param in enumerate(self.params):
            param.grad = None if index in absent else self._numbers(step + 1, index, param)

    def run(self) -> Report:
        """Take the steps, each compared with the truth from the values that were there before it."""
        report = Report()
        for step in range(STEPS):
            self._give_gradients(step)
            report.add(self._step(step))
        return report

    def _step(self, step: int) -> Report:
        indices = [i for i, param in enumerate(self.params) if param.grad is not None]
        drawn = self.formula.rewritten(_of_uniform_numbers)
        members = [self._member(i, drawn) for i in indices]
        idle = {i: param.detach().clone() for i, param in enumerate(self.params) if i not in indices}
        truths = evaluate(members)
        self.optimizer.step()
        report = Report()
        for i, before in idle.items():
            if not torch.equal(before.nan_to_num(1.5), self.params[i].detach().nan_to_num(1.5)):
                report.wrong.append(f"{self}: step {step}: parameter {i} has no gradient and has changed")
        for i, member, truth in zip(indices, members, truths, strict=True):
            state = self.optimizer.state[self.params[i]]
            if int(state["step"]) != member.t:
                report.wrong.append(f"{self}: step {step}: parameter {i} counts {state['step']}, not {member.t}")
            for name, carried in truth.items():
                where = f"{self}: step {step}: {name} of parameter {i}"
                report.add(self._compared(name, i, carried, member, where))
        return report

    def _compared(self, name: str, index: int, truth: Carried, member: Member, where: str) -> Report:
        param = self.params[index]
        scalar = name in member.scalar_storage
        got = param if name == "p" else self.optimizer.state[param][self.formula.slots[name].key]
        storage = self._storage(name)
        if got.dtype is not getattr(torch, storage.name) or got.shape != (() if scalar else param.shape):
            return Report(wrong=[f"{where}: stored as {got.dtype} of shape {tuple(got.shape)}"])
        result = compare(_extended(got), truth, storage, HOST if scalar else member.arithmetic)
        report = Report(result.compared, result.excluded, result.tightness)
        if result.wrong.size:
            at = result.wrong[0]
            value, bound = np.ravel(truth.value)[at], float(np.ravel(truth.bound)[at])
            report.wrong.append(
                f"{where}: {result.wrong.size} of {result.compared} wrong; element {at} is "
                f"{_extended(got).ravel()[at]!r}, not {value!r} within {bound:.3g} (before rounding to {storage.name})"
            )
        return report

    def _storage(self, name: str) -> Format:
        if name in ("p", "g"):
            return FORMATS[self.dtype]
        slot = self.formula.slots[name]
        return FORMATS[slot.dtype or (self.dtype if slot.shape == "like" else "float32")]

    def _arithmetic(self) -> Format:
        elements = FORMATS["float64" if self.dtype == "float64" else "float32"]
        # torch's vectorised square root is not rounded correctly everywhere
        return replace(elements, sqrt_ulps=1) if self.backend == "eager" else elements

    def _member(self, index: int, drawn: Formula) -> Member:
        param = self.params[index]
        state = self.optimizer.state.get(param, {})
        group = next(group for group in self.optimizer.param_groups if any(x is param for x in group["params"]))
        slots = {}
        for name, slot in self.formula.slots.items():
            if slot.key in state:
                slots[name] = _extended(state[slot.key])
            elif name not in self.formula.asks_fresh:
                initial = group[slot.init] if isinstance(slot.init, str) and slot.init != "p" else slot.init
                start = _extended(param) if initial == "p" else np.asarray(initial, dtype=Extended)
                shape = param.shape if slot.shape == "like" else ()
                slots[name] = np.broadcast_to(self._storage(name).round(start), tuple(shape))
        t = int(state["step"]) + 1 if "step" in state else 1
        for node in self.formula.draws:
            draw = Draw(self.case.settings.seed, t, index, draw_number(node))
            slots[_uniform_of(node)] = _extended(draw.uniform(param, torch.float64))
        return Member(
            drawn,
            _extended(param),
            _extended(param.grad),
            slots,
            {name: group[name] for name in self.formula.rule.hyper_parameters},
            t,
            self._arithmetic(),
            {name: self._storage(name) for name, slot in self.formula.slots.items() if slot.shape == "scalar"},
        )

    def __str__(self) -> str:
        return f"case {self.case.settings.seed} in {self.dtype} on {self.backend}"


def _uniform_of(node: Expr) -> str:
    return f"uniform {draw_number(node)}"


def _of_uniform_numbers(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """A random operation as a function of the uniform numbers that it draws, which stand in for a slot."""
    if not is_random(node):
        return rebuild(node, args)
    u = leaf("slot", (_uniform_of(node), "like"))
    return where(u < args[1], args[0], 0) if node.op == "keep" else _normal_quantile(u) * args[0]


def _normal_quantile(u: Expr) -> Expr:
    """Wichura 1988, Algorithm AS 241, PPND7, whose third branch no u of 23 bits reaches."""
    q = u - 0.5
    r = 0.180625 - q * q
    middle = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
    middle = q * middle / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1)
    s = sqrt(-log(minimum(u, 1 - u))) - 1.6
    tail = ((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777
    tail = tail / ((0.12021132975 * s + 0.73700164250) * s + 1)
    return where(abs(q) <= 0.425, middle, where(q < 0, -tail, tail))


def _extended(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy().astype(Extended)


def trials(cases: Iterable[Case], backend: str, low: bool = True) -> list[Trial]:
    """Every case in float32, float64 and, if asked, its low type, made before any runs so that kernels are shared."""
    made = []
    for case in cases:
        rule = case.rule()
        made += [Trial(case, dtype, backend, rule) for dtype in case.dtypes if low or dtype != case.settings.low]
    return made


def run(made: Sequence[Trial]) -> Report:
    """Run trials one after another; what is wrong comes with the text of its case."""
    total = Report()
    for start in range(0, len(made), BATCH):
        compile_together(made[start : start + BATCH])
        for trial in made[start : start + BATCH]:
            report = trial.run()
            if report.wrong:
                report.wrong.append(f"\n{trial.case.text}")
            total.add(report)
    return total


def compile_together(made: Sequence[Trial]) -> None:
    """Make the kernels of trials in one translation unit.

    Raises:
        AssertionError: if the compiler refuses one, with its messages and the text of the case.
    """
    requests = {trial: trial.kernels() for trial in made if trial.backend == "cpp"}
    try:
        kernels.prepare([request for together in requests.values() for request in together])
    except compiler.CompilationError:
        for trial, together in requests.items():
            try:
                kernels.prepare(together)
            except compiler.CompilationError as error:
                raise AssertionError(f"{trial} does not compile: {error}\n{trial.case.text}") from None
        raise
