"""The pages of a diagnosis: each alone in its file, true to the JSON, and safe from what stands in that."""

import copy
import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

import descend.report
import report_pages
from descend.report import diagnosis_reading, json_schema
from descend.report.diagnosis_instruments import INSTRUMENTS
from descend.report.diagnosis_results import Diagnosis
from descend.report.formats import number
from report_pages import table, words

EXAMPLE = Path(__file__).with_name("diagnosis_example.json")
DOCS = Path(__file__).parents[1] / "docs"
HOSTILE = "</style><script>alert(1)</script>\"'&<b onclick='x'>"
CHOICES = ("kind", "label", "direction", "which", "mode", "statistics", "source", "unit", "logits", "matrix", "how")
# Of alignments alone; traces have methods of any name.
METHODS = ("weights", "activations")


def save(folder, data):
    return report_pages.save(folder, "diagnosis.json", data)


def written(folder, data):
    first = descend.report.write_diagnosis(save(folder, data))
    return {path.name: report_pages.read(path) for path in sorted(first.parent.glob("*.html"))}


def every_string(value, change):
    if isinstance(value, dict):
        return {key: entry if key in CHOICES else every_string(entry, change) for key, entry in value.items()}
    if isinstance(value, list):
        return [every_string(entry, change) for entry in value]
    return change(value) if isinstance(value, str) and value not in METHODS else value


@pytest.fixture(scope="module")
def example():
    return json.loads(EXAMPLE.read_text(encoding="utf-8"))


@pytest.fixture
def data(example):
    return copy.deepcopy(example)


@pytest.fixture(scope="module")
def pages(example, tmp_path_factory):
    return written(tmp_path_factory.mktemp("diagnosis"), example)


def test_there_is_a_page_for_each_instrument_and_one_that_leads_to_them(pages):
    assert set(pages) == {"diagnosis.html", *(f"diagnosis-{name}.html" for name in INSTRUMENTS)}
    links = {link.get("href") for link in pages["diagnosis.html"].iter("a")}
    assert {name for name in pages if name != "diagnosis.html"} <= links
    for root in pages.values():
        ids = {f"#{element.get('id')}" for element in root.iter() if element.get("id")}
        assert {link.get("href") for link in root.iter("a")} <= {*pages} | ids


def test_pages_need_nothing_but_each_other(pages):
    for root in pages.values():
        text = ElementTree.tostring(root, encoding="unicode")
        assert not re.search(r"https?:|url\(|@import", text)
        assert not list(root.iter("script"))
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch("h[1-6]", element.tag)]
        assert levels[0] == 1
        assert all(next_ <= level + 1 for level, next_ in pairwise(levels))
        assert all(svg.get("aria-label") for svg in root.iter("svg"))


def test_each_page_has_its_caveats_and_those_of_all(pages, example):
    for name in INSTRUMENTS:
        said = words(pages[f"diagnosis-{name}.html"])
        for caveat in [*example["caveats"][name], *example["caveats"]["all"]]:
            assert " ".join(caveat.split()) in said, name


def shown(value):
    return "not finite" if value is None else number(value)


def numbers_of(one, *names):
    """Numbers of an entry by name, those of lists one by one."""
    found = [one[name] for name in names]
    return [value for entry in found for value in (entry if isinstance(entry, list) else [entry])]


def understood(example):
    """The numbers of the four instruments that look at what was learned."""
    trained, disturbed, symmetry = example["memorization"], example["directions"], example["symmetry"]
    shares = ("wrong_share", "expected_wrong_share", "train_accuracy", "validation_accuracy")
    units = [value for one in example["units"] for value in numbers_of(one, "selectivity", "information", "importance")]
    lines = [value for one in example["alignments"] for value in numbers_of(one, "losses_before", "losses_after")]
    return {
        "memorization": [
            *(value for one in trained for value in numbers_of(one, *shares)),
            *(value for one in trained for value in one["precision"].values()),
            *(value for one in trained for point in one["way"] for value in point[1:]),
            *(each["loss"] for each in trained[0]["suspects"]),
        ],
        "directions": [
            *(value for one in disturbed for value in numbers_of(one, "means", "area")),
            *units,
            *(value for one in example["units"] for value in numbers_of(one, "chance", "tau")),
        ],
        "symmetry": [
            *(log10 for _, log10 in symmetry["widths"]),
            *(
                value
                for one in symmetry["twins"]
                for value in numbers_of(one, "distance", "function_change", "loss", "twin_loss")
            ),
            *lines,
            *(
                value
                for one in example["alignments"]
                for value in numbers_of(one, "before", "after", "barrier_before", "barrier_after")
            ),
        ],
        "measures": [
            *(value for one in example["measures"] for value in one["measures"].values()),
            *(
                value
                for one in example["measures"]
                for value in numbers_of(one, "train_accuracy", "test_accuracy", "gap", "loss_gap")
            ),
            *(one["psi"] for one in example["rankings"] if one["psi"] is not None),
        ],
    }


