"""The examples run as their first lines say, in a few steps."""

import runpy
from pathlib import Path

import pytest

import descend

EXAMPLES = Path(__file__).parents[1] / "examples"


def compared(name, folder, **changes):
    asked = dict(optimizers=["adamw", "sgd"], trials=1, seeds=1, steps=12, workers=1, out=folder / "run")
    return descend.compare(str(EXAMPLES / name), **{**asked, **changes}).results


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == {
        "huggingface.py",
        "learned_rates.py",
        "mytask.py",
        "training_script.py",
    }


@pytest.mark.parametrize("name", ["mytask.py", "training_script.py"])
def test_an_example_compares(name, tmp_path):
    found = compared(name, tmp_path)
    assert len(found["trials"]) == 4
    assert not any(trial["diverged"] for trial in found["trials"])


def test_rates_are_learned(capsys):
    found = runpy.run_path(str(EXAMPLES / "learned_rates.py"))["main"](episodes=10)
    assert found["after"] < found["before"] - 0.1
    assert "episode 10: " in capsys.readouterr().out


@pytest.mark.long
def test_the_training_script_learns(tmp_path):
    found = compared("training_script.py", tmp_path, optimizers=["adamw"], trials=3, steps=400)
    assert found["summary"][0]["test_mean"] > 0.9


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of other people's packages
def test_a_hugging_face_model_learns(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    found = compared("huggingface.py", tmp_path, optimizers=["adamw"], trials=3, steps=400)
    assert found["summary"][0]["test_mean"] > 0.6
