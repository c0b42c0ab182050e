"""From a plan to C++: one kernel that steps all tensors of a table, readable, with the author's names.

The generated code has a row type for the table of addresses, a function per pass that handles whole tiles of elements,
one that takes a chunk apart into tiles (its end is padded to a tile, so that every element goes through the same
instructions wherever it stands), scalar code between passes, and the entry that Python calls. `prelude.hpp` holds the
functions of the vocabulary and the storage types, `driver.hpp` the loops over chunks and threads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from descend.backends.cpp_expressions import FUNCTIONS, WORDS, HostWords, Writer
from descend.backends.cpp_passes import PassCode
from descend.backends.opaque import HELD_AS
from descend.backends.plan import Pass, Plan
from descend.expr import Expr, Rank, hyper_of, slot_of

STORAGE: Final[Mapping[str, str]] = {
    "float64": "double",
    "float32": "float",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
"""The C++ type that holds a storage type."""

_OWN: Final = (
    "row rows call count work sums values shared seed step team i j tile valid first start length whole rest chunk "
    "lanes real numel bucket ordinal index tensor load store copy add_up add_up_squares total_of visit chunks_of "
    "sum_of mean_of norm_of fetch fused random_tile uniform normal_quantile store_stochastically infinity not_a_number "
    "drawn_at split block philox TILE CHUNK LANES Team Tensor Call Body Sweep Row bfloat16 float16"
)
_TAKEN: Final = WORDS | frozenset(FUNCTIONS.values()) | frozenset(_OWN.split())
"""Names that the kernel uses itself, so that no value of the author's can have them."""

_HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Storage:
    """The types of a kernel's tensors.

    Attributes:
        dtypes: by name ("p", "g", every slot), a key of `STORAGE`.
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

    def of(self, plan: Plan, stream: str) -> str:
        """The type of a plan's stream, which may be one of scratch memory."""
        if stream not in plan.scratch:
            return self[stream]
        return HELD_AS.get(plan.scratch[stream].op) or {"double": "float64", "float": "float32"}[self.real]

    def is_stochastic(self, name: str) -> bool:
        """Whether a stream is rounded stochastically; scratch memory never is."""
        return self.stochastic and dict(self.dtypes).get(name) == "bfloat16"


def translation_unit(kernels: Sequence[str], title: str) -> str:
    """A whole source file: a title, the prelude, the driver and kernels."""
    headers = [(_HERE / name).read_text() for name in ("prelude.hpp", "driver.hpp")]
    return "\n".join([f"// {title}\n#include <stdint.h>\n", *headers, *kernels])


def kernel(plan: Plan, storage: Storage, symbol: str) -> str:
    """The source of one kernel, exported under `symbol`; it needs the prelude and the driver before it."""
    return _Kernel(plan, storage, symbol).text()


def _suggested_name(plan: Plan, node: Expr) -> str:
    """What a scalar might be called: by its author, as the hyper-parameter, or not at all ("")."""
    if node in plan.names:
        return plan.names[node]
    if node.op in ("hyper", "common"):
        name, index = hyper_of(node)
        return name if index is None else f"{name}_{index}"
    return slot_of(node)[0] if node.op == "slot" else node.op if not node.args else ""


def _indented(lines: Sequence[str], by: int = 1) -> list[str]:
    return [f"{'    ' * by}{line}" for line in lines]