def cells(page):
    return {cell for place, _ in enumerate(page.iter("table")) for row in table(page, place) for cell in row}


def test_every_number_is_shown(pages, example):
    found = {
        "eigenvalues": [value for one in example["spectra"] for name in ("values", "residuals") for value in one[name]],
        "trace": [one[name] for one in example["traces"] for name in ("value", "standard_error")],
        "density": [
            value for one in example["densities"] for name in ("moments", "moment_errors") for value in one[name]
        ],
        "sharpness": [one["value"] for one in example["sharpness"] if one["unit"] == "loss"],
        "rescaling": [value for row in example["rescaling"]["rows"] for value in row["measures"].values()],
        "slices": [loss for one in example["lines"] if not one["ends"] for loss in one["losses"]],
        "interpolation": [
            value for one in example["lines"] if one["ends"] for name in ("losses", "errors") for value in one[name]
        ],
        "trajectory": [value for one in example["surfaces"] for point in one["way"] for value in point[1:]],
        "training": [one["value"] for series in example["training"][0]["quantities"].values() for one in series],
        **understood(example),
    }
    assert set(found) == set(INSTRUMENTS)
    for name, values in found.items():
        assert {shown(value) for value in values} <= cells(pages[f"diagnosis-{name}.html"]), name
    sharpness = cells(pages["diagnosis-sharpness.html"])
    for one in example["sharpness"]:
        if one["unit"] == "%" and one["value"] is not None:
            assert f"{shown(one['value'])} %" in sharpness
        if one["low"] is not None:
            assert f"{number(one['low'])} to {number(one['high'])}" in sharpness


def test_what_did_not_converge_says_so_in_table_chart_and_overview(pages, example):
    rows = table(pages["diagnosis-eigenvalues.html"])
    converged = rows[0].index("converged")
    expected = ["yes" if one["converged"] else "no" for one in example["spectra"] for _ in one["values"]]
    assert [row[converged] for row in rows[1:]] == expected
    labels = [words(text) for text in next(pages["diagnosis-eigenvalues.html"].iter("svg")).iter("text")]
    assert sum("(not converged)" in label for label in labels) == 3  # the fourth is not finite, and not drawn
    overview = {row[0]: row[1] for row in table(pages["diagnosis.html"])}
    assert "2.214 ± 1.337e-4 (not converged)" in overview["Eigenvalues"]
    assert "(stalled)" in overview["Sharpness"]


def test_conditions_and_notes_stand_with_what_they_are_of(data, tmp_path):
    for one in data["traces"]:
        one["setting"]["notes"] = ["of all"]
    data["traces"][1]["setting"]["notes"] = ["of all", "of one"]
    data["traces"][1]["setting"].update(mode="train", seed=7, weight_decay=0.01)
    page = written(tmp_path, data)["diagnosis-trace.html"]
    rows = table(page)
    assert rows[0][-1] == "note"
    assert [row[-1] for row in rows[1:]] == ["–", "of one", "–", "–"]
    said = words(page)
    assert said.count("Of all.") == 1
    assert (
        "Hessian, hutch++: seed 0; training mode, with the statistics of each batch; 500 examples in 2 batches; "
        "13,706 weights; weight decay 0.01 included; drawn with seed 7." in said
    )
    assert "Hessian, hutchinson; Gauss-Newton, hutchinson; Gauss-Newton, hutch++: seed 0; evaluation mode" in said


def test_the_gradient_foretells_for_each_worst_case_of_its_own(pages, example):
    rows = table(pages["diagnosis-sharpness.html"], 1)
    notes = ["; ".join(one["setting"]["notes"]) or "–" for one in example["sharpness"] if one["unit"] == "loss"]
    assert [row[-1] for row in rows[1:]] == notes
    assert len({note for note in notes if "foretells" in note}) > 1


def test_pictures_of_surfaces_have_lines_cells_and_the_way(pages):
    for name, count in (("slices", 3), ("trajectory", 2), ("interpolation", 6)):
        assert len(list(pages[f"diagnosis-{name}.html"].iter("svg"))) == count
    first, second = pages["diagnosis-trajectory.html"].iter("svg")
    assert "from above" in first.get("aria-label")
    assert "in perspective" in second.get("aria-label")
    assert len(list(second.iter("path"))) > 50


