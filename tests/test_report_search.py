"""The page of a search for rules: alone in one file, true to its JSON, and safe from what stands in that."""

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import descend.report
import report_pages
from descend.report import search_reading
from report_pages import table, within, words

EXAMPLE = Path(__file__).with_name("search_example.json")
HOSTILE = "</style><script>alert(1)</script>\"'&<b onclick='x'>"


def save(folder, data):
    return report_pages.save(folder, "search.json", data)


def page(folder, data):
    return report_pages.read(descend.report.write_search(save(folder, data)))


def rules(rows):
    """The rows of a leaderboard without those that name a tier."""
    return [row for row in rows if len(row) > 1]


def every_string(value, change):
    """The same with its strings changed, those apart that must stay as they are."""
    if isinstance(value, dict):
        kept = ("kind", "direction", "directory", "mathml", "reward")
        return {key: entry if key in kept else every_string(entry, change) for key, entry in value.items()}
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
def root(example, tmp_path_factory):
    return page(tmp_path_factory.mktemp("search"), example)


class TestPage:
    def test_needs_nothing_but_itself(self, root):
        text = ElementTree.tostring(root, encoding="unicode")
        assert not re.search(r"https?:|url\(|@import", text)
        assert not list(root.iter("script"))
        for element in root.iter():
            assert element.tag not in ("img", "iframe", "object", "embed", "image")
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                leads_on = value.startswith(("#", "held-out/")) or value == "data:,"
                assert not name.endswith(("href", "src")) or leads_on

    def test_ids_are_unique_and_links_lead_somewhere(self, root, example):
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        links = {link.get("href") for link in root.iter("a")}
        reports = {f"{one['directory']}/report.html" for one in example["held_out"]}
        assert len(ids) == len(set(ids))
        assert links - {f"#{name}" for name in ids} == reports

    def test_headings_descend_by_one(self, root):
        levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch("h[1-6]", element.tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))

    def test_every_chart_has_a_text_alternative_and_colours_of_both_schemes(self, root):
        drawn = list(root.iter("svg"))
        assert [one.get("role") for one in drawn] == ["group", "img"]  # the first has links
        for one in drawn:
            assert len(one.get("aria-label")) > 40
            values = [(name, value) for part in one.iter() for name, value in part.attrib.items()]
            assert not [value for name, value in values if value.startswith("#") and name != "href"]

    def test_tables_have_heads_and_scroll_by_keyboard(self, root):
        regions = [one for one in root.iter("div") if one.get("class", "").startswith("scroll")]
        assert len(regions) == len(list(root.iter("table"))) == 4
        for region in regions:
            assert region.get("tabindex") == "0"
            assert region.get("aria-label")
            assert all(head.get("scope") for head in region.iter("th"))

    def test_the_same_results_give_the_same_bytes(self, tmp_path, data):
        run = save(tmp_path / "run", data)
        made = descend.report.write_search(run).read_bytes()
        (run / "search.html").write_text("another")
        assert descend.report.write_search(str(run / "search.json")) == run / "search.html"
        assert (run / "search.html").read_bytes() == made
        elsewhere = descend.report.write_search(run, out=tmp_path / "page.html")
        assert elsewhere.read_bytes() == made
        assert sorted(path.name for path in run.iterdir()) == ["search.html", "search.json"]