@dataclass
class _Kernel:
    """Writes one kernel."""

    plan: Plan
    storage: Storage
    symbol: str
    names: dict[Expr, str] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.taken = set(_TAKEN)
        for name in self.plan.streams:
            self.streams[name] = name if self._is_free(name) else f"slot{len(self.streams)}"
            self.taken |= {self.streams[name], f"{self.streams[name]}_"}
        for sweep in self.plan.passes:
            self.names.update({leaf: self.streams[self.plan.stream_of(leaf)] for leaf in sweep.loads})
        unnamed = itertools.count(1)
        for node in self.places:
            self._name(node, _suggested_name(self.plan, node) or f"s{next(unnamed)}")
        for node, name in self.plan.names.items():
            if node not in self.names and node.args:
                self._name(node, name)

    def _is_free(self, name: str) -> bool:
        """Whether a value may be called so: no word of C++, no name of the kernel's own, nothing like one."""
        own = (
            name.endswith("_")
            or name.startswith("_")
            or re.match(r"random_|draw\d|slot\d|terms\d|pass\d|chunk\d|between\d", name)
        )
        return name.isascii() and not name.isupper() and not own and name not in self.taken

    def _name(self, node: Expr, wanted: str) -> None:
        if not self._is_free(wanted) and wanted not in self.taken:
            wanted = "value"
        name, number = wanted if wanted not in self.taken else f"{wanted}_new", 2
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.names[node] = name
        self.taken.add(name)

    @cached_property
    def tables(self) -> dict[str, tuple[Expr, ...]]:
        """The tables of scalars, and what stands in their columns."""
        plan = self.plan
        tables = {"bucket": plan.bucket_scalars, "tensor": plan.tensor_scalars}
        return {**tables, "values": plan.tensor_values, "shared": plan.shared_values}

    @cached_property
    def places(self) -> dict[Expr, tuple[str, int]]:
        """In which table and column each scalar stands."""
        return {node: (table, i) for table, nodes in self.tables.items() for i, node in enumerate(nodes)}

    def rows_of_tables(self) -> dict[str, str]:
        """Where the scalars of one tensor begin in each table."""
        width = {table: len(nodes) for table, nodes in self.tables.items()}
        return {
            "bucket": f"call.bucket + row.bucket * {width['bucket']}",
            "tensor": f"call.tensor + index * {width['tensor']}",
            "values": f"call.values + index * {width['values']}",
            "shared": "call.shared",
        }

    def text(self) -> str:
        passes = [PassCode(self, number, sweep) for number, sweep in enumerate(self.plan.passes)]
        parts = [self._head(), self._row()]
        parts += [part for code in passes for part in (code.tiles(), code.chunk())]
        parts += [self._between(number, sweep, following) for number, sweep, following in self._steps() if following]
        return "\n\n".join([*parts, self._entry(), f"}}  // namespace {self.symbol}_kernel\n"])

    def _steps(self) -> Iterator[tuple[int, Pass, tuple[Expr, ...]]]:
        """Each pass with the scalars that are computed after it: its reductions and what follows them."""
        befores = [*(sweep.scalars for sweep in self.plan.passes[1:]), self.plan.after]
        for number, (sweep, following) in enumerate(zip(self.plan.passes, befores, strict=True)):
            yield number, sweep, (*sweep.reductions, *following)

    def _head(self) -> str:
        types = ", ".join(f"{name} {self.storage.of(self.plan, name)}" for name in self.plan.streams)
        title = f"// {self.plan.formula.rule.name}: {types}; arithmetic in {self.storage.real}"
        return "\n".join([title, f"namespace {self.symbol}_kernel {{", f"using real = {self.storage.real};"])

    def _row(self) -> str:
        pointers = [
            f"{self.pointer(name, name in self.plan.stored)} {self.streams[name]};" for name in self.plan.streams
        ]
        return "\n".join(["struct Row : Tensor {", *_indented(pointers), "};"])

    def pointer(self, name: str, is_written: bool) -> str:
        """The type of a pointer to a stream."""
        return f"{'' if is_written else 'const '}{self.stored_as(name)}*"

    def stored_as(self, name: str) -> str:
        """The type that a stream's elements are stored in."""
        return STORAGE[self.storage.of(self.plan, name)]

    def scalar_lines(self, nodes: Sequence[Expr], real: str) -> list[str]:
        """Scalars read from their tables, with what the host computes for them in words."""
        lines, words = [], HostWords()
        for node in nodes:
            table, index = self.places[node]
            kind, test = ("bool", " != 0") if node.condition else (real, "")
            name, meaning = self.names[node], words.write(node) if table in ("bucket", "tensor") else ""
            comment = f"  // {meaning}" if meaning not in ("", name) else ""
            lines.append(f"const {kind} {name} = {table}[{index}]{test};{comment}")
        return lines

    # what stands between passes

    def _between(self, number: int, sweep: Pass, following: Sequence[Expr]) -> str:
        """A function that adds up the reductions of a pass, and computes what follows them in double."""
        shared = [node for node in following if node.rank <= Rank.OPTIMIZER]
        per_tensor = [node for node in following if node.rank > Rank.OPTIMIZER]
        lines = [f"static void between{number}(const Call<Row>& call) {{"]
        if shared:
            lines += ["    double* shared = call.shared;"]
            if any(a in self.places and self.places[a][0] == "bucket" for node in shared for a in node.args):
                lines += ["    const double* bucket = call.bucket;  // constants, the same in every row"]
            lines += _indented(self._scalar_code(shared, sweep))
        if per_tensor:
            lines += [
                "    for (int64_t index = 0; index < call.count; index++) {",
                "        const Row& row = call.rows[index];",
            ]
            read = {self.places[a][0] for node in per_tensor for a in node.args if a in self.places} | {"values"}
            for table, where in self.rows_of_tables().items():
                if table in read and not (table == "shared" and shared):
                    lines.append(f"        {'' if table == 'values' else 'const '}double* {table} = {where};")
            lines += [*_indented(self._scalar_code(per_tensor, sweep), 2), "    }"]
        return "\n".join([*lines, "}"])

    def _scalar_code(self, computed: Sequence[Expr], sweep: Pass) -> list[str]:
        """What is read from tables; then each value, computed and stored."""
        own, reductions = set(computed), {node: r for r, node in enumerate(sweep.reductions)}
        args = [a for node in computed if node not in reductions for a in node.args]
        read = list(dict.fromkeys(a for a in args if a.op != "constant" and a not in own))
        lines = self.scalar_lines(read, "double")
        writer = Writer({node: self.names[node] for node in read}, "double")
        for node in computed:
            name, (table, index) = self.names[node], self.places[node]
            if node in reductions:
                value = self._reduced(node, reductions[node], len(reductions))
            else:
                value = writer.write(node)
            if self._is_kept_in_float(node):
                value = f"static_cast<float>({value})"
            lines.append(f"const {'bool' if node.condition else 'double'} {name} = {value};")
            lines.append(f"{table}[{index}] = {name};")
            writer.names[node] = name
        return lines

    def _reduced(self, node: Expr, number: int, count: int) -> str:
        scope = "row" if node.rank is Rank.TENSOR else "call"
        return f"{node.op.removeprefix('global_')}_of({scope}, {'call, ' * (scope == 'row')}{number}, {count})"

    def _is_kept_in_float(self, node: Expr) -> bool:
        """Whether the node is the new value of a scalar slot of float32: what is stored is the truth."""
        results = self.plan.kernel_results.items()
        return any(root is node and self.storage[name] == "float32" for name, root in results)

    def _entry(self) -> str:
        lines = [f'extern "C" __attribute__((visibility("default"))) void {self.symbol}(const Call<Row>* call) {{']
        phase = 0
        for number, sweep, following in self._steps():
            when = f"if (call->phase == {phase}) " if len(self.plan.phases) > 1 else ""
            if sweep.reductions or sweep.stores:
                lines.append(f"    {when}for_each_chunk(*call, chunk{number});")
            if following:
                lines.append(f"    {when}between{number}(*call);")
            phase += bool(sweep.calls)
        return "\n".join([*lines, "}"])