def points_of(path):
    return [tuple(map(float, point.split(","))) for point in re.findall(r"[-\d.]+,[-\d.]+", path.get("d"))]


def test_a_line_without_a_barrier_is_straight_in_the_loss_on_a_logarithmic_axis_too(data, tmp_path):
    line = data["lines"][1]
    line.update(amounts=[0.0, 0.5, 1.0], losses=[100.0, 30.0, 1.0], errors=[])
    page = written(tmp_path, data)["diagnosis-interpolation.html"]
    svg = next(page.iter("svg"))
    dotted = next(path for path in svg.iter("path") if path.get("stroke-dasharray") == "2,3")
    points = points_of(dotted)
    start, end = points[0], points[-1]
    x, y = min(points, key=lambda point: abs(point[0] - (start[0] + end[0]) / 2))
    assert x == pytest.approx((start[0] + end[0]) / 2, abs=1)
    share = math.log(50.5 / 1) / math.log(100 / 1)
    assert y == pytest.approx(end[1] + share * (start[1] - end[1]), abs=1)


def test_lines_end_where_the_loss_is_not_finite(data, tmp_path):
    data["lines"][0].update(amounts=[0.0, 1.0, 2.0, 3.0, 4.0], losses=[1.0, 2.0, None, 2.0, 1.5])
    svg = next(written(tmp_path, data)["diagnosis-slices.html"].iter("svg"))
    lines = [path for path in svg.iter("path") if path.get("stroke-width") == "1.7"]
    assert [len(points_of(path)) for path in lines] == [2, 2]


def test_a_density_shows_a_single_eigenvalue_among_millions(data, tmp_path):
    weights, width = 10_000_000, 0.01
    single = 1 / (weights * width * math.sqrt(2 * math.pi))
    grid = [place / 100 for place in range(101)]
    values = [
        40.0 * math.exp(-((at / width) ** 2) / 2) + single * math.exp(-(((at - 0.9) / width) ** 2) / 2) for at in grid
    ]
    one = data["densities"][0]
    one.update(grid=grid, values=values, errors=[0.0] * len(grid), width=width)
    one["setting"]["parameters"] = weights
    svg = next(written(tmp_path, data)["diagnosis-density.html"].iter("svg"))
    bulk, outlier = [points_of(path) for path in svg.iter("path") if path.get("stroke-width") == "1.6"]
    assert 0.85 < outlier[0][0] / 570 < outlier[-1][0] / 570 < 0.95
    assert bulk[-1][0] / 570 < 0.2
    assert any(words(text) == "one eigenvalue" for text in svg.iter("text"))


def plane(data, size, loss):
    """The first surface with another loss over it."""
    xs = [-1 + 2 * place / (size - 1) for place in range(size)]
    data["surfaces"][0].update(xs=xs, ys=xs, losses=[[loss(x, y) for x in xs] for y in xs])


def filled(svg):
    return [path for path in svg.iter("path") if re.fullmatch("#[0-9a-f]{6}", path.get("fill", ""))]


def test_cells_that_are_not_finite_are_left_out_and_counted(data, tmp_path):
    plane(data, 11, lambda x, y: None if x > 0.9 and y > 0.9 else 1 + x * x + y * y)
    page = written(tmp_path, data)["diagnosis-slices.html"]
    _, above, perspective = page.iter("svg")
    assert len(filled(perspective)) == 10 * 10 - 1
    assert len([path for path in filled(above) if path.get("stroke-width") == "0.7"]) == 11 * 11 - 1
    assert "1 of 121 points are not finite, and left out." in words(page)
    assert "cut off" not in words(page)


def test_high_losses_are_cut_and_said_to_be(data, tmp_path):
    plane(data, 11, lambda x, y: 1e-3 * math.exp(9 * (x * x + y * y)))
    page = written(tmp_path, data)["diagnosis-slices.html"]
    assert "Losses are cut off at 10.00; the highest is 65,660." in words(page)
    assert "Colours and heights are logarithmic." in words(page)


def test_a_fine_plane_keeps_its_page_small(data, tmp_path):
    for size in (41, 90):
        plane(data, size, lambda x, y: 0.1 + x * x + 3 * y * y + math.sin(9 * x) ** 2)
        descend.report.write_diagnosis(save(tmp_path / str(size), data))
        assert (tmp_path / str(size) / "diagnosis-slices.html").stat().st_size < (1.5e6 if size == 41 else 4e6)


