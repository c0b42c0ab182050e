"""A comparison under a schedule of the user's: its shape is used, kept, shown, and refused where it makes no sense."""

import pytest

from comparisons import prepare, small
from descend.experiments.errors import RunError, UsageError
from descend.schedules import warm_restarts, warmup


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def test_every_rate_follows_it_and_curves_have_points_where_cycles_end():
    found = small(schedule="warmup(2)>>warm_restarts(3,mult=2)", steps=40).results
    schedule = warmup(2) >> warm_restarts(3, mult=2)
    assert found["schedule"] == {
        "text": "warmup(2) >> warm_restarts(3, mult=2)",
        "values": schedule.values(40),
        "length": None,
        "cycle_ends": [5, 11, 23],
    }
    assert {5, 11, 23} <= {point["step"] for point in found["trials"][0]["curve"]}
    assert found["manifest"]["options"]["schedule"] == str(schedule)
    assert found["manifest"]["command"].endswith(
        "--schedule 'warmup(2)>>warm_restarts(3,mult=2)' --workers 1 --out run"
    )


def losses_of(name, **arguments):
    return [trial["validation_loss"] for trial in small(name, **arguments).results["trials"]]


def test_a_schedule_changes_the_numbers():
    assert losses_of("usual") != losses_of("one", schedule=warm_restarts(4))


@pytest.mark.long
def test_two_processes_follow_it_as_one_does():
    assert losses_of("one", schedule=warm_restarts(4)) == losses_of("two", schedule=warm_restarts(4), workers=2)


def test_the_same_shape_written_otherwise_goes_on_and_another_does_not():
    small(schedule="step(4, factor=0.1)")
    small(schedule=" step( 4 )")
    with pytest.raises(RunError, match=r"schedule: step\(4\) there, step\(5\) now"):
        small(schedule="step(5)")
    with pytest.raises(RunError, match=r"schedule: step\(4\) there, None now"):
        small()


def test_a_schedule_of_another_length_is_a_caveat():
    caveats = small(schedule="cosine(30)").results["caveats"]
    assert any("The schedule has 30 steps, and the runs took 12" in caveat for caveat in caveats)
    assert not any("The schedule has" in caveat for caveat in small("other", schedule="cosine(12)").results["caveats"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin(3)", "schedule 'cosin.3.': 'cosin' is no schedule; did you mean 'cosine'"),
        ("linear(3, end=-1)", r"schedule 'linear\(3, end=-1\)' is -0.33\d* at step 2; give one"),
        ("0", "schedule '0' is 0 at step 0"),
        ("constant(0.1", "cannot be read"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_before_anything_is_written(text, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        small(schedule=text)
    assert not (tmp_path / "run").exists()