class TestNumbers:
    def test_the_leaderboard_is_that_of_the_results(self, root, example):
        heads, *rows = table(within(root, "leaderboard"))
        assert heads[0] == "Rank and rule"
        assert len(rules(rows)) == len(example["leaderboard"])
        for row, of in zip(rules(rows), example["leaderboard"], strict=True):
            cells = dict(zip(heads[:9], row[:9], strict=True))
            assert cells["Rank and rule"] == f"{of['rank']}{of['title']}"
            assert cells["Kind"] == ("known" if of["is_known"] else "found")
            assert cells["Fresh loss"] == f"{of['loss']:.4f}"
            assert cells["95 % interval"] == f"[{of['low']:.4f}, {of['high']:.4f}]"
            assert cells["Accuracy"] == f"{100 * of['accuracy']:.1f} %"
            assert float(cells["Rate"]) == pytest.approx(of["rate"], rel=5e-3)
            assert cells["State, bytes per parameter"] == str(of["state_bytes"])
            assert cells["Selection loss"] == f"{sum(of['selection_losses']) / 2:.4f}"
            assert row[9] == ("–" if of["reward"] is None else f"{of['reward']:.4f}")
            less = of["difference"]
            assert row[10] == ("–" if less is None else f"{less['mean']:+.5f}".replace("-", "−"))
            assert row[11] == ("–" if less is None else f"[{less['low']:+.5f}, {less['high']:+.5f}]".replace("-", "−"))

    def test_tiers_part_the_leaderboard(self, root, example):
        parts = list(within(root, "leaderboard").iter("tbody"))
        tiers = [row["tier"] for row in example["leaderboard"]]
        assert [words(part[0]) for part in parts] == [f"Tier {tier}" for tier in sorted(set(tiers))]
        assert [len(part) - 1 for part in parts] == [tiers.count(tier) for tier in sorted(set(tiers))]

    def test_formulas_are_mathematics_and_the_last_equation(self, root, example):
        cells = [row[2] for row in within(root, "leaderboard").iter("tr") if len(row) > 3][1:]
        for cell, of in zip(cells, example["leaderboard"], strict=True):
            last = of["text"].splitlines()[-1]
            assert cell.find("math").get("alttext") == last
            assert words(cell).startswith("θ")
            assert len(list(cell.iter("mtable"))) == 0

    def test_every_rule_has_its_mathematics_and_its_source(self, root, example):
        for of in example["leaderboard"]:
            card = within(root, f"rule-{of['rank']}")
            assert next(card.iter("math")).get("alttext") == of["text"]
            sources = [pre.text for pre in card.iter("pre") if pre.get("class") == "source"]
            assert sources == [of["source"]]
            assert all(details.get("open") is None for details in card.iter("details"))
            shown = {words(entry[0]): words(entry[1]) for entry in card.find("dl")}
            assert shown["fresh losses"] == ", ".join(f"{loss:.4f}" for loss in of["fresh_losses"])
            assert shown["selection losses"] == ", ".join(f"{loss:.4f}" for loss in of["selection_losses"])
            assert {name.replace("_", " "): text for name, text in of["schedules"].items()}.items() <= shown.items()
            assert shown.get("member") == of["member"]

    def test_improvements_and_their_points(self, root, example):
        heads, *rows = table(within(root, "search"))
        assert heads == ["No.", "Evaluation", "Reward", "Formula"]
        assert rows == [
            [str(place), str(of["evaluation"]), f"{of['reward']:.4f}", of["formula"]]
            for place, of in enumerate(example["improvements"], 1)
        ]
        points = list(within(root, "search").iter("a"))
        assert [link.get("href") for link in points] == [f"#improvement-{place}" for place, _ in enumerate(rows, 1)]
        for link, of in zip(points, example["improvements"], strict=True):
            assert of["formula"] in link.get("aria-label")

    def test_what_became_of_the_proposals(self, root, example):
        _, *rows = table(within(root, "search"), 1)
        found, counts = {row[0]: row[1:] for row in rows}, example["counts"]
        invalid = sum(counts["invalid"].values())
        expected = {
            "Proposals": counts["proposals"],
            "Distinct rules, trained": counts["evaluated"],
            "diverged at every rate": counts["diverged"],
            "Repeats of a class met before, not trained again": counts["repeats"],
            "Not worth training": invalid,
            **counts["invalid"],
        }
        assert found == {
            title: [str(count), f"{100 * count / counts['proposals']:.1f} %"] for title, count in expected.items()
        }

    def test_held_out_tasks(self, root, example):
        (one,) = example["held_out"]
        section = within(root, "held-out")
        _, *rows = table(section)
        assert [row[0] for row in rows] == [of["title"] for of in one["rows"]]
        for row, of in zip(rows, one["rows"], strict=True):
            assert row[1:4] == [
                "–" if of["rank"] is None else str(of["rank"]),
                f"{100 * of['test_mean']:.1f} %",
                f"[{100 * of['test_low']:.1f}, {100 * of['test_high']:.1f}]",
            ]
        assert f"{one['label'].capitalize()}: {one['steps']} steps" in words(section)

    def test_charts_say_every_mean(self, root, example):
        _, said = (one.get("aria-label") for one in root.iter("svg"))
        for of in example["leaderboard"]:
            known = ", known" if of["is_known"] else ""
            mean, low, high = (f"{of[key]:.4f}" for key in ("loss", "low", "high"))
            assert f"{of['title']}{known} {mean} [{low}, {high}], tier {of['tier']}" in said

    def test_what_is_said_stands_there(self, root, example):
        text = words(root)
        told = (*example["findings"], *example["caveats"], example["manifest"]["command"], example["legend"])
        assert all(sentence in text for sentence in told)
        assert "Screening." in text