def test_what_is_nearer_covers_what_is_farther(data):
    """By an oracle of its own: of two cells that overlap along the line of sight, the nearer one is drawn later."""
    from descend.report import diagnosis_perspective, heights
    from descend.report.decoding import decode
    from descend.report.diagnosis_results import Surface

    plane(data, 7, lambda x, y: 1 + x)
    surface = decode(Surface, data["surfaces"][0])
    found = diagnosis_perspective._cells(surface, heights.Shades.of(surface.losses))
    order = {tuple(corners[0][:2]): place for place, (corners, _) in enumerate(found)}
    assert len(order) == 36
    # Who looks stands before the corner where x is largest and y is smallest.
    for (x, y), place in order.items():
        for (x2, y2), place2 in order.items():
            if x2 >= x and y2 <= y and (x2, y2) != (x, y):
                assert place2 > place


def test_levels_are_written_on_their_lines_and_apart(pages, data, tmp_path):
    for name in ("slices", "interpolation", "trajectory"):
        for svg in pages[f"diagnosis-{name}.html"].iter("svg"):
            if "from above" in svg.get("aria-label"):
                assert len(labels_apart(svg)) >= 3
    # A basin so narrow that its lines have no room for all of their levels.
    plane(data, 41, lambda x, y: 1e-4 + min(1.0, (x * x + y * y) ** 2 * 200))
    above = list(written(tmp_path, data)["diagnosis-slices.html"].iter("svg"))[1]
    assert 1 <= len(labels_apart(above)) < 8


def labels_apart(svg):
    """The levels that are written on lines, checked to be of the legend, and not to cover each other."""
    texts = [text for text in svg.iter("text") if text.get("font-size") == "9px"]
    levels = {words(text) for text in texts}
    assert levels <= {words(text) for text in svg.iter("text") if text.get("font-size") != "9px"}
    places = {points_in(text) for text in texts}
    assert len(places) == len(levels)
    for x, y in places:
        assert all(abs(x - x2) >= 36 or abs(y - y2) >= 15 for x2, y2 in places - {(x, y)})
    return levels


def points_in(text):
    return tuple(map(float, re.search(r"translate\(([-\d.]+),([-\d.]+)\)", text.get("transform")).groups()))


def test_ticks_are_round_inside_and_few():
    from descend.report.diagnosis_perspective import _ticks

    draw = random.Random(0)
    for _ in range(2000):
        low = draw.uniform(-1, 1) * 10 ** draw.uniform(-6, 6)
        high = low + 10 ** draw.uniform(-3, 3) * max(abs(low), 1e-3)
        ticks = _ticks(low, high)
        slack = 1e-6 * (high - low)
        assert 1 <= len(ticks) <= 5
        assert all(low - slack <= tick <= high + slack for tick in ticks)
        steps = [after - before for before, after in pairwise(ticks)]
        assert all(step == pytest.approx(steps[0]) for step in steps)


def test_the_threshold_is_drawn_with_the_eigenvalue_that_it_is_of(data, tmp_path):
    one = data["training"][0]
    one["quantities"]["preconditioned_eigenvalue"] = [{"step": 20, "value": 2.0, "error": 0.1, "converged": True}]
    one["threshold"] = [[20.0, 500.0]]
    page = written(tmp_path, data)["diagnosis-training.html"]
    dashed = {
        svg.get("aria-label").partition(" in training")[0]: any(
            path.get("stroke-dasharray") == "5,3" for path in svg.iter("path")
        )
        for svg in page.iter("svg")
    }
    # Far above the values, it is there all the same.
    assert dashed.pop("Largest eigenvalue, preconditioned")
    assert len(dashed) == 3
    assert not any(dashed.values())
    assert "500.0" in cells(page)


def test_a_threshold_above_a_logarithmic_axis_widens_it(data, tmp_path):
    one = data["training"][0]
    one["threshold"] = [[20.0, 9000.0]]
    one["quantities"] = {
        "top_eigenvalue": [{"step": at, "value": 1.3**at, "error": 0.1, "converged": True} for at in range(1, 20)]
    }
    svg = next(written(tmp_path, data)["diagnosis-training.html"].iter("svg"))
    points = [points_of(path) for path in svg.iter("path") if path.get("stroke-dasharray") == "5,3"]
    assert len(points) == 1
    assert all(0 <= y <= 202 for _, y in points[0])


