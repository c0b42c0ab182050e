"""Results files that are missing, damaged or newer are named, and nothing is overwritten."""

import copy
import json
import re
import sys

import pytest

import descend.report
from descend.report.results import read
from report_examples import example, save


class TestErrors:
    def test_missing(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"results\.json does not exist; give the directory of a finished run"
        ):
            descend.report.write(tmp_path)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "it is not JSON"),
            (b'{"format": 1, "kind', r"it is not JSON \(line 1"),
            (b"\xff\xfe", "it is not UTF-8"),
            (b"[]", "it does not name its format"),
            (b'{"format": "1"}', "it does not name its format"),
            (b'{"format": 1}', "kind is missing"),
        ],
    )
    def test_corrupt(self, tmp_path, content, why):
        (tmp_path / "results.json").write_bytes(content)
        (tmp_path / "report.html").write_text("the one before")
        with pytest.raises(ValueError, match=rf"results\.json is damaged: {why}.*; repeat the run's command"):
            descend.report.write(tmp_path)
        assert (tmp_path / "report.html").read_text() == "the one before"

    def test_newer(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"results\.json has format 3, .* up to 2; build the report with the version"
        ):
            descend.report.write(save(tmp_path, {"format": 3}))

    @pytest.mark.parametrize(
        ("path", "value", "why"),
        [
            (("task", "steps"), "40", "task.steps does not hold an integer"),
            (("task", "direction"), "up", "task.direction does not hold one of 'maximize', 'minimize'"),
            (("trials", 2, "rate"), None, "trials[2].rate does not hold a number"),
            (("trials", 2, "rate"), -1.0, "trials[2].rate must be positive, not -1.0"),
            (("trials", 1, "curve", 0), {"step": 1}, "trials[1].curve[0].seconds is missing"),
            (("trials", 0, "optimizer"), "adm", "trials[0].optimizer is 'adm', which optimizers does not have"),
            (("task", "sizes", "train"), 1.5, "task.sizes.train does not hold an integer"),
            (("trials",), {}, "trials does not hold a list"),
            (("summary",), [], "summary and optimizers do not name the same optimizers"),
            (("optimizers",), [], "optimizers is empty"),
            (("optimizers", 1, "name"), "adam", "optimizers has a name twice"),
        ],
    )
    def test_place_of_what_does_not_fit(self, tmp_path, path, value, why):
        data = copy.deepcopy(example({"adam": [0.9], "sgd": [0.8]}))
        *front, last = path
        place = data
        for key in front:
            place = place[key]
        place[last] = value
        with pytest.raises(ValueError, match=re.escape(f"is damaged: {why};")):
            descend.report.write(save(tmp_path, data))
        assert not (tmp_path / "report.html").exists()

    def test_numbers_that_are_not_finite_count_as_missing(self, tmp_path):
        data = json.dumps(example({"adam": [0.9]})).replace("0.0625", "NaN").replace("4.25", "1e999")
        (tmp_path / "results.json").write_text(data)
        results = read(tmp_path / "results.json")
        assert {trial.validation_loss for trial in results.trials} == {None}
        assert results.summary[0].ms_per_step is None

    def test_without_the_extra(self, tmp_path, monkeypatch):
        for module in ("page", "template"):
            monkeypatch.delitem(sys.modules, f"descend.report.{module}", raising=False)
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(ModuleNotFoundError, match=r"needs jinja2, .*pip install 'descend\[lab\]'"):
            descend.report.write(save(tmp_path, example({"adam": [0.9]})))