class TestLeftOut:
    def test_a_search_is_no_screening_and_may_have_no_held_out_task(self, tmp_path, data):
        data.update(label="search", held_out=[])
        made = page(tmp_path, data)
        assert within(made, "held-out") is None
        assert "#held-out" not in {link.get("href") for link in made.iter("a")}
        assert not [one for one in made.iter("p") if one.get("class") == "screening"]

    def test_optional_fields_may_be_missing(self, tmp_path, data):
        for name in ("held_out", "findings", "caveats"):
            del data[name]
        assert "The search reported none." in words(page(tmp_path, data))

    def test_a_single_row(self, tmp_path, data):
        data["leaderboard"] = data["leaderboard"][:1]
        data["leaderboard"][0].update(low=None, high=None, fresh_losses=[0.25], loss=0.25)
        made = page(tmp_path, data)
        (row,) = rules(table(within(made, "leaderboard"))[1:])
        assert row[3:5] == ["0.2500", "–"]
        assert "The other" not in words(within(made, "rules"))

    def test_divergence(self, tmp_path, data):
        *_, before, last = data["leaderboard"]
        before["selection_losses"] = [None, 0.2]
        last.update(
            loss=None,
            low=None,
            high=None,
            fresh_losses=[0.2, None, 0.3],
            difference=dict.fromkeys(("mean", "low", "high")),
        )
        data["held_out"][0]["rows"][-1].update(dict.fromkeys(("test_mean", "test_low", "test_high", "validation_mean")))
        made = page(tmp_path, data)
        *_, upper, lower = table(within(made, "leaderboard"))
        assert upper[8] == "diverged"
        assert lower[3:5] == ["diverged", "–"]
        assert lower[10:] == ["–", "–"]
        assert f"{last['title']}, known diverged" in list(made.iter("svg"))[1].get("aria-label")
        assert "0.2000, diverged, 0.3000" in words(within(made, f"rule-{last['rank']}"))
        assert table(within(made, "held-out"))[-1][2:5] == ["diverged", "–", "–"]

    def test_all_diverged(self, tmp_path, data):
        for row in data["leaderboard"]:
            row.update(loss=None, low=None, high=None, fresh_losses=[None] * 3, selection_losses=[None] * 2, tier=1)
        data.update(best_rewards=[0.0, 0.0], improvements=[])
        assert "diverged" in words(within(page(tmp_path, data), "leaderboard"))

    def test_nothing_was_found(self, tmp_path, data):
        data.update(best_rewards=[], improvements=[], leaderboard=[])
        data["counts"].update(proposals=0, evaluated=0, repeats=0, invalid={})
        made = page(tmp_path, data)
        assert "No rule was trained." in words(made)
        assert "There is no rule on it." in words(made)
        assert not list(made.iter("svg"))

    def test_the_first_reward_may_be_far_below_the_others(self, tmp_path, data):
        data["best_rewards"] = [0.0, 0.76, 0.77, 0.77]
        data["improvements"] = [
            {"evaluation": place, "reward": reward, "member": "g", "formula": "θ ← θ − lr · g"}
            for place, reward in enumerate(data["best_rewards"][:3], 1)
        ]
        made = next(page(tmp_path, data).iter("svg"))
        assert {"0.76", "0.77"} <= {text.text for text in made.iter("text")}

    def test_a_long_formula_is_text_that_can_be_broken(self, tmp_path, data):
        update = "θ ← θ − lr · " + " + ".join(f"sign(m{place})" for place in range(60))
        data["leaderboard"][1].update(text=f"m ← g\n{update}", formula=update)
        made = page(tmp_path, data)
        cell = [row[2] for row in within(made, "leaderboard").iter("tr") if len(row) > 3][2]
        assert cell.get("class") == "words"
        assert words(cell) == update

    def test_a_rule_that_is_a_known_one_in_other_words(self, tmp_path, data):
        data["leaderboard"][0]["known_as"] = "adam"
        made = page(tmp_path, data)
        assert rules(table(within(made, "leaderboard"))[1:])[0][1] == "found; it is adam"
        assert "Found; it is adam, tier 1." in words(within(made, "rule-1"))

    def test_intervals_of_shares_are_cut(self, tmp_path, data):
        data["held_out"][0]["rows"][0].update(test_low=0.9, test_high=1.1)
        assert table(within(page(tmp_path, data), "held-out"))[1][3] == "[90.0, 100.0]"

    def test_a_held_out_task_whose_loss_is_minimized(self, tmp_path, data):
        one = data["held_out"][0]
        one.update(metric="bits_per_character", direction="minimize")
        one["rows"] = [{**row, "test_mean": 1.5, "test_low": 1.4, "test_high": 1.6} for row in one["rows"]]
        heads, first, *_ = table(within(page(tmp_path, data), "held-out"))
        assert heads[2] == "Test bits per character"
        assert first[2:4] == ["1.500", "[1.400, 1.600]"]