def test_what_was_not_measured_has_no_page_but_a_reason(data, tmp_path):
    data["rescaling"] = None
    data["caveats"]["rescaling"] = ["No two layers can be rescaled."]
    data["training"] = []
    del data["caveats"]["training"]
    pages = written(tmp_path, data)
    assert "diagnosis-rescaling.html" not in pages
    overview = words(pages["diagnosis.html"])
    assert "No two layers can be rescaled." in overview
    assert "In trainingnot measuredIt was not asked for." in overview


def test_older_documents_have_no_pages_of_later_instruments(data, tmp_path):
    for name in ("memorization", "directions", "units", "symmetry", "alignments", "measures", "rankings"):
        del data[name]
    later = ("memorization", "directions", "symmetry", "measures")
    for name in later:
        del data["caveats"][name]
    pages = written(tmp_path, data)
    assert set(pages) == {"diagnosis.html", *(f"diagnosis-{name}.html" for name in INSTRUMENTS if name not in later)}
    assert words(pages["diagnosis.html"]).count("It was not asked for.") == len(later)


def test_the_overview_has_a_number_of_each(pages):
    said = {row[0]: row[1] for row in table(pages["diagnosis.html"])}
    assert said["Memorization"] == "0 % wrong labels: 28 epochs to fit; 91 %: 103"
    assert said["Single directions"] == "mean accuracy 0.4907 (0.4406 to 0.5407), clamped to zero"
    assert said["Symmetry"] == "10^137.8 weight vectors are the same function"
    assert said["Measures of generalization"] == "highest Psi 0.6250 (0.06639 to 1.000), flatness"


def circles(svg, stroke_width):
    """Place and filling of each point of a chart."""
    return [
        (points_in(path), path.get("fill")) for path in svg.iter("path") if path.get("stroke-width") == stroke_width
    ]


def test_labels_that_were_not_fitted_are_hollow_and_said(data, tmp_path):
    data["memorization"][2].update(epochs_to_fit=None, epochs=150)
    pages = written(tmp_path, data)
    _, svg = pages["diagnosis-memorization.html"].iter("svg")
    places, fills = zip(*circles(svg, "1.5"), strict=True)
    assert [fill == "var(--paper)" for fill in fills] == [False, False, True]
    # By the share of wrong labels from left to right, by epochs from bottom to top.
    (x0, y0), (x1, y1), (x2, y2) = places
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.042 / 0.91, abs=0.01)
    assert (y0 - y1) / (y0 - y2) == pytest.approx((91 - 28) / (150 - 28), abs=0.01)
    page = pages["diagnosis-memorization.html"]
    assert table(page)[3][4] == "not in 150"
    assert "Hollow points" in words(page)
    assert "91 %: not in 150" in words(pages["diagnosis.html"])


def test_suspects_are_those_of_the_true_labels(pages, example):
    rows = table(pages["diagnosis-memorization.html"], 1)
    expected = [
        [str(one["place"]), str(one["label"]), str(one["predicted"]), shown(one["loss"]), str(one["learned"])]
        for one in example["memorization"][0]["suspects"]
    ]
    assert rows[1:] == expected


def test_bands_are_the_intervals(pages, example):
    svg = next(pages["diagnosis-directions.html"].iter("svg"))
    bands = [path for path in svg.iter("path") if path.get("opacity") == "0.2"]
    lines = [path for path in svg.iter("path") if path.get("stroke-width") == "1.7"]
    assert len(bands) == len(lines) == 2
    for band, line, one in zip(bands, lines, example["directions"], strict=False):
        heights = [y for _, y in points_of(line)]
        assert heights[0] != heights[-1]
        scale = (heights[-1] - heights[0]) / (one["means"][0] - one["means"][-1])  # pixels of an accuracy of 1
        outline = points_of(band)
        count = len(one["means"])
        ends = list(zip(outline[:count], reversed(outline[count : 2 * count]), strict=True))
        reach = [abs(one_end[1] - other[1]) / scale for one_end, other in ends]
        expected = [high - low for low, high in zip(one["lows"], one["highs"], strict=True)]
        assert reach == pytest.approx(expected, abs=0.01)


def test_each_layer_has_its_points(pages, example):
    *_, first, second, third = pages["diagnosis-directions.html"].iter("svg")
    for svg, one in zip((first, second, third), example["units"], strict=True):
        places = [place for place, _ in circles(svg, "1.5")]
        assert len(places) == len(one["selectivity"])
        most = max(range(len(places)), key=one["selectivity"].__getitem__)
        assert max(places)[0] == places[most][0]
        top = max(range(len(places)), key=one["importance"].__getitem__)
        assert min(y for _, y in places) == places[top][1]


