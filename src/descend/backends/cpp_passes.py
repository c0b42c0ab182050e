"""One pass of a kernel in C++: a function for whole tiles, and one that takes a chunk apart into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from descend.backends.cpp_expressions import CHOICE, Writer
from descend.backends.draws import bit_sites
from descend.backends.plan import Pass
from descend.expr import Expr, Rank, is_random
from descend.formula import draw_number

if TYPE_CHECKING:
    from descend.backends.cpp import _Kernel

_LONG: Final = 6
"""An expression of more operations than this gets a line of its own."""


@dataclass
class PassCode:
    """Writes one pass of a kernel."""

    kernel: _Kernel
    number: int
    sweep: Pass

    @cached_property
    def written(self) -> set[str]:
        """The streams that the pass stores into."""
        return {name for name, _ in self.sweep.stores}

    @cached_property
    def loaded(self) -> set[str]:
        """The streams that the pass reads."""
        return {self.kernel.plan.stream_of(leaf) for leaf in self.sweep.loads}

    @cached_property
    def streams(self) -> list[str]:
        """Both, in the order of the kernel's."""
        return [name for name in self.kernel.plan.streams if name in self.written | self.loaded]

    def called(self, stream: str) -> str:
        """The name of a stream in the kernel."""
        return self.kernel.streams[stream]

    @cached_property
    def scalars(self) -> list[Expr]:
        """The scalars that the elements meet."""
        body = [(node, node.args[:-1] if is_random(node) else node.args) for node in self.sweep.body]
        read = [a for _, args in body for a in args] + [root for _, root in self.sweep.stores]
        return list(dict.fromkeys(node for node in read if node.rank < Rank.ELEMENT and node.op != "constant"))

    @cached_property
    def tables(self) -> list[str]:
        """The tables of scalars that the pass reads."""
        read = {self.kernel.places[node][0] for node in (*self.scalars, *(draw.args[-1] for draw in self.draws))}
        return [table for table in self.kernel.tables if table in read]

    @cached_property
    def draws(self) -> list[Expr]:
        """The random operations of the pass."""
        return list(filter(is_random, self.sweep.body))

    @property
    def is_random(self) -> bool:
        """Whether random bits are drawn."""
        return bool(self.random or self.draws)

    @cached_property
    def random(self) -> list[str]:
        """The streams that are rounded stochastically."""
        return [name for name, _ in self.sweep.stores if self.kernel.storage.is_stochastic(name)]

    def tiles(self) -> str:
        """The function that takes whole tiles."""
        arguments = ["int64_t count"]
        arguments += [f"{self.kernel.pointer(n, n in self.written)} __restrict {self.called(n)}_" for n in self.streams]
        arguments += [f"const double* {table}" for table in self.tables]
        arguments += ["int64_t valid", "double* __restrict lanes"] if self.sweep.reductions else []
        arguments += ["const Call<Row>& call", "const Row& row", "int64_t first"] if self.is_random else []
        lines = [f"static __attribute__((noinline)) void pass{self.number}({', '.join(arguments)}) {{"]
        lines += _indented(self.kernel.scalar_lines(self.scalars, "real"))
        if self.draws:
            table, index = self.kernel.places[self.draws[0].args[-1]]
            lines.append(f"    const uint64_t drawn_at = static_cast<uint64_t>({table}[{index}]);  // t")
        lines.append("    for (int64_t tile = 0; tile < count; tile += TILE) {")
        lines += _indented([f"real terms{r}[TILE];" for r, _ in enumerate(self.sweep.reductions)], 2)
        for name in self.random:
            site = list(self.kernel.plan.formula.outputs).index(name)
            lines += _indented(_drawn(f"random_{self.called(name)}", site, "call.step"), 2)
        for node in self.draws:
            for half, site in zip(("high", "low"), bit_sites(draw_number(node)), strict=True):
                lines += _indented(_drawn(f"draw{draw_number(node)}_{half}", site, "drawn_at"), 2)
        lines += ["        for (int64_t j = 0; j < TILE; j++) {", "            const int64_t i = tile + j;"]
        lines += [*_indented(self._elements(), 3), "        }"]
        for r, node in enumerate(self.sweep.reductions):
            add = "add_up_squares" if node.op.endswith("norm") else "add_up"
            lines.append(f"        {add}(terms{r}, lanes + {r} * LANES);")
        return "\n".join([*lines, "    }", "}"])

    def _elements(self) -> list[str]:
        """What is done with one element."""
        sweep, kernel = self.sweep, self.kernel
        uses = Counter(arg for node in sweep.body for arg in node.args)
        uses.update(root for _, root in sweep.stores)
        uses.update(node.args[0] for node in sweep.reductions)
        known = {node: kernel.names[node] for node in [*sweep.loads, *self.scalars]}
        writer = Writer(known, "real")
        lines = [
            f"const real {known[leaf]} = load({self.called(kernel.plan.stream_of(leaf))}_[i]);" for leaf in sweep.loads
        ]
        unnamed = 0
        for node in sweep.body:
            name = kernel.names.get(node)
            if name is None and (uses[node] > 1 or _length(node, known) > _LONG):
                unnamed += 1
                name = f"x{unnamed}"
                while name in kernel.taken:
                    unnamed += 1
                    name = f"x{unnamed}"
            if name is not None:
                lines.append(f"const {'bool' if node.condition else 'real'} {name} = {writer.write(node)};")
                known[node] = name
        for r, node in enumerate(sweep.reductions):
            lines.append(f"terms{r}[j] = i < valid ? {writer.write(node.args[0], CHOICE + 1)} : real(0);")
        for name, root in sweep.stores:
            random = f", random_{self.called(name)}[j]" if name in self.random else ""
            store = "store_stochastically" if random else "store"
            lines.append(f"{store}({writer.write(root)}{random}, {self.called(name)}_[i]);")
        return lines

    def chunk(self) -> str:
        """The function that takes a chunk apart into tiles."""
        head = "const Call<Row>& call, const Row& row, int64_t index, int64_t start, int64_t length, int64_t chunk"
        reductions, called = len(self.sweep.reductions), list(map(self.called, self.streams))
        lines = ["const int64_t whole = length / TILE * TILE, rest = length - whole;"]
        if reductions:
            lines.append(f"double lanes[{reductions} * LANES] = {{}};")
        lines.append(f"if (whole) {self._call('whole', 'whole', [f'row.{n} + start' for n in called], 'start')};")
        lines.append("if (rest) {")
        types = [self.kernel.stored_as(name) for name in self.streams]
        lines += _indented([f"{kind} {name}[TILE] = {{}};" for kind, name in zip(types, called, strict=True)])
        loaded = [self.called(name) for name in self.streams if name in self.loaded]
        lines += _indented([f"copy({name}, row.{name} + start + whole, rest);" for name in loaded])
        lines.append(f"    {self._call('TILE', 'rest', called, 'start + whole')};")
        stored = [self.called(name) for name, _ in self.sweep.stores]
        lines += _indented([f"copy(row.{name} + start + whole, {name}, rest);" for name in stored])
        lines.append("}")
        for r in range(reductions):
            lines.append(f"call.sums[chunk * {reductions} + {r}] = total_of(lanes + {r} * LANES, LANES, 1);")
        return "\n".join([f"static void chunk{self.number}({head}) {{", *_indented(lines), "}"])

    def _call(self, count: str, valid: str, pointers: Sequence[str], first: str) -> str:
        rows = self.kernel.rows_of_tables()
        arguments = [count, *pointers, *(rows[table] for table in self.tables)]
        arguments += [valid, "lanes"] if self.sweep.reductions else []
        arguments += ["call", "row", first] if self.is_random else []
        return f"pass{self.number}({', '.join(arguments)})"


def _indented(lines: Sequence[str], by: int = 1) -> list[str]:
    return [f"{'    ' * by}{line}" for line in lines]


def _drawn(name: str, site: int, step: str) -> list[str]:
    """The random bits of a tile under a name."""
    where = f"call.seed, {site}, {step}, static_cast<uint32_t>(row.ordinal), first + tile"
    return [f"uint16_t {name}[TILE];", f"random_tile({where}, {name});"]


def _length(node: Expr, names: Mapping[Expr, str]) -> int:
    """How many operations would stand in the line that writes the node."""
    if node in names or not node.args:
        return 0
    return 1 + sum(_length(a, names) for a in node.args)
