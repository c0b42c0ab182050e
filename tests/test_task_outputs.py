"""Tasks whose predictions can be averaged: `evaluate` in two parts, and targets that fit them."""

import pytest
import torch

from descend import tasks
from task_data import write_all


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_all(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESCEND_DATA", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield


@pytest.fixture(params=tasks.catalog())
def task(request):
    return tasks.load(request.param)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_judging_outputs_is_evaluating(task, split):
    able = tasks.averages(task)
    model = task.model(0)
    outputs = able.outputs(model, split)
    whole, parts = task.evaluate(model, split), able.judge(outputs, split)
    for name in parts:
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)
    assert {"loss", task.metric} <= set(parts)
    assert model.training


def test_outputs_are_log_probabilities_of_the_targets(task):
    able = tasks.averages(task)
    outputs, targets = able.outputs(task.model(0), "test"), able.targets("test")
    assert able.averages == "probabilities"
    if targets is None:  # parsing, where a row is two distributions
        assert torch.allclose(outputs.exp().sum(1), torch.tensor(2.0), atol=1e-5)
        return
    assert torch.allclose(outputs.exp().sum(1), torch.tensor(1.0), atol=1e-5)
    assert targets.shape == (len(outputs),)
    loss = -outputs[torch.arange(len(targets)), targets].double().mean().item()
    assert able.judge(outputs, "test")["loss"] == pytest.approx(loss, rel=1e-6)