def test_units_without_a_selectivity_are_in_the_table_alone(data, tmp_path):
    data["units"][0]["selectivity"][3] = None
    page = written(tmp_path, data)["diagnosis-directions.html"]
    *_, svg, _, _ = page.iter("svg")
    assert len(circles(svg, "1.5")) == len(data["units"][0]["selectivity"]) - 1
    assert "not defined" in cells(page)


def test_what_stands_before_alignment_is_drawn_once(data, tmp_path):
    page = written(tmp_path / "one", data)["diagnosis-symmetry.html"]
    _, svg = page.iter("svg")
    assert len([path for path in svg.iter("path") if path.get("stroke-width") == "1.7"]) == 3
    assert "after, by activations" in words(page)
    data["alignments"][1]["losses_before"][5] = 1.5
    data["alignments"][1]["converged"] = False
    page = written(tmp_path / "two", data)["diagnosis-symmetry.html"]
    _, svg = page.iter("svg")
    assert len([path for path in svg.iter("path") if path.get("stroke-width") == "1.7"]) == 4
    assert "after, by activations (not converged)" in words(page)


def test_alignments_stand_by_their_ends(data, tmp_path):
    data["alignments"][1]["ends"] = ["seed 0", "seed 2"]
    page = written(tmp_path, data)["diagnosis-symmetry.html"]
    titles = [words(head) for head in page.iter("h2")]
    assert titles[:3] == [
        "Weights that are the same function",
        "Seed 0 and seed 1, aligned",
        "Seed 0 and seed 2, aligned",
    ]
    data["symmetry"] = None
    page = written(tmp_path, data)["diagnosis-symmetry.html"]
    assert len(list(page.iter("svg"))) == 2


def test_rankings_are_drawn_from_the_highest_and_reasons_stand_in_the_table(pages, example):
    page = pages["diagnosis-measures.html"]
    [svg] = page.iter("svg")
    ranked = example["rankings"]
    known = [one for one in ranked if one["psi"] is not None]
    names = {one["measure"] for one in known}
    drawn = [words(text) for text in svg.iter("text") if words(text) in names]
    by_name = {one["measure"]: one["psi"] for one in known}
    assert [by_name[name] for name in drawn] == sorted(by_name.values(), reverse=True)
    rows = {row[0]: row for row in table(page)[1:]}
    for one in ranked:
        row = rows[one["measure"]]
        for axis, cell in zip(one["axes"], row[3:], strict=bool(one["axes"])):
            assert cell == f"{number(axis['tau'])} [{number(axis['low'])}, {number(axis['high'])}]"
        if one["psi"] is None:
            assert row[1:] == ["not defined", *["–"] * (len(row) - 2)]
    assert table(page, 1)[1:] == [[one[name] for name in ("measure", "formula", "sentence")] for one in ranked]


def test_many_networks_are_summed_up(data, tmp_path):
    [first, _] = data["measures"]
    first["settings"] = {}
    data["measures"] = [copy.deepcopy(first) for _ in range(7)]
    for place, one in enumerate(data["measures"]):
        one["setting"]["solution"] = f"network {place}"
        one["measures"]["flatness"] = float(place + 1)
        one["gap"] = place / 10
    for one in data["measures"][:2]:
        one["measures"]["flatness"] = None
        one["undefined"] = {"flatness": "it is steep"}
    data["rankings"] = []
    pages = written(tmp_path, data)
    page = pages["diagnosis-measures.html"]
    summary = {row[0]: row[1:] for row in table(page, 1)}
    assert summary["flatness"] == ["3.000", "5.000", "7.000", "5 of 7"]
    assert table(page, 2)[1:] == [["it is steep", "flatness", "network 0, network 1"]]
    assert "gaps 0 to 0.6000, of 7 networks" in words(pages["diagnosis.html"])
    assert words(page).count("Each network; evaluation mode") == 1


def test_the_first_page_names_the_others_after_itself(data, tmp_path):
    run = save(tmp_path / "run", data)
    first = descend.report.write_diagnosis(run, tmp_path / "mine.html")
    assert first == tmp_path / "mine.html"
    files = {path.name for path in tmp_path.glob("*.html")}
    assert files == {"mine.html", *(f"mine-{name}.html" for name in INSTRUMENTS)}
    for name in files:
        links = {link.get("href") for link in report_pages.read(tmp_path / name).iter("a")}
        assert {link for link in links if not link.startswith("#")} <= files
        assert name == "mine.html" or "mine.html" in links
    assert not list(run.glob("*.html"))
    with pytest.raises(ValueError, match="names no HTML file"):
        descend.report.write_diagnosis(run, tmp_path / "mine.txt")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        descend.report.write_diagnosis(run, tmp_path / "none" / "mine.html")


