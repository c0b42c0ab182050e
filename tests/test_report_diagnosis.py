"""The pages of a diagnosis: each alone in its file, true to the JSON, and safe from what stands in that."""

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

import descend.report
import report_pages
from descend.report import diagnosis_reading, json_schema
from descend.report.diagnosis_parts import PARTS
from descend.report.diagnosis_results import Diagnosis
from report_pages import words

EXAMPLE = Path(__file__).with_name("diagnosis_example.json")
DOCS = Path(__file__).parents[1] / "docs"
HOSTILE = "</style><script>alert(1)</script>\"'&<b onclick='x'>"
CHOICES = ("kind", "label", "direction", "which", "mode", "statistics", "source", "unit", "logits", "matrix", "measure")


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
    return change(value) if isinstance(value, str) else value


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
    assert set(pages) == {"diagnosis.html", *(f"diagnosis-{name}.html" for name in PARTS)}
    links = {link.get("href") for link in pages["diagnosis.html"].iter("a")}
    assert {name for name in pages if name != "diagnosis.html"} <= links
    for root in pages.values():
        assert {link.get("href") for link in root.iter("a")} <= {*pages}


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
    for name in PARTS:
        said = words(pages[f"diagnosis-{name}.html"])
        for caveat in [*example["caveats"][name], *example["caveats"]["all"]]:
            assert " ".join(caveat.split()) in said, name


def test_numbers_are_there_with_what_they_may_be_off_by(pages, example):
    eigenvalues = words(pages["diagnosis-eigenvalues.html"])
    for one in example["spectra"]:
        for value, residual in zip(one["values"], one["residuals"], strict=True):
            for number in (value, residual):
                shown = "not finite" if number is None else descend.report.diagnosis_parts._number(number)
                assert shown in eigenvalues
    assert " no " in eigenvalues  # the one that did not converge
    sharpness = words(pages["diagnosis-sharpness.html"])
    assert "not finite" in sharpness
    assert "rescaling of layers against each other" in sharpness
    training = words(pages["diagnosis-training.html"])
    assert "Largest eigenvalue of the Hessian" in training
    interpolation = words(pages["diagnosis-interpolation.html"])
    assert "Amount 0 is start of seed 0, amount 1 is seed 0" in interpolation
    assert "computed anew at every point" in interpolation


def test_pictures_of_surfaces_have_lines_cells_and_the_way(pages):
    for name, count in (("slices", 3), ("trajectory", 2), ("interpolation", 6)):
        assert len(list(pages[f"diagnosis-{name}.html"].iter("svg"))) == count
    first, second = pages["diagnosis-trajectory.html"].iter("svg")
    assert "from above" in first.get("aria-label")
    assert "in perspective" in second.get("aria-label")
    assert len(list(second.iter("path"))) > 50


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
    pages = written(tmp_path, emptied(data))
    assert "not finite" in words(pages["diagnosis-slices.html"])


def test_hostile_strings_are_text(data, tmp_path):
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
    ],
)
def test_damaged_files_are_named_with_the_place(data, tmp_path, change, words_):
    change(data)
    with pytest.raises(ValueError, match=re.escape(words_)):
        descend.report.write_diagnosis(save(tmp_path, data))
    assert not list(tmp_path.glob("*.html"))


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
