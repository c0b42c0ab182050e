"""From a plan to C++: one kernel that steps all tensors of an optimizer, readable, with the author's names.

The generated code has a row type for the table of addresses, a function per pass that handles whole tiles of elements,
one that takes a chunk apart into tiles (its end is padded to a tile, so that every element goes through the same
instructions wherever it stands), scalar code between passes, and the entry that Python calls. `prelude.hpp` holds the
functions of the vocabulary and the storage types, `driver.hpp` the loops over chunks and threads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from descend.backends.plan import Pass, Plan, is_reduction
from descend.expr import Expr, Rank, hyper_of, slot_of, walk

STORAGE: Final[Mapping[str, str]] = {
    "float64": "double",
    "float32": "float",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
"""The C++ type that holds a storage type."""

FUNCTIONS: Final[Mapping[str, str]] = {
    "pow": "power",
    "abs": "absolute",
    "sign": "sign",
    "sqrt": "square_root",
    "exp": "exponential",
    "log": "logarithm",
    "tanh": "hyperbolic_tangent",
    "minimum": "minimum",
    "maximum": "maximum",
    "clip": "clip",
}
OPERATORS: Final[Mapping[str, tuple[str, int]]] = {
    "add": ("+", 3),
    "sub": ("-", 3),
    "mul": ("*", 4),
    "div": ("/", 4),
    "lt": ("<", 2),
    "le": ("<=", 2),
    "gt": (">", 2),
    "ge": (">=", 2),
    "eq": ("==", 1),
    "ne": ("!=", 1),
}
"""Operators and how tightly they bind. `neg`, `where`, leaves and reductions are written by `_Code` itself."""

_PREFIX, _CALL, _CHOICE = 5, 6, 0
_TAKEN: Final = frozenset(
    "alignas auto bool break case char class const continue default delete do double else enum explicit export extern "
    "false float for friend goto if inline int long namespace new operator private protected public register return "
    "short signed sizeof static struct switch template this throw true try typedef typename union unsigned using void "
    "volatile while and or not xor row rows call count work sums values shared seed step team i j k tile valid first "
    "start length whole rest chunk lanes real numel bucket ordinal load store copy add_up add_up_squares total visit "
    "visit_part for_each_chunk chunks_of Team Tensor Call Sweep Row TILE CHUNK LANES bfloat16 float16 random_tile "
    "store_stochastically scalars tensor_scalars".split()
) | frozenset(FUNCTIONS.values())
_HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Storage:
    """The types of a kernel's tensors.

    Attributes:
        dtypes: by stream name ("p", "g", slots shaped like the parameter) and scalar slot name, a key of `STORAGE`.
        stochastic: whether values stored as bfloat16 are rounded stochastically.
    """

    dtypes: tuple[tuple[str, str], ...]
    stochastic: bool = False

    def __getitem__(self, name: str) -> str:
        return dict(self.dtypes)[name]

    @property
    def real(self) -> str:
        """The type of the arithmetic."""
        return "double" if self["p"] == "float64" else "float"

    def is_stochastic(self, name: str) -> bool:
        """Whether a stream is rounded stochastically."""
        return self.stochastic and self[name] == "bfloat16"


def translation_unit(kernels: Sequence[str], title: str) -> str:
    """A whole source file: a title, the prelude, the driver and kernels."""
    headers = [(_HERE / name).read_text() for name in ("prelude.hpp", "driver.hpp")]
    return "\n".join([f"// {title}\n#include <stdint.h>\n", *headers, *kernels])


def kernel(plan: Plan, storage: Storage, symbol: str) -> str:
    """The source of one kernel, exported under `symbol`; it needs the prelude and the driver before it."""
    return _Code(plan, storage, symbol).text()


def scalar_name(plan: Plan, node: Expr) -> str:
    """What a scalar is called in the kernel: the author's name, the hyper-parameter's, or none ("")."""
    if node in plan.names:
        return plan.names[node]
    if node.op == "hyper":
        name, index = hyper_of(node)
        return name if index is None else f"{name}_{index}"
    return node.op if node.op in ("t", "numel") else slot_of(node)[0] if node.op == "slot" else ""


def literal(value: float, real: str) -> str:
    """A number as C++ writes it."""
    if math.isnan(value):
        return '__builtin_nan("")'
    if math.isinf(value):
        return "-__builtin_inf()" if value < 0 else "__builtin_inf()"
    digits = (
        f"{int(value)}" if value == int(value) and abs(value) < 1e6 and math.copysign(1, value) > 0 else repr(value)
    )
    if digits.isdigit():
        return digits
    return f"{real}({digits})"


@dataclass
class _Code:
    """Writes one kernel."""

    plan: Plan
    storage: Storage
    symbol: str
    names: dict[Expr, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = {*_TAKEN, *self.plan.streams, *(f"{name}_" for name in self.plan.streams)}
        leaves = {leaf for sweep in self.plan.passes for leaf in sweep.loads}
        for leaf in leaves:
            self.names[leaf] = slot_of(leaf)[0] if leaf.op == "slot" else leaf.op
        for number, node in enumerate(self.host + self.plan.tensor_values + self.plan.shared_values):
            taken.add(self._name(node, scalar_name(self.plan, node) or f"s{number}", taken))
        for node, name in self.plan.names.items():
            if node not in self.names and node.args:
                taken.add(self._name(node, name, taken))
        self.taken = taken

    def _name(self, node: Expr, wanted: str, taken: set[str]) -> str:
        name, number = wanted if wanted not in taken else f"{wanted}_new", 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        self.names[node] = name
        return name

    @cached_property
    def host(self) -> tuple[Expr, ...]:
        return self.plan.bucket_scalars + self.plan.tensor_scalars

    @property
    def real(self) -> str:
        return self.storage.real

    def text(self) -> str:
        sweeps = [part for number, sweep in enumerate(self.plan.passes) for part in self._sweep(number, sweep)]
        parts = [self._head(), self._row(), *sweeps, *self._scalar_code(), self._entry()]
        return "\n\n".join(parts) + f"\n\n}}  // namespace {self.symbol}_kernel\n"

    def _head(self) -> str:
        types = ", ".join(f"{name} {self.storage[name]}" for name in self.plan.streams)
        lines = [f"// {self.plan.formula.rule.name}: {types}; arithmetic in {self.real}"]
        lines += self._legend("bucket", self.plan.bucket_scalars) + self._legend("tensor", self.plan.tensor_scalars)
        return "\n".join([*lines, f"namespace {self.symbol}_kernel {{", f"using real = {self.real};"])

    def _legend(self, per: str, scalars: Sequence[Expr]) -> list[str]:
        """What the host computes, in words."""
        inside = _Words(self)
        return [f"// {per} scalar {i}: {self.names[node]} = {inside.write(node)}" for i, node in enumerate(scalars)]

    def _row(self) -> str:
        return "\n".join(
            [
                "struct Row : Tensor {",
                *(f"    {self._pointer(name)} {name};" for name in self.plan.streams),
                "};",
            ]
        )

    def _pointer(self, name: str) -> str:
        return ("" if name in self.plan.stored else "const ") + STORAGE[self.storage[name]] + "*"

    # the passes

    def _sweep(self, number: int, sweep: Pass) -> list[str]:
        return [self._tiles(number, sweep), self._chunk(number, sweep)]

    def _streams(self, sweep: Pass) -> list[str]:
        written = {name for name, _ in sweep.stores}
        return [n for n in self.plan.streams if n in written or any(self._stream(x) == n for x in sweep.loads)]

    def _stream(self, leaf: Expr) -> str:
        return slot_of(leaf)[0] if leaf.op == "slot" else leaf.op

    def _is_written(self, sweep: Pass, name: str) -> bool:
        return any(name == stored for stored, _ in sweep.stores)

    def _is_random(self, sweep: Pass) -> bool:
        return any(self.storage.is_stochastic(name) for name, _ in sweep.stores)

    def _arguments(self, sweep: Pass) -> list[str]:
        streams = []
        for name in self._streams(sweep):
            constant = "" if self._is_written(sweep, name) else "const "
            streams.append(f"{constant}{STORAGE[self.storage[name]]}* __restrict {name}_")
        extra = ["int64_t valid", "double* __restrict lanes"] if sweep.reductions else []
        extra += ["const Call<Row>& call", "const Row& row", "int64_t first"] if self._is_random(sweep) else []
        return ["int64_t count", *streams, *(f"{kind} {name}" for kind, name in self._scalar_tables(sweep)), *extra]

    def _scalar_tables(self, sweep: Pass) -> list[tuple[str, str]]:
        read = {self._places[node][0] for node in self._scalars_of(sweep)}
        return [("const double*", name) for name in self._tables if name in read]

    def _scalars_of(self, sweep: Pass) -> dict[Expr, None]:
        roots = [root for _, root in sweep.stores]
        read = [a for node in sweep.body for a in node.args if a.rank < Rank.ELEMENT] + roots
        return dict.fromkeys(node for node in read if node.rank < Rank.ELEMENT and node.op != "constant")

    def _tiles(self, number: int, sweep: Pass) -> str:
        lines = [f"static __attribute__((noinline)) void pass{number}({', '.join(self._arguments(sweep))}) {{"]
        lines += [f"    {line}" for line in self._scalar_lines(sweep)]
        lines.append("    for (int64_t tile = 0; tile < count; tile += TILE) {")
        for r, _ in enumerate(sweep.reductions):
            lines.append(f"        real terms{r}[TILE];")
        for name, root in sweep.stores:
            if self.storage.is_stochastic(name):
                site = list(self.plan.formula.outputs).index(name)
                lines.append(f"        uint16_t random_{name}[TILE];")
                lines.append(
                    f"        random_tile(call.seed, {site}, call.step, static_cast<uint32_t>(row.ordinal), first + tile, "
                    f"random_{name});"
                )
        lines.append("        for (int64_t j = 0; j < TILE; j++) {")
        lines.append("            const int64_t i = tile + j;")
        lines += [f"            {line}" for line in self._element_lines(sweep)]
        lines.append("        }")
        for r, node in enumerate(sweep.reductions):
            squares = "_squares" if node.op.endswith("norm") else ""
            lines.append(f"        add_up{squares}(terms{r}, lanes + {r} * LANES);")
        return "\n".join([*lines, "    }", "}"])

    def _scalar_lines(self, sweep: Pass) -> list[str]:
        lines = []
        for node in self._scalars_of(sweep):
            table, index = self._places[node]
            name = self.names[node]
            if node.condition:
                lines.append(f"const bool {name} = {table}[{index}] != 0;")
            else:
                lines.append(f"const real {name} = {table}[{index}];")
        return lines

    @cached_property
    def _tables(self) -> dict[str, tuple[Expr, ...]]:
        """The tables of scalars that a kernel reads, and what stands in their columns."""
        plan = self.plan
        tables = {"bucket": plan.bucket_scalars, "tensor": plan.tensor_scalars}
        return {**tables, "values": plan.tensor_values, "shared": plan.shared_values}

    @cached_property
    def _places(self) -> dict[Expr, tuple[str, int]]:
        """In which table and column each scalar stands."""
        return {node: (table, i) for table, nodes in self._tables.items() for i, node in enumerate(nodes)}

    def _element_lines(self, sweep: Pass) -> list[str]:
        uses = Counter(arg for node in sweep.body for arg in node.args)
        uses.update(root for _, root in sweep.stores)
        uses.update(node.args[0] for node in sweep.reductions)
        names = dict(self.names)
        taken = set(self.taken)
        lines = []
        for leaf in sweep.loads:
            stream = self._stream(leaf)
            lines.append(f"const real {names[leaf]} = load({stream}_[i]);")
        writer = _Elements(names, self.real)
        for node in sweep.body:
            if node not in names and (uses[node] > 1 or _depth(node, names) > _DEEP):
                number = 1
                while f"x{number}" in taken:
                    number += 1
                taken.add(f"x{number}")
                wanted = f"x{number}"
            elif node in names:
                wanted = names.pop(node)
            else:
                continue
            kind = "bool" if node.condition else "real"
            lines.append(f"const {kind} {wanted} = {writer.write(node)};")
            names[node] = wanted
        for r, node in enumerate(sweep.reductions):
            lines.append(f"terms{r}[j] = i < valid ? {writer.write(node.args[0], _CHOICE + 1)} : real(0);")
        for name, root in sweep.stores:
            value = writer.write(root)
            if self.storage.is_stochastic(name):
                lines.append(f"store_stochastically({value}, random_{name}[j], {name}_[i]);")
            else:
                lines.append(f"store({value}, {name}_[i]);")
        return lines

    def _chunk(self, number: int, sweep: Pass) -> str:
        streams, count = self._streams(sweep), len(sweep.reductions)
        head = "const Call<Row>& call, int64_t index, int64_t start, int64_t length, int64_t chunk"
        lines = [f"static void chunk{number}({head}) {{", "    const Row& row = call.rows[index];"]
        sizes = {"bucket": len(self.plan.bucket_scalars), "tensor": len(self.plan.tensor_scalars)}
        sizes["values"] = len(self.plan.tensor_values)
        where = {
            "bucket": f"call.bucket + row.bucket * {sizes['bucket']}",
            "tensor": f"call.tensor + index * {sizes['tensor']}",
            "values": f"call.values + index * {sizes['values']}",
            "shared": "call.shared",
        }
        tables = [where[name] for _, name in self._scalar_tables(sweep)]
        random = self._is_random(sweep)

        def arguments(elements: str, valid: str, pointers: list[str], first: str) -> str:
            extra = [valid, "lanes"] if sweep.reductions else []
            extra += ["call", "row", first] if random else []
            return ", ".join([elements, *pointers, *tables, *extra])

        lines.append("    const int64_t whole = length / TILE * TILE, rest = length - whole;")
        if sweep.reductions:
            lines.append(f"    double lanes[{count} * LANES] = {{}};")
        pointers = [f"row.{name} + start" for name in streams]
        lines.append(f"    if (whole) pass{number}({arguments('whole', 'whole', pointers, 'start')});")
        lines.append("    if (rest) {")
        loaded = {self._stream(leaf) for leaf in sweep.loads}
        for name in streams:
            lines.append(f"        {STORAGE[self.storage[name]]} {name}[TILE] = {{}};")
        for name in streams:
            if name in loaded:
                lines.append(f"        copy({name}, row.{name} + start + whole, rest);")
        lines.append(f"        pass{number}({arguments('TILE', 'rest', streams, 'start + whole')});")
        for name, _ in sweep.stores:
            lines.append(f"        copy(row.{name} + start + whole, {name}, rest);")
        lines.append("    }")
        for r in range(count):
            lines.append(f"    call.sums[chunk * {count} + {r}] = total(lanes + {r} * LANES, LANES, 1);")
        if not count:
            lines.append("    (void)chunk;")
        return "\n".join([*lines, "}"])

    # what stands between passes

    def _scalar_code(self) -> list[str]:
        """A function after each pass that adds up its reductions, and computes what follows them."""
        parts = []
        befores = [*(sweep.scalars for sweep in self.plan.passes[1:]), self.plan.after]
        for number, (sweep, following) in enumerate(zip(self.plan.passes, befores, strict=True)):
            if sweep.reductions or following:
                parts.append(self._between(number, sweep.reductions, following))
        return parts

    def _between(self, number: int, reductions: Sequence[Expr], following: Sequence[Expr]) -> str:
        count, width = len(reductions), len(self.plan.tensor_values)
        per_tensor = [node for node in following if node.rank > Rank.OPTIMIZER]
        for_all = [node for node in following if node.rank <= Rank.OPTIMIZER]
        local = [(r, node) for r, node in enumerate(reductions) if node.rank is Rank.TENSOR]
        lines = [f"static void between{number}(const Call<Row>& call) {{"]
        for r, node in enumerate(reductions):
            if node.rank < Rank.TENSOR:
                _, index = self._places[node]
                lines += [
                    "    {",
                    "        double sum = 0, elements = 0;",
                    "        for (int64_t index = 0; index < call.count; index++) {",
                    "            const Row& row = call.rows[index];",
                    f"            sum += total(call.sums + row.chunk * {count} + {r}, chunks_of(row.numel), {count});",
                    "            elements += static_cast<double>(row.numel);",
                    "        }",
                    f"        call.shared[{index}] = {_finished(node.op, 'sum', 'elements')};",
                    "    }",
                ]
        if for_all:
            lines += ["    {", "        double* shared = call.shared;"]
            lines += [f"        {line}" for line in self._double_lines(for_all)] + ["    }"]
        if local or per_tensor:
            lines += [
                "    for (int64_t index = 0; index < call.count; index++) {",
                "        const Row& row = call.rows[index];",
                f"        double* values = call.values + index * {width};",
                f"        const double* bucket = call.bucket + row.bucket * {len(self.plan.bucket_scalars)};",
                f"        const double* tensor = call.tensor + index * {len(self.plan.tensor_scalars)};",
                "        const double* shared = call.shared;",
                "        (void)bucket, (void)tensor, (void)shared;",
            ]
            for r, node in local:
                sum_ = f"total(call.sums + row.chunk * {count} + {r}, chunks_of(row.numel), {count})"
                _, place = self._places[node]
                lines.append(f"        values[{place}] = {_finished(node.op, sum_, 'static_cast<double>(row.numel)')};")
            lines += [f"        {line}" for line in self._double_lines(per_tensor)] + ["    }"]
        return "\n".join([*lines, "}"])

    def _double_lines(self, computed: Sequence[Expr]) -> list[str]:
        """Scalar code in double: what is read from tables, then each value computed and stored."""
        own = set(computed)
        read = dict.fromkeys(a for node in computed for a in node.args if a.op != "constant" and a not in own)
        lines = []
        for node in read:
            table, index = self._places[node]
            kind = ("bool", " != 0") if node.condition else ("double", "")
            lines.append(f"const {kind[0]} {self.names[node]} = {table}[{index}]{kind[1]};")
        writer = _Elements({node: self.names[node] for node in read}, "double")
        for node in computed:
            name, value = self.names[node], writer.write(node)
            value = f"static_cast<double>(static_cast<float>({value}))" if self._is_kept_in_float(node) else value
            lines.append(f"const {'bool' if node.condition else 'double'} {name} = {value};")
            writer.names[node] = name
            table, index = self._places[node]
            lines.append(f"{table}[{index}] = {name};")
        return lines

    def _is_kept_in_float(self, node: Expr) -> bool:
        """Whether the node is the new value of a scalar slot of float32: what is stored is the truth."""
        return any(root is node and self.storage[name] == "float32" for name, root in self.plan.kernel_results.items())

    def _entry(self) -> str:
        lines = [
            f'extern "C" __attribute__((visibility("default"))) void {self.symbol}(const Call<Row>* call) {{',
        ]
        befores = [*(sweep.scalars for sweep in self.plan.passes[1:]), self.plan.after]
        for number, (sweep, following) in enumerate(zip(self.plan.passes, befores, strict=True)):
            if sweep.reductions or sweep.stores:
                lines.append(
                    f"    for_each_chunk(*call, [call](int64_t index, int64_t start, int64_t length, int64_t chunk) {{"
                )
                lines.append(f"        chunk{number}(*call, index, start, length, chunk);")
                lines.append("    });")
            if sweep.reductions or following:
                lines.append(f"    between{number}(*call);")
        return "\n".join([*lines, "}"])


_DEEP: Final = 6
"""An expression of more operations than this gets a line of its own."""


def _depth(node: Expr, names: Mapping[Expr, str]) -> int:
    """How many operations would stand in the line that writes the node."""
    if node in names or not node.args:
        return 0
    return 1 + sum(_depth(a, names) for a in node.args)


def _finished(op: str, sum_: str, count: str) -> str:
    if op.endswith("norm"):
        return f"__builtin_sqrt({sum_})"
    return f"{sum_} / {count}" if op.endswith("mean") else sum_


@dataclass
class _Elements:
    """Writes expressions: those with a name by it, constants as literals."""

    names: Mapping[Expr, str]
    real: str

    def write(self, node: Expr, least: int = _CHOICE) -> str:
        """The node as C++, in parentheses if it binds less tightly than `least`."""
        if node in self.names:
            return self.names[node]
        if node.op == "constant":
            return self.constant(float(node.value))  # type: ignore[arg-type]
        text, tightness = self.operation(node)
        return text if tightness >= least else f"({text})"

    def constant(self, value: float) -> str:
        """A literal."""
        return f"real({literal(value, 'real')})" if literal(value, "real").isdigit() else literal(value, "real")

    def operation(self, node: Expr) -> tuple[str, int]:
        """An operation, and how tightly it binds."""
        if node.op in FUNCTIONS:
            return f"{FUNCTIONS[node.op]}({', '.join(self.argument(a) for a in node.args)})", _CALL
        if node.op == "neg":
            return f"-{self.write(node.args[0], _PREFIX)}", _PREFIX
        if node.op == "where":
            condition, a, b = node.args
            return f"{self.write(condition, 1)} ? {self.write(a, 1)} : {self.write(b, 1)}", _CHOICE
        sign, tightness = OPERATORS[node.op]
        left, right = node.args
        return f"{self.write(left, tightness)} {sign} {self.write(right, tightness + 1)}", tightness

    def argument(self, node: Expr) -> str:
        """An argument of a function."""
        return self.write(node)


class _Words(_Elements):
    """Writes what a scalar of the host is, for the reader."""

    def __init__(self, code: _Code) -> None:
        super().__init__({}, "double")
        self.code = code

    def write(self, node: Expr, least: int = _CHOICE) -> str:
        """The node in terms of hyper-parameters, the step and what has a name."""
        if not node.args and node.op != "constant":
            return scalar_name(self.code.plan, node) if node.op != "hyper" else _hyper(node)
        return super().write(node, least)

    def constant(self, value: float) -> str:
        """A number."""
        return f"{value:g}"


def _hyper(node: Expr) -> str:
    name, index = hyper_of(node)
    return name if index is None else f"{name}[{index}]"


__all__ = ["Storage", "kernel", "scalar_name", "translation_unit", "walk", "is_reduction"]