def test_the_first_page_is_written_last(data, tmp_path, monkeypatch):
    from descend.report import files

    names = []
    write = files.write
    monkeypatch.setattr(files, "write", lambda path, text: (names.append(path.name), write(path, text)))
    descend.report.write_diagnosis(save(tmp_path, data))
    assert names[-1] == "diagnosis.html"
    assert len(names) == len(set(names)) == 1 + len(INSTRUMENTS)


@pytest.mark.parametrize("seed", range(6))
def test_numbers_of_any_size_break_no_page(data, tmp_path, seed):
    """Either the reader names what does not fit, or all pages stand."""
    draw = random.Random(seed)
    sizes = (0.0, -1.0, 1e-300, 1e-12, 1e12, 1e300, -1e300)
    kept = ("grid", "amounts", "xs", "ys", "alpha", "width", "step", "steps", "parameters", "format")
    rising = ("way", "widths")  # by their first numbers

    def changed(value):
        if isinstance(value, dict):
            return {
                key: [[point[0], *changed(point[1:])] for point in entry]
                if key in rising
                else entry
                if key in kept
                else changed(entry)
                for key, entry in value.items()
            }
        if isinstance(value, list):
            return [changed(entry) for entry in value]
        return draw.choice(sizes) if isinstance(value, float) and draw.random() < 0.2 else value

    try:
        pages = written(tmp_path, changed(data))
    except ValueError as error:
        pages = str(error)
    assert "is damaged" in pages or len(pages) == 1 + len(INSTRUMENTS)


def test_a_diagnosis_without_numbers_still_has_pages(data, tmp_path):
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [emptied(entry) for entry in value]
        return value

    for one in data["spectra"]:
        one["values"] = [None] * len(one["values"])
        one["residuals"] = [None] * len(one["residuals"])
    for one in (*data["lines"], *data["surfaces"]):
        one["losses"] = [[None] * len(row) if isinstance(row, list) else None for row in one["losses"]]
        if one.get("errors"):
            one["errors"] = [None] * len(one["errors"])
    for one in data["densities"]:
        one["values"] = [None] * len(one["values"])
    for one in data["sharpness"]:
        one["value"] = one["low"] = one["high"] = None
    for row in data["rescaling"]["rows"]:
        row["measures"] = dict.fromkeys(row["measures"])
    understood_without_numbers(data)
    pages = written(tmp_path, emptied(data))
    assert "not finite" in words(pages["diagnosis-slices.html"])
    assert set(pages) == {"diagnosis.html", *(f"diagnosis-{name}.html" for name in INSTRUMENTS)}
    assert "no measure is defined for all networks" in words(pages["diagnosis.html"])
    assert not list(pages["diagnosis-measures.html"].iter("svg"))


def understood_without_numbers(data):
    for one in data["memorization"]:
        one.update(way=[], epochs_to_fit=None, validation_accuracy=None)
    for one in data["units"]:
        for name in ("selectivity", "information", "importance"):
            one[name] = [None] * len(one[name])
        one.update(chance=None, tau=None, low=None, high=None)
    for one in data["symmetry"]["twins"]:
        one.update(loss=None, twin_loss=None)
    for one in data["alignments"]:
        for name in ("losses_before", "losses_after"):
            one[name] = [None] * len(one[name])
        one.update(barrier_before=None, barrier_after=None)
    for one in data["measures"]:
        one.update(measures=dict.fromkeys(one["measures"]), loss_gap=None)
    for one in data["rankings"]:
        one.update(psi=None, low=None, high=None, axes=[])


def test_hostile_strings_are_text(data, tmp_path):
    for one in data["measures"]:
        one.update(measures={HOSTILE: None}, undefined={HOSTILE: HOSTILE}, settings={HOSTILE: HOSTILE})
    data["memorization"][1]["precision"] = {HOSTILE: 1.0}
    pages = written(tmp_path, every_string(data, lambda text: f"{text} {HOSTILE}"))
    for root in pages.values():
        assert not list(root.iter("script"))
        assert not list(root.iter("b"))


