"""The pages of losses on lines and planes, and of what was measured in training."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from descend.report import diagnosis_charts as charts
from descend.report import diagnosis_contours as contours
from descend.report import diagnosis_perspective as perspective
from descend.report import heights
from descend.report.diagnosis_parts import STATISTICS, Part, Table, answer, capital, conditions, drawn, value
from descend.report.diagnosis_results import Diagnosis, InTraining, Line, Surface, Watched
from descend.report.formats import number, plain, rate


def slices(results: Diagnosis) -> list[Part]:
    """Slices through the first solution."""
    parts = [_line(one) for one in results.lines if not one.ends]
    return parts + [_surface(one) for one in results.surfaces if one.kind == "slice"]


def interpolation(results: Diagnosis) -> list[Part]:
    """Straight lines between solutions, and the plane through three."""
    parts = [_line(one) for one in results.lines if one.ends]
    return parts + [_surface(one) for one in results.surfaces if one.kind == "solutions"]


def trajectory(results: Diagnosis) -> list[Part]:
    """The way of training on its plane."""
    return [_surface(one) for one in results.surfaces if one.kind == "trajectory"]


def _line(found: Line) -> Part:
    errors = found.errors
    rows = [
        [plain(amount), value(loss), *([value(errors[place])] if errors else [])]
        for place, (amount, loss) in enumerate(zip(found.amounts, found.losses, strict=True))
    ]
    pictures = drawn(
        ("Loss", charts.line(found, found.losses, "Loss", is_alone=not errors)),
        ("Error", charts.line(found, errors, "Error") if errors else None),
    )
    said = [f"{_direction(found.direction, found.statistics)}"]
    if found.ends:
        said.insert(0, f"Amount 0 is {found.ends[0]}, amount 1 is {found.ends[1]}.")
    if found.barrier is not None:
        said.append(f"The barrier is {number(found.barrier)}: so far the loss rises above the dotted line.")
    barrier = "" if found.barrier is None else f"{found.title}: barrier {number(found.barrier)}"
    return Part(
        capital(found.title),
        barrier or _extent(found.losses),
        pictures,
        [Table("", ["amount", "loss", *(["error"] if errors else [])], rows)],
        [*said, *conditions([("", found.setting)])],
    )


def _extent(losses: Sequence[float | None]) -> str:
    known = [loss for loss in losses if loss is not None]
    return f"loss {number(min(known))} to {number(max(known))}" if known else "not finite"


def _surface(found: Surface) -> Part:
    losses = [loss for row in found.losses for loss in row]
    shades = heights.Shades.of(found.losses, contours.CAP)
    pictures = drawn(
        ("From above, with lines of equal loss", contours.draw(found, shades)),
        ("In perspective", perspective.draw(found, shades)),
    )
    said = [_direction(found.direction, found.statistics)]
    if found.explained:
        shares = " and ".join(f"{100 * share:.0f} %" for share in found.explained)
        said.append(f"The two directions hold {shares} of the way's squared distances from its end.")
    # That nothing is finite, the line says.
    unknown = losses.count(None) if set(losses) != {None} else 0
    if pictures and shades.log:
        said.append("Colours and heights are logarithmic.")
    if pictures and shades.capped:
        said.append(f"Losses are cut off at {number(shades.bounds[-1])}; the highest is {_highest(losses)}.")
    if unknown:
        said.append(f"{unknown:,} of {len(losses):,} points are not finite, and left out.")
    said.append("The loss at each point stands in diagnosis.json.")
    across, up = found.x_title, found.y_title or f"{found.x_title}, up"
    spots = Table("", ["point", across, up], [[one.name, value(one.x), value(one.y)] for one in found.points])
    way = Table(
        "The way of training",
        ["step", across, up, "distance from the plane"],
        [[f"{step:,.0f}", value(x), value(y), value(distance)] for step, x, y, distance in found.way],
    )
    return Part(
        capital(found.title),
        _extent(losses),
        pictures,
        [table for table in (spots, way) if table.rows],
        [*said, *conditions([("", found.setting)])],
    )


def _highest(losses: Sequence[float | None]) -> str:
    return number(max(loss for loss in losses if loss is not None))


def _direction(direction: str, statistics: str) -> str:
    return f"{capital(direction)}.{STATISTICS[statistics]}"


def training(results: Diagnosis) -> list[Part]:
    """What was measured while a solution was trained."""
    return [_training(one) for one in results.training]


def _training(one: InTraining) -> Part:
    # An optimizer's own matrix is the one with a threshold.
    judged = "preconditioned_eigenvalue" if "preconditioned_eigenvalue" in one.quantities else "top_eigenvalue"
    names = [*(name for name in charts.QUANTITIES if name in one.quantities)]
    names += [name for name in one.quantities if name not in charts.QUANTITIES]

    def picture(name: str) -> tuple[str, Markup | None]:
        threshold = one.threshold if name == judged else []
        return _title(name), charts.series(one.quantities[name], name, one.steps, threshold)

    pictures = drawn(*map(picture, names), ("Training loss of single batches", charts.losses(one)))
    overview = Table(
        "",
        ["quantity", "times measured", "of these converged", "last"],
        [
            [_title(name), f"{len(found):,}", f"{sum(each.converged for each in found):,}", _last(found)]
            for name in names
            for found in (one.quantities[name],)
        ],
    )
    limits = {int(step): limit for step, limit in one.threshold}
    series = [
        _series(_title(name), one.quantities[name], limits if name == judged else {})
        for name in names
        if one.quantities[name]
    ]
    return Part(
        f"Training of {one.solution}",
        _first(names, one),
        pictures,
        [overview, *series],
        [
            f"Trained by {one.optimizer} at a peak rate of {rate(one.rate)}, for {one.steps:,} steps.",
            f"Watching took {100 * one.overhead:.3g} % of the training's time; the ceiling is "
            f"{100 * one.ceiling:.3g} %.",
            _marks(one, judged),
        ],
    )


def _title(name: str) -> str:
    return charts.QUANTITIES.get(name, capital(name.replace("_", " ")))


def _marks(one: InTraining, judged: str) -> str:
    """What the marks of the charts mean, of those that are there."""
    found = [each for own in one.quantities.values() for each in own if each.value is not None]
    said = []
    if any(each.error for each in found):
        said.append("Bars are 95 % intervals, of eigenvalues ± the residual.")
    if not all(each.converged for each in found):
        said.append("Hollow points are less accurate than was asked.")
    if one.threshold and any(each.value is not None for each in one.quantities.get(judged, [])):
        said.append("Dashed is the threshold above which steps are unstable.")
    return " ".join(said)


def _series(title: str, found: Sequence[Watched], limits: dict[int, float]) -> Table:
    heads = ["step", "value", "residual" if "eigenvalue" in title else "standard error", "converged"]
    rows = [
        [
            f"{each.step:,}",
            value(each.value),
            number(each.error),
            answer(each.converged),
            *([number(limits.get(each.step))] if limits else []),
        ]
        for each in found
    ]
    return Table(title, [*heads, *(["stable below"] if limits else [])], rows)


def _last(found: Sequence[Watched]) -> str:
    return value(found[-1].value) if found else "–"


def _first(names: Sequence[str], one: InTraining) -> str:
    """What was last measured of the most telling quantity that has numbers."""
    telling = [name for name in names if any(each.value is not None for each in one.quantities[name])]
    if not telling:
        return "nothing was measured"
    name = next((each for each in telling if "eigenvalue" in each), telling[0])
    last = [each for each in one.quantities[name] if each.value is not None][-1]
    unsure = "" if last.converged else " (not converged)"
    return f"{_title(name)[:1].lower()}{_title(name)[1:]} {number(last.value)} at step {last.step:,}{unsure}"
