"""Products with the Hessian, top eigenvalues and slices of the loss, beside other packages on the same network.

PyHessian, hessian-eigenthings and curvlinops are measured where they can be imported; none of them is a dependency.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from descend.benchmarks.page import Row, Table, milliseconds
from descend.benchmarks.settings import Settings
from descend.benchmarks.timing import Timing, interleaved, threads
from descend.generalization import (
    GaussNewton,
    Hessian,
    Objective,
    amounts,
    random_directions,
    slice_row,
    supervised,
    top_eigenvalues,
)

PRODUCT: Final = 1.6
"""What a product on a repeated batch may take of a gradient."""
EIGENVALUE: Final = 1.0
"""What the top eigenvalue to a hundredth may take of PyHessian's products, and of its time."""
SLICE: Final = 1.05
"""What a row of a landscape may take of its forward passes."""
_LOSS: Final = supervised(cross_entropy)
_POINTS: Final = 41


@dataclass(frozen=True)
class Problem:
    """A network and data without content: times do not depend on it.

    Attributes:
        model: trained for some steps, so that its spectrum is one of a trained network.
        batches: of the data, the last one short.
    """

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, sizes: tuple[int, ...], side: int) -> Problem:
        """A convolutional network of 66,570 weights on images of such a side."""
        source = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(3, 32, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(64, 64, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(64, 10),
            )
        drawn = [
            (torch.randn(size, 3, side, side, generator=source), torch.randint(10, (size,), generator=source))
            for size in sizes
        ]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(10):
            for batch in drawn:
                optimizer.zero_grad()
                _LOSS(model, batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad()
        return cls(model.eval(), drawn)

    def gradient(self) -> None:
        """The gradient over all batches, as torch takes it."""
        for batch in self.batches:
            torch.autograd.grad(_LOSS(self.model, batch), list(self.model.parameters()))

    def forward(self) -> None:
        """As many forward passes as a row of a landscape has points."""
        with torch.no_grad():
            for _ in range(_POINTS):
                sum(len(batch[1]) * _LOSS(self.model, batch).item() for batch in self.batches)


def curvature(name: str, settings: Settings) -> Table:
    """Time products, eigenvalues and slices per number of threads."""
    rounds, sizes = settings.rounds, settings.sizes
    table = Table(
        "Curvature and landscape",
        "A convolutional network of 66,570 weights, images of 3x32x32. Repeated: one batch of 64, whose graph is kept; "
        "data set: batches of 64, 64 and 32. The unit is the gradient over the same data, but forward passes for the "
        f"row of {_POINTS} points. Medians of rounds that time all in turn; n = {rounds}.",
        ("threads", "what", "ours, ms", "unit, ms", "ours / unit", "others / unit", "limit"),
    )
    single = Problem.of(sizes.curved_batches[:1], sizes.curved_side)
    several = Problem.of(sizes.curved_batches, sizes.curved_side)
    for number in settings.threads:
        settings.progress(f"curvature: {number} threads")
        with threads(number), _quiet():
            table.rows += _products(single, "repeated", number, settings, PRODUCT)
            table.rows += _products(several, "data set", number, settings, None)
            table.rows += _eigenvalue(single, number, settings)
            table.rows.append(_slice(several, number, rounds))
    return table


def _products(problem: Problem, data: str, number: int, settings: Settings, limit: float | None) -> Iterator[Row]:
    """One product, and eight at once."""
    objective = Objective(problem.model, _LOSS, problem.batches)
    source = torch.Generator().manual_seed(1)
    block = torch.randn(objective.size, 8, generator=source, dtype=torch.float64)
    hessian, gauss = Hessian(objective), GaussNewton(objective)
    others = {title: made for title, make in _OTHERS.items() if (made := _made(title, make, problem, settings))}
    contestants: dict[str, Callable[[], Any]] = {
        "gradient": problem.gradient,
        "Hessian": lambda: hessian @ block[:, 0],
        "Gauss-Newton": lambda: gauss @ block[:, 0],
        "Hessian, 8 vectors": lambda: hessian @ block,
        **{title: other.product for title, other in others.items()},
    }
    with objective.held():
        times = interleaved(contestants, settings.rounds)
    of_others = {title: times[title].median for title in others}
    for what in ("Hessian", "Gauss-Newton", "Hessian, 8 vectors"):
        held_to = limit if what == "Hessian" else None
        beside = of_others if what == "Hessian" else {}
        yield _row(number, f"{what}, {data}", times[what], times["gradient"].median, beside, held_to)


def _eigenvalue(problem: Problem, number: int, settings: Settings) -> Iterator[Row]:
    """The top eigenvalue to a hundredth: time, and products with vectors."""
    objective = Objective(problem.model, _LOSS, problem.batches)
    contestants: dict[str, Callable[[], Any]] = {
        "gradient": problem.gradient,
        "ours": lambda: top_eigenvalues(Hessian(objective), which="magnitude"),
    }
    pyhessian = _made("PyHessian", _pyhessian, problem, settings)
    if pyhessian is not None:
        contestants["PyHessian"] = pyhessian.eigenvalue
    times = interleaved(contestants, settings.rounds)
    others = {} if pyhessian is None else {"PyHessian": times["PyHessian"].median}
    limit = times["PyHessian"].median / times["gradient"].median * EIGENVALUE if pyhessian else None
    found = top_eigenvalues(Hessian(objective), which="magnitude")
    exact = top_eigenvalues(Hessian(objective), which="magnitude", rtol=1e-6).values[0]
    off = abs(found.values[0] / exact - 1)
    what = f"top eigenvalue, {found.products} products, off by {off:.1g}"
    if pyhessian is not None:
        value, products = pyhessian.counted()
        what += f" (PyHessian: {products}, {abs(value / exact - 1):.1g})"
    yield _row(number, what, times["ours"], times["gradient"].median, others, limit)


def _slice(problem: Problem, number: int, rounds: int) -> Row:
    objective = Objective(problem.model, _LOSS, problem.batches)
    directions, grid = random_directions(objective, 2), amounts(_POINTS)
    contestants: dict[str, Callable[[], Any]] = {
        "forward": problem.forward,
        "ours": lambda: slice_row(objective, directions, grid, 0.5),
    }
    times = interleaved(contestants, max(1, rounds // 3))
    return _row(number, f"row of {_POINTS} points", times["ours"], times["forward"].median, {}, SLICE)


def _row(number: int, what: str, timing: Timing, unit: float, others: dict[str, float], limit: float | None) -> Row:
    ratio = timing.median / unit
    beside = ", ".join(f"{title} {seconds / unit:.2f}" for title, seconds in others.items()) or "-"
    own = (str(number), what, milliseconds(timing.median), milliseconds(unit), f"{ratio:.2f}", beside)
    return Row((*own, "-" if limit is None else f"{limit:.2f}"), None if limit is None else ratio <= limit)


# ---- other packages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """What another package does.

    Attributes:
        product: one product with the Hessian.
        eigenvalue: the top one.
        counted: it, with the number of products that it took.
    """

    product: Callable[[], Any]
    eigenvalue: Callable[[], Any] = lambda: None
    counted: Callable[[], tuple[float, int]] = lambda: (0.0, 0)


def _made(title: str, make: Callable[[Problem], Other], problem: Problem, settings: Settings) -> Other | None:
    try:
        return make(problem)
    except ImportError as error:
        settings.note([f"{title} is not installed ({error.name or error})."])
        return None


def _pyhessian(problem: Problem) -> Other:
    """PyHessian, of a single batch its graph kept; its loader mode weighs batches rightly."""
    importlib.import_module("pyhessian")
    module: Any = sys.modules["pyhessian.hessian"]
    is_single = len(problem.batches) == 1
    data = {"data": problem.batches[0]} if is_single else {"dataloader": problem.batches}
    made = module.hessian(problem.model, cross_entropy, cuda=False, **data)
    vector = [torch.randn_like(parameter) for parameter in made.params]

    def product() -> Any:
        if is_single:
            return module.hessian_vector_product(made.gradsH, made.params, vector)
        return made.dataloader_hv_product(vector)

    def fresh() -> float:
        values, _ = module.hessian(problem.model, cross_entropy, cuda=False, **data).eigenvalues()
        return float(values[0])

    def counted() -> tuple[float, int]:
        count, own = 0, module.hessian_vector_product

        def counting(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            return own(*arguments)

        module.hessian_vector_product = counting
        try:
            return fresh(), count
        finally:
            module.hessian_vector_product = own

    return Other(product, fresh, counted)


def _eigenthings(problem: Problem) -> Other:
    operator: Any = importlib.import_module("hessian_eigenthings").HessianOperator
    made = operator(problem.model, problem.batches, _LOSS)
    vector = torch.randn(made.size)
    return Other(lambda: made.matvec(vector))


def _curvlinops(problem: Problem) -> Other:
    operator: Any = importlib.import_module("curvlinops").HessianLinearOperator
    parameters = [parameter for parameter in problem.model.parameters() if parameter.requires_grad]
    made = operator(problem.model, nn.CrossEntropyLoss(), parameters, problem.batches, check_deterministic=False)
    vector = torch.randn(made.shape[1])
    return Other(lambda: made @ vector)


_OTHERS: Final[dict[str, Callable[[Problem], Other]]] = {
    "PyHessian": _pyhessian,
    "hessian-eigenthings": _eigenthings,
    "curvlinops": _curvlinops,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of others, such as of graphs that they leave on gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
