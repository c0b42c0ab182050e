"""One kernel of many formulas: rows of a matrix, each the weights of a network with an update rule of its own.

    rows = Rows([adam, sgd], [{"lr": 0.01}, {"lr": 0.1}], weights, steps=100)
    rows.grads[:] = ...                                      # of rows.params
    finite = rows.step()

Thousands of formulas are too many to compile: one interpreter is compiled, once, and formulas are its data (see
`bytecode` and `many.cpp`). It steps rows on one thread. The scalars of the host are computed beforehand, for all steps.
Where nothing can be compiled, or on another device, torch interprets the same instructions, formula by formula.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descend.backends import compiler
from descend.backends.bytecode import CODES, Bytecode, bytecode
from descend.backends.draws import DRAWS, Draw, bit_sites
from descend.backends.operations import TORCH
from descend.formula import Formula

TILE: Final = 256
"""Elements that one instruction handles; rows are padded to a multiple."""

_64_BITS: Final = 2**64 - 1
_HERE: Final = Path(__file__).parent


class _Program(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("instructions", "constants")),
        *((name, ctypes.c_int64) for name in ("length", "constant_count", "scalar_count", "slot_count")),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("programs", "rows", "scalars", "params", "grads", "state", "finite")),
        *((name, ctypes.c_int64) for name in ("count", "width", "stride")),
    ]


_ROW = np.dtype([("program", np.int64), ("scalars", np.int64), ("seed", np.uint64), ("step", np.uint64)])


class Rows:
    """Weights of many networks, with the state of the rule that steps each.

    Args:
        formulas: of the rows. Rows with the same formula object share what is made of it.
        hyper_parameters: of each row, over the defaults of its rule: numbers, or arrays with one for each step. Those
            that chose the formula's variant are not looked at again.
        params: the weights, one row per network, in float32; they are copied.
        steps: how many steps will be taken at most.
        seeds: of the random operations, one for all rows or one for each.

    Attributes:
        grads: where the gradients belong, of the shape of `params`. Whoever computes them writes them here.

    Raises:
        FormulaError: a formula is not elementwise; the message names the rule.
        TypeError: for a hyper-parameter that a rule does not declare.
        ValueError: arguments that do not fit each other.
    """

    def __init__(
        self,
        formulas: Sequence[Formula],
        hyper_parameters: Sequence[Mapping[str, Any]],
        params: Tensor,
        *,
        steps: int,
        seeds: int | Sequence[int] = 0,
    ) -> None:
        _check(formulas, hyper_parameters, params, steps, seeds)
        count, width = params.shape
        values = [formula.rule.merged(given) for formula, given in zip(formulas, hyper_parameters, strict=True)]
        self._steps = steps
        self._formulas = list(formulas)
        self._programs: list[Bytecode] = []
        self._first, self._later = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._scalars_first, self._scalars_later = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._taken = np.zeros(count, np.int64)
        given = [seeds] * count if isinstance(seeds, int) else seeds
        self._seeds = np.array([seed & _64_BITS for seed in given], dtype=np.uint64)
        self._read(values)
        stride = -(-width // TILE) * TILE
        most = max((len(program.slots) for program in self._programs), default=0)
        self._params, self._grads = (torch.zeros(count, stride, device=params.device) for _ in range(2))
        self._state = torch.zeros(most, count, stride, device=params.device)
        self._width = width
        self.params.copy_(params)
        self._begin(values)
        self._native = _native() if params.device.type == "cpu" else None

    def _read(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Translate each formula once, and compute the scalars of its rows for all steps."""
        of_formula: dict[int, list[int]] = {}
        for row, formula in enumerate(self._formulas):
            of_formula.setdefault(id(formula), []).append(row)
        tables: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)]
        begin = 0
        for rows in of_formula.values():
            formula = self._formulas[rows[0]]
            later = bytecode(formula.settle(frozenset()))
            first = bytecode(formula.settle(formula.asks_fresh)) if formula.asks_fresh else later
            of_rows = [values[row] for row in rows]
            for program, places, starts, steps in (
                (later, self._later, self._scalars_later, self._steps),
                (first, self._first, self._scalars_first, 1),
            ):
                if program is later and places is self._first:
                    self._first[rows], self._scalars_first[rows] = self._later[rows], self._scalars_later[rows]
                    continue
                table = program.host_table(of_rows, steps)
                places[rows] = len(self._programs)
                starts[rows] = begin + np.arange(len(rows)) * table[0].size
                self._programs.append(program)
                tables.append(table.reshape(-1))
                begin += table.size
        self._scalars = np.concatenate(tables)
        self._scalar_counts = np.array([len(program.scalars) for program in self._programs], np.int64)

    def _begin(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Give every slot its first value."""
        for row, formula in enumerate(self._formulas):
            for place, slot in enumerate(formula.slots.values()):
                initial = values[row][slot.init] if isinstance(slot.init, str) and slot.init != "p" else slot.init
                if isinstance(initial, str):
                    self._state[place, row] = self._params[row]
                elif np.ravel(initial)[0] != 0:
                    self._state[place, row] = float(np.ravel(initial)[0])

    @property
    def params(self) -> Tensor:
        """The weights as they are now, a view."""
        return self._params[:, : self._width]

    @property
    def grads(self) -> Tensor:
        """Where the gradients belong, a view."""
        return self._grads[:, : self._width]

    def state(self, row: int) -> dict[str, Tensor]:
        """The slots of a row, by their names in the rule's signature: views."""
        return {name: self._state[place, row, : self._width] for place, name in enumerate(self._formulas[row].slots)}

    def __len__(self) -> int:
        return len(self._formulas)

    def step(self, active: Tensor | None = None) -> Tensor:
        """Take one step with every row, or with those that `active` (bool, one per row) names; the others stay.

        Returns:
            Whether all weights of each row are finite; true of rows that stay.

        Raises:
            ValueError: a row has taken all the steps that were announced.
        """
        moves = np.ones(len(self), bool) if active is None else active.cpu().numpy()
        if (self._taken[moves] >= self._steps).any():
            raise ValueError(f"steps is {self._steps}, and a row has taken as many; announce more")
        is_first = self._taken == 0
        program = np.where(is_first, self._first, self._later)
        scalars = np.where(is_first, self._scalars_first, self._scalars_later)
        scalars += self._taken * self._scalar_counts[program]
        if not moves.all():
            program = np.where(moves, program, -1)
        self._taken += moves
        step = self._step_in_torch if self._native is None else self._step_natively
        return step(program, scalars)

    def select(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Keep these rows alone, in this order, with their state."""
        chosen = np.asarray(rows, dtype=np.int64)
        self._formulas = [self._formulas[row] for row in chosen]
        for name in ("_first", "_later", "_scalars_first", "_scalars_later", "_taken", "_seeds"):
            setattr(self, name, getattr(self, name)[chosen])
        kept = torch.from_numpy(chosen).to(self._params.device)
        self._params, self._grads = self._params[kept], self._grads[kept]
        self._state = self._state[:, kept]

    # the kernel

    @functools.cached_property
    def _described(self) -> tuple[Any, list[Any]]:
        """The programs as the kernel reads them, and what must live as long."""
        held: list[Any] = []
        described = (_Program * len(self._programs))()
        for place, program in enumerate(self._programs):
            instructions, constants = program.array, np.array(program.constants, np.float32)
            held += [instructions, constants]
            described[place] = _Program(
                instructions.ctypes.data,
                constants.ctypes.data,
                len(instructions),
                len(constants),
                len(program.scalars),
                len(program.slots),
            )
        return described, held

    def _step_natively(self, program: npt.NDArray[np.int64], scalars: npt.NDArray[np.int64]) -> Tensor:
        rows = np.empty(len(self), _ROW)
        rows["program"], rows["scalars"], rows["seed"], rows["step"] = program, scalars, self._seeds, self._taken
        finite = torch.ones(len(self), dtype=torch.bool)
        call = _Call(
            ctypes.addressof(self._described[0]),
            rows.ctypes.data,
            self._scalars.ctypes.data,
            self._params.data_ptr(),
            self._grads.data_ptr(),
            self._state.data_ptr(),
            finite.data_ptr(),
            len(self),
            self._width,
            self._params.shape[1],
        )
        assert self._native is not None
        self._native(ctypes.byref(call))
        return finite

    # torch

    def _step_in_torch(self, program: npt.NDArray[np.int64], scalars: npt.NDArray[np.int64]) -> Tensor:
        finite = torch.ones(len(self), dtype=torch.bool, device=self._params.device)
        for number in np.unique(program[program >= 0]):
            rows = np.flatnonzero(program == number)
            self._interpret(self._programs[number], rows, scalars[rows])
            chosen = torch.from_numpy(rows).to(finite.device)
            finite[chosen] = self._params[chosen, : self._width].isfinite().all(1)
        return finite

    def _interpret(self, program: Bytecode, rows: npt.NDArray[np.int64], scalars: npt.NDArray[np.int64]) -> None:
        """Step the rows of one formula."""
        device = self._params.device
        chosen = torch.from_numpy(rows).to(device)
        memory = [self._params, self._grads, *self._state[: len(program.slots)]]
        at: dict[int, Tensor] = {place: stream[chosen] for place, stream in enumerate(memory)}
        for value in program.constants:
            at[len(at)] = torch.tensor(value, dtype=torch.float32, device=device)
        table = self._scalars[scalars[:, None] + np.arange(len(program.scalars))]
        for column in torch.from_numpy(table).to(device).unbind(1):
            at[len(at)] = column[:, None]
        written = set()
        for step in program.instructions:
            args = [at[place] for place in step.args]
            if step.op == "where":
                args[0] = args[0] != 0
            if step.op in DRAWS:
                result = DRAWS[step.op](self._uniform(rows, step.draw), *args)
            else:
                result = args[0] if step.op == "copy" else TORCH[step.op](*args)
            at[step.to] = result.to(torch.float32).expand(len(rows), memory[0].shape[1])
            if step.to < len(memory):
                written.add(step.to)
        for place in written:
            memory[place][chosen] = at[place]

    def _uniform(self, rows: npt.NDArray[np.int64], number: int) -> Tensor:
        """The uniform numbers of a draw."""
        drawn = [
            Draw(int(self._seeds[row]), int(self._taken[row]), 0, number).uniform(self._params[row], torch.float32)
            for row in rows
        ]
        return torch.stack(drawn)


def _check(
    formulas: Sequence[Formula],
    hyper_parameters: Sequence[Mapping[str, Any]],
    params: Tensor,
    steps: int,
    seeds: int | Sequence[int],
) -> None:
    if params.ndim != 2 or params.dtype != torch.float32:
        raise ValueError(f"params is a float32 matrix with a row per network, not {params.dtype} {tuple(params.shape)}")
    lengths = {"formulas": len(formulas), "hyper_parameters": len(hyper_parameters)}
    lengths |= {} if isinstance(seeds, int) else {"seeds": len(seeds)}
    for name, length in lengths.items():
        if length != len(params):
            raise ValueError(f"params has {len(params)} rows, and {name} {length}; give one for each row")
    for given in hyper_parameters:
        for name, value in given.items():
            if isinstance(value, np.ndarray) and value.shape != (steps,):
                raise ValueError(f"{name} has shape {value.shape}; give a number, or one for each of {steps} steps")
    if steps < 1:
        raise ValueError(f"steps is {steps}; give 1 or more")


@functools.cache
def _native() -> Any:
    """The kernel; None where nothing can be compiled."""
    if compiler.unavailable() is not None:
        return None
    prelude, kernel = ((_HERE / name).read_text() for name in ("prelude.hpp", "many.cpp"))
    codes = f"enum Code : int32_t {{ {', '.join(code.upper() for code in CODES)} }};"
    codes += f"\nconstexpr uint32_t FIRST_SITE = {bit_sites(0)[0]};"
    try:
        library = compiler.load("\n".join(["// many formulas", prelude, codes, kernel]))
    except compiler.CompilationError:
        return None
    function = library.step_rows
    function.argtypes, function.restype = [ctypes.c_void_p], None
    return function