def test_the_same_results_give_the_same_bytes(data, tmp_path):
    for folder in ("one", "two"):
        descend.report.write_diagnosis(save(tmp_path / folder, data))
    for path in (tmp_path / "one").glob("*.html"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "words_"),
    [
        (lambda d: d.update(format=99), "has format 99"),
        (lambda d: d.update(kind="search"), "is not of a diagnosis"),
        (lambda d: d.pop("subject"), "subject"),
        (lambda d: d["spectra"][0].update(values="many"), "spectra[0].values"),
        (lambda d: d["spectra"][0].update(values=[1.0]), "spectra[0] has 1 values and 3 residuals"),
        (lambda d: d["lines"][0].update(amounts=[0.0]), "lines[0] has amounts"),
        (lambda d: d["lines"][1].update(ends=["one"]), "lines[1].ends has 1"),
        (lambda d: d["surfaces"][0].update(xs=[0.0]), "surfaces[0].losses is no grid"),
        (lambda d: d["surfaces"][1].update(way=[[1.0]]), "surfaces[1].way"),
        (lambda d: d["densities"][0].update(grid=[0.0]), "densities[0] has a grid"),
        (lambda d: d.update(solutions=[]), "solutions is empty"),
        (lambda d: d["densities"][0]["grid"].reverse(), "densities[0].grid does not rise"),
        (lambda d: d["densities"][0].update(width=0.0), "densities[0] has a width"),
        (lambda d: d["densities"][0]["moments"].pop(), "densities[0] has 5 moments and 6 errors"),
        (lambda d: d["lines"][0]["amounts"].reverse(), "lines[0].amounts do not rise"),
        (lambda d: d["surfaces"][0]["ys"].reverse(), "surfaces[0] has xs or ys that do not rise"),
        (lambda d: d["rescaling"]["rows"][0].update(alpha=0.0), "rescaling.rows has values of alpha"),
        (lambda d: d["training"][0].update(steps=0), "training[0].steps is 0"),
        (lambda d: d["training"][0].update(losses=[[1.0]]), "training[0].losses has a point"),
        (lambda d: d["training"][0].update(threshold=[[1.0]]), "training[0].threshold has a point"),
        (lambda d: d["memorization"][0].update(epochs=0), "memorization[0].epochs is 0"),
        (lambda d: d["memorization"][0].update(way=[[1.0, 2.0]]), "memorization[0].way has a point"),
        (lambda d: d["memorization"][1]["way"].reverse(), "memorization[1].way has epochs that do not rise"),
        (lambda d: d["directions"][0].update(lows=[0.0]), "directions[0] has amounts, means and intervals"),
        (lambda d: d["directions"][2]["amounts"].reverse(), "directions[2].amounts do not rise"),
        (lambda d: d["directions"][0].update(how="noisy"), "directions[0].how"),
        (lambda d: d["units"][1]["importance"].pop(), "units[1] has selectivity, information and importance"),
        (lambda d: d["symmetry"].update(widths=[[1.0]]), "symmetry.widths has a point"),
        (lambda d: d["symmetry"]["widths"].reverse(), "symmetry.widths do not rise"),
        (lambda d: d["alignments"][0].update(losses_after=[1.0]), "alignments[0] has amounts and losses"),
        (lambda d: d["alignments"][1]["amounts"].reverse(), "alignments[1].amounts do not rise"),
        (lambda d: d["alignments"][1].update(ends=["one"]), "alignments[1].ends has 1"),
        (lambda d: d["rankings"][0].update(low=None), "rankings[0] has a psi without an interval"),
    ],
)
def test_damaged_files_are_named_with_the_place(data, tmp_path, change, words_):
    change(data)
    with pytest.raises(ValueError, match=re.escape(words_)):
        descend.report.write_diagnosis(save(tmp_path, data))
    assert not list(tmp_path.glob("*.html"))


def test_what_is_damaged_comes_with_a_remedy(data, tmp_path):
    data["solutions"] = []
    with pytest.raises(ValueError, match="repeat the diagnosis's command, with --fresh if it reports it as finished"):
        descend.report.write_diagnosis(save(tmp_path, data))


def test_missing_files():
    with pytest.raises(FileNotFoundError, match="give the directory of a finished diagnosis"):
        descend.report.write_diagnosis("nowhere")


def test_the_schema_is_one_current_and_true_to_the_example(example):
    schema = descend.report.schema("diagnosis")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example, schema)
    assert (DOCS / "diagnosis.schema.json").read_text() == json.dumps(schema, indent=1) + "\n"
    assert json_schema.descriptions(Diagnosis)["spectra"] == "extreme eigenvalues."


def test_reading_keeps_every_number(example, tmp_path):
    read = diagnosis_reading.read(save(tmp_path, example) / "diagnosis.json")
    assert read.spectra[0].values == example["spectra"][0]["values"]
    assert read.surfaces[-1].points[1].name == "seed 1"
