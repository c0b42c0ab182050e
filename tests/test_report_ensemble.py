"""The page of a study of snapshots: alone in one file, true to its JSON, and silent on what a task does not have.

Run as a script, this file writes the schema in docs anew.
"""

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import jsonschema
import pytest
import torch

import descend.report
import report_pages
from descend.experiments.ensemble_study import results as study_results
from descend.experiments.ensemble_study import study
from descend.experiments.ensemble_study.methods import methods
from descend.report import ensemble_landscape, ensemble_reading, heights
from descend.report.ensemble_results import Diversity
from ensemble_example import example
from report_pages import table, within, words

DIVERSITY = [name for name in Diversity.__dataclass_fields__ if name not in ("source", "members", "pairwise")]
SCHEMA = Path(__file__).parents[1] / "docs" / "ensemble.schema.json"


def schema_text():
    return json.dumps(descend.report.schema("ensemble"), indent=1) + "\n"


def save(folder, data):
    return report_pages.save(folder, "ensemble.json", data)


def page(folder, data):
    return report_pages.read(descend.report.write_ensemble(save(folder, data)))


def estimated(found):
    return [f"{found['mean']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]"]


@pytest.fixture(scope="module")
def data():
    return example(("sgd", "adam"), count=3)


@pytest.fixture(scope="module")
def root(data, tmp_path_factory):
    return page(tmp_path_factory.mktemp("study"), data)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The page of two snapshots of a task without classes."""
    return page(tmp_path_factory.mktemp("bare"), example(count=2, seeds=1, classes=False, label="screening, no claim"))


class TestPage:
    def test_needs_nothing_but_itself(self, root):
        text = ElementTree.tostring(root, encoding="unicode")
        assert not re.search(r"https?:|url\(|@import", text)
        assert not list(root.iter("script"))
        for element in root.iter():
            assert element.tag not in ("img", "iframe", "object", "embed", "image")
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                assert not name.endswith(("href", "src")) or value.startswith("#") or value == "data:,"

    def test_ids_are_unique_and_links_lead_somewhere(self, root, bare):
        for one in (root, bare):
            ids = [element.get("id") for element in one.iter() if element.get("id")]
            links = {link.get("href") for link in one.iter("a")}
            assert len(ids) == len(set(ids))
            assert links <= {f"#{name}" for name in ids}

    def test_headings_descend_by_one(self, root):
        levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch("h[1-6]", element.tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))

    def test_every_chart_has_a_text_alternative(self, root):
        drawn = list(root.iter("svg"))
        # of each optimizer: methods, counts, errors and losses on two lines, the plane
        assert len(drawn) == 2 * (2 + 2 * 2 + 1)
        assert all(one.get("role") == "img" and len(one.get("aria-label")) > 40 for one in drawn)

    def test_colours_of_both_schemes(self, root):
        """Charts name the variables of the style sheet, but for the plane, which looks alike in both."""
        for one in root.iter("svg"):
            fixed = [value for part in one.iter() for value in part.attrib.values() if value.startswith("#")]
            assert bool(fixed) == one.get("aria-label").startswith("Validation loss on the plane")

    def test_the_same_results_give_the_same_bytes(self, tmp_path):
        run = save(tmp_path / "run", example(count=2))
        made = descend.report.write_ensemble(run).read_bytes()
        (run / "ensemble.html").write_text("another")
        assert descend.report.write_ensemble(str(run / "ensemble.json")) == run / "ensemble.html"
        assert (run / "ensemble.html").read_bytes() == made
        elsewhere = descend.report.write_ensemble(run, out=tmp_path / "page.html")
        assert elsewhere.read_bytes() == made
        assert sorted(path.name for path in run.iterdir()) == ["ensemble.html", "ensemble.json"]


class TestNumbers:
    @pytest.mark.parametrize("place", [1, 2])
    def test_methods_are_those_of_the_results(self, root, data, place):
        _, *rows = table(within(root, f"methods-{place}"))
        made = data["optimizers"][place - 1]["rows"]
        assert [row[0] for row in rows] == [row["title"] for row in made]
        for row, of in zip(rows, made, strict=True):
            assert row[1:3] == [str(of["models"]), f"{100 * of['metric']['mean']:.1f} %"]
            assert row[3] == f"[{100 * of['metric']['low']:.1f}, {100 * of['metric']['high']:.1f}]"
            assert row[4:] == [cell for name in ("nll", "brier") for cell in estimated(of[name])]
        _, *rows = table(within(root, f"methods-{place}"), 1)
        for row, of in zip(rows, made, strict=True):
            before = [cell for name in ("ece", "adaptive_ece", "classwise_ece") for cell in estimated(of[name])]
            after = [cell for name in ("tempered_nll", "tempered_ece") for cell in estimated(of[name])]
            assert row[1:] == [*before, f"{of['temperature']:.2f}", *after]

    def test_comparisons_in_points_and_for_the_better(self, root):
        _, first, second = table(within(root, "comparisons-1"))
        assert first[1:6] == ["+1.00", "[+0.40, +1.60]", "better", "0.25", "3 / 0"]
        assert first[6:] == ["+0.010", "[+0.004, +0.016]", "worse", "0.25", "0 / 3"]
        assert second[1:6] == ["−1.00", "[−1.60, −0.40]", "worse", "0.25", "0 / 3"]

    def test_lower_is_better_where_it_is(self, bare):
        rows = table(within(bare, "comparisons-1"))
        assert rows[1][1:] == ["+0.0100", "[+0.0040, +0.0160]", "worse", "1", "0 / 1"]

    def test_barriers_are_those_of_the_results(self, root, data):
        found = data["optimizers"][0]["barriers"]
        heads, *rows = table(within(root, "barriers-1"))
        assert heads[1:] == [row[0] for row in rows] == [str(step) for step in found["steps"]]
        for place, row in enumerate(rows):
            made = [f"{value:.3f}" if value else "" for value in found["matrix"][place]]
            assert row[1:] == made

    def test_charts_say_every_mean(self, root, data):
        said = next(one.get("aria-label") for one in root.iter("svg"))
        for row in data["optimizers"][0]["rows"]:
            assert f"{row['title']} {100 * row['metric']['mean']:.1f}\u00a0%" in said

    def test_what_is_said_stands_there(self, root, data):
        text = words(root)
        assert all(sentence in text for sentence in (*data["findings"], *data["caveats"], data["manifest"]["command"]))


class TestLeftOut:
    def test_columns_and_sections_without_anything(self, bare):
        heads, *rows = table(within(bare, "methods-1"))
        assert heads == ["Method", "Passes", "Test bits per character", "95 % interval", "Loss"]
        assert all(len(row) == len(heads) for row in rows)
        assert within(bare, "diversity-1") is within(bare, "plane-1") is None
        assert "NLL" not in words(bare)
        assert "Screening" in words(bare)

    def test_columns_of_the_diversity(self, root):
        heads, first, *_ = table(within(root, "diversity-1"))
        assert "Error correlation" not in heads  # which is null for all of them
        assert first[:3] == ["snapshots", "3", "12.3 %"]

    def test_no_seed_was_left(self, tmp_path):
        data = example(count=2)
        nothing = {
            "best_average": None,
            "rows": [],
            "comparisons": [],
            "diversity": [],
            "soup_taken": [],
            "barriers": None,
            "seeds": [],
        }
        data["optimizers"][0].update(nothing, rate=None, lost_seeds=[1, 2, 3])
        assert "no seed was left" in words(page(tmp_path, data))

    def test_numbers_that_are_not_finite(self, tmp_path):
        data = example(count=3, seeds=1)
        one = data["optimizers"][0]
        for row in one["rows"][:2]:
            row["metric"] = dict.fromkeys(("mean", "low", "high"))
            row["by_seed"] = [None]
        one["barriers"]["matrix"][0][1] = None
        one["barriers"]["lines"][0].update(barrier=None, losses=[0.5, None, None, None, 0.4], errors=[])
        one["plane"]["losses"][0][0] = None
        one["plane"]["losses"][-1][-1] = 1e6
        one["comparisons"][0]["metric"] = {**dict.fromkeys(("mean", "low", "high", "p")), "above": 0, "below": 0}
        text = words(page(tmp_path, data))
        assert "One cell without a colour" in text
        assert "Losses from 20 up" in text
        assert "×" in text


class TestPicturesOfThePlane:
    def test_shades_cover_every_loss_and_are_honest_of_the_cap(self):
        shades = heights.Shades.of([[0.1, 1.0], [None, 500.0]])
        assert (shades.log, shades.capped) == (True, True)
        assert (shades.bounds[0], shades.bounds[-1]) == pytest.approx((0.1, 10.0))
        assert shades.color(0.1) == "#fde725"
        assert shades.color(10.0) == shades.color(500.0) == "#440154"
        even = heights.Shades.of([[1.0, 2.0]])
        assert (even.log, even.capped) == (False, False)
        assert heights.Shades.of([[None]]).bounds == heights.Shades.of([[0.0, 1.0]]).bounds

    def test_one_unit_is_as_long_across_as_up(self):
        for height in (0.1, 1.0, 9.0):
            axis = [0.0, 1.0, 2.0]
            plane = SimpleNamespace(xs=axis, ys=[height * at for at in axis])
            area = heights.Area.of(plane)
            across = area.frame.plot_width / (area.xs.high - area.xs.low)
            up = area.frame.plot_height / (area.ys.high - area.ys.low)
            assert across == pytest.approx(up, rel=0.01)
            assert area.xs.low <= area.inner_xs.low < area.inner_xs.high <= area.xs.high
            assert area.ys.low <= area.inner_ys.low + 1e-9

    def test_the_way_is_cut_where_the_grid_ends(self):
        box = (ensemble_landscape.Span(0.0, 1.0), ensemble_landscape.Span(0.0, 1.0))
        assert heights.inside([-1.0, 0.5], [3.0, 0.5], box) == ([0.0, 0.5], [1.0, 0.5])
        assert heights.inside([0.2, 0.2], [0.3, 0.4], box) == ([0.2, 0.2], [0.3, 0.4])
        assert heights.inside([-1.0, 0.5], [0.5, 2.0], box) is None
        assert heights.inside([-1.0, 2.0], [3.0, 2.0], box) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(format=2), "has format 2, and this version of descend reads formats up to 1"),
        (lambda data: data.update(format="1"), "does not name its format"),
        (lambda data: data.update(kind="compare"), "is not of a study of snapshots"),
        (lambda data: data["optimizers"][0]["rows"][1].pop("ece"), r"optimizers\[0\]\.rows\[1\]\.ece is missing"),
        (lambda data: data["optimizers"][0]["plane"]["way"][0].pop(), r"optimizers\[0\]\.plane\.way is not"),
        (lambda data: data["optimizers"][0]["barriers"]["matrix"].pop(), r"barriers\.matrix is not 3 lists of 3"),
        (lambda data: data["optimizers"][0]["barriers"]["lines"][2]["losses"].pop(), r"lines\[2\] has not one value"),
        (lambda data: data["optimizers"][0]["seeds"].pop(), "by_seed has not one value for each of seeds"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, said):
    data = example(count=3)
    change(data)
    with pytest.raises(ValueError, match=said):
        descend.report.write_ensemble(save(tmp_path, data))


def test_what_is_missing_or_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ensemble\.json does not exist; make it with: descend ensemble "):
        descend.report.write_ensemble(tmp_path)
    with pytest.raises(FileNotFoundError, match="give the directory of a run"):
        descend.report.write_ensemble(tmp_path / "none")
    (tmp_path / "ensemble.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: it is not JSON"):
        descend.report.write_ensemble(tmp_path)
    assert not (tmp_path / "ensemble.html").exists()


def test_the_schema_in_docs_is_current():
    assert SCHEMA.read_text() == schema_text(), "renew it: python tests/test_report_ensemble.py"


def written():
    """What a study writes of made-up scores, as JSON."""
    torch.manual_seed(0)
    score = dict.fromkeys((*study_results._MEANS, *study_results._POINTS), 0.5)
    own = {name: torch.rand(20) for name in study_results._MEANS}
    names = [one.name for one in methods(2)]
    found = {"members": 2, **dict.fromkeys(DIVERSITY, 0.1), "pairwise": [[0.0, 0.1], [0.1, 0.0]]}
    seed = {
        "rows": dict.fromkeys(names, score),
        "replicates": {**dict.fromkeys(names, own), "snapshots members": {}},
        "soup_taken": [20, 10],
    }
    scores = [{**seed, "diversity": {"snapshots": found}}] * 2
    line = {"barrier": 0.1, "error_barrier": None, "amounts": [0.0, 1.0], "losses": [1.0, 2.0], "errors": None}
    row = {"xs": [0.0, 1.0], "losses": [1.0, float("inf")], "errors": [0.1, 0.2]}
    trace = {"steps": [1, 2, 3], "coordinates": [[0.0, 0.0]] * 3, "way": [[0.0] * 4], "repeats": False}
    finals = [SimpleNamespace(seed=seed, rate=0.1, values={}) for seed in (1, 2)]
    jobs = [SimpleNamespace(job=SimpleNamespace(steps=(10, 20)))]
    studied = SimpleNamespace(finals=finals, lost=(3,), count=2, lines=lambda: jobs, fineness=study.QUICK)
    plane = [{**row, "y": 0.0}, {**row, "y": 1.0}]
    findings = SimpleNamespace(scores=scores, lines=[line], plane=plane, trace=[trace])
    task = SimpleNamespace(metric="accuracy", direction="maximize", worst=0, target=0.9)
    known = example(count=2)
    run = {name: known[name] for name in ("label", "task", "manifest", "optimizers")}
    return json.loads(json.dumps(study_results.results(task, {"sgd": studied}, {"sgd": findings}, run)))


def test_the_schema_holds_for_what_is_written_and_names_all_of_it(tmp_path, data):
    schema = descend.report.schema("ensemble")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "descend:ensemble:1"
    strict = copy.deepcopy(schema)
    for kind in (strict, *strict["$defs"].values()):
        kind["additionalProperties"] = False
    for document in (data, written()):
        jsonschema.validate(document, strict)
        assert ensemble_reading.read(save(tmp_path, document) / "ensemble.json").format == 1
    assert "ensemble of 2 snapshots" in words(page(tmp_path, written()))


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
