"""Averages of weights: of saved states, along a run, and of the runs that go well together.

    mean = average(states)                                # states: as model.state_dict() gives, one in memory at a time
    model.load_state_dict(mean)
    recompute_batch_norm(model, loader)                   # batch normalization's statistics belong to other weights

    soup = greedy_soup(states, score=accuracy)            # of the states, those whose average is the better for them
    averaged = AveragedModel(model, decay=0.999)          # while training; averaged.update_parameters(model) per step

Two solutions of one network can be averaged where the loss between them is low, as for states of one run or of runs
from one start; `descend.generalization.barriers` measures it. Elsewhere the average is no solution at all.

The package torch.optim.swa_utils has part of this. What is corrected here is said in each docstring.
"""

from __future__ import annotations

from descend.averaging.batch_norm import recompute_batch_norm
from descend.averaging.model import AveragedModel
from descend.averaging.soup import Soup, greedy_soup
from descend.averaging.states import average
from descend.model_states import State

__all__ = ["AveragedModel", "Soup", "State", "average", "greedy_soup", "recompute_batch_norm"]