class TestUntrusted:
    def test_every_string_is_escaped(self, tmp_path, data):
        data["leaderboard"][0]["known_as"] = "adam"
        made = page(tmp_path, every_string(data, lambda text: f"{HOSTILE}{text}"))
        assert not list(made.iter("script"))
        assert not list(made.iter("b"))
        assert len(list(made.iter("style"))) == 1
        for element in made.iter():
            assert not [name for name in element.attrib if name.startswith("on")]
        text = words(made)
        assert text.count("<script>alert(1)</script>") > 100

    def test_keys_are_escaped_too(self, tmp_path, data):
        data["manifest"]["options"] = {HOSTILE: {HOSTILE: 1}}
        data["counts"]["invalid"] = {HOSTILE: 3}
        data["leaderboard"][0].update(hyper_parameters={HOSTILE: 1}, schedules={HOSTILE: HOSTILE})
        assert not list(page(tmp_path, data).iter("script"))

    @pytest.mark.parametrize(
        "mathml",
        [
            "<math><script>alert(1)</script></math>",
            '<math><mtext><img src="http://example.com" onerror="x"/></mtext></math>',
            "<svg><mtable/></svg>",
            "<math><mi>x</math>",
            "",
        ],
    )
    def test_what_is_no_mathematics_is_shown_as_text(self, tmp_path, data, mathml):
        data["leaderboard"][0]["mathml"] = mathml
        made = page(tmp_path, data)
        assert not list(made.iter("script"))
        assert not list(made.iter("img"))
        card = within(made, "rule-1")
        assert not list(card.iter("math"))
        assert next(card.iter("pre")).text == data["leaderboard"][0]["text"]

    def test_mathematics_keeps_no_foreign_attributes(self, tmp_path, data):
        data["leaderboard"][0]["mathml"] = (
            '<math onclick="x" href="javascript:x" display="block"><mi id="y">θ</mi></math>'
        )
        card = within(page(tmp_path, data), "rule-1")
        assert [one.attrib for one in card.iter("mi")] == [{}]
        assert next(card.iter("math")).attrib == {"display": "block"}

    @pytest.mark.parametrize("mathml", ["<math/>", "<math><mtable/></math>", "<math><mtable><mtr/></mtable></math>"])
    def test_formulas_of_another_shape(self, tmp_path, data, mathml):
        data["leaderboard"][0]["mathml"] = mathml
        assert rules(table(within(page(tmp_path, data), "leaderboard"))[1:])[0][3] == "0.2343"

    @pytest.mark.parametrize(
        "directory",
        [
            "javascript:alert(1)//",
            "https://example.com",
            "//example.com",
            "/etc",
            "../other",
            "held-out/../..",
            "",
            "a\\b",
        ],
    )
    def test_links_stay_in_the_run(self, tmp_path, data, directory):
        data["held_out"][0]["directory"] = directory
        with pytest.raises(ValueError, match=r"held_out\[0\]\.directory is .* no path within the run"):
            descend.report.write_search(save(tmp_path, data))

    def test_links_are_quoted(self, tmp_path, data):
        data["held_out"][0]["directory"] = 'held-out/a "b"#?'
        links = [link.get("href") for link in within(page(tmp_path, data), "held-out").iter("a")]
        assert links == ["held-out/a%20%22b%22%23%3F/report.html"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(format=2), "has format 2, and this version of descend reads formats up to 1"),
        (lambda data: data.update(format="1"), "does not name its format"),
        (lambda data: data.update(kind="compare"), "is not of a search; give the search.json of one"),
        (lambda data: data["manifest"].update(kind="compare"), "is not of a search; give the search.json of one"),
        (lambda data: data.update(manifest=[]), "is damaged: manifest does not hold an object"),
        (lambda data: data["leaderboard"][1].pop("loss"), r"leaderboard\[1\]\.loss is missing"),
        (lambda data: data["leaderboard"][1].update(rate=None), r"leaderboard\[1\]\.rate does not hold a number"),
        (lambda data: data["leaderboard"].pop(0), r"leaderboard\[0\]\.rank is 2, not 1"),
        (lambda data: data["leaderboard"][4].update(tier=1), r"leaderboard\[4\]\.tier is 1, which does not follow 2"),
        (lambda data: data["leaderboard"][0].update(tier=2), r"leaderboard\[0\]\.tier is 2, which does not follow"),
        (lambda data: data["improvements"][-1].update(evaluation=49), r"improvements\[6\] is not in best_rewards"),
        (lambda data: data["improvements"][0].update(evaluation=0), r"improvements\[0\] is not in best_rewards"),
        (lambda data: data["improvements"][1].update(reward=0.1), r"improvements\[1\] is not in best_rewards"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, data, change, said):
    change(data)
    with pytest.raises(ValueError, match=said):
        descend.report.write_search(save(tmp_path, data))
    assert not (tmp_path / "search.html").exists()


def test_what_is_missing_or_no_json(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"search\.json does not exist; give the directory of a finished search"
    ):
        descend.report.write_search(tmp_path)
    with pytest.raises(FileNotFoundError, match="none does not exist; give the directory of a finished search"):
        descend.report.write_search(tmp_path / "none")
    (tmp_path / "search.txt").write_text("{}")
    with pytest.raises(ValueError, match="is no run; give the directory of a finished search"):
        descend.report.write_search(tmp_path / "search.txt")
    for text in ("{", "[1]", '{"format": 1}'):
        (tmp_path / "search.json").write_text(text)
        with pytest.raises(ValueError, match=r"is damaged: .*; repeat the search's command"):
            descend.report.write_search(tmp_path)
    assert not (tmp_path / "search.html").exists()


def test_numbers_that_are_not_finite_are_none_of_the_page(tmp_path, data):
    data["leaderboard"][0].update(loss=float("nan"), low=float("-inf"), high=float("inf"))
    data["leaderboard"][1]["fresh_losses"][0] = float("inf")
    assert search_reading.read(save(tmp_path, data) / "search.json").leaderboard[0].loss is None
    text = descend.report.write_search(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", text)
