"""Ensembles: several models of one architecture, whose predictions are averaged.

    ensemble = descend.Ensemble(model, store.last(5))        # a SnapshotStore's, or any state dicts
    probabilities = ensemble.predict(loader)                 # member by member: one model's memory, plus the outputs
    module = ensemble.module()                               # all members in one nn.Module: forward, torch.export

Huang et al. 2017 (arXiv:1704.00109, section 3): softmax outputs are averaged, not logits and not weights. `scores`,
`diversity`, `calibration` and `bootstrap` say what an ensemble is worth, on given log-probabilities and targets.
"""

from descend.ensembles.ensemble import Ensemble
from descend.ensembles.module import EnsembleModule

__all__ = ["Ensemble", "EnsembleModule"]
