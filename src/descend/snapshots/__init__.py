"""Snapshots: the weights at the end of every cycle of a schedule, kept on disk, in any training loop.

    opt = descend.SGD(model.parameters(), lr=0.1 * descend.schedules.snapshot(6000, 6), momentum=0.9)
    snapshots = descend.snapshots.Snapshots("runs/mine", model, opt)
    for step in range(snapshots.resume(), 6000):             # from 0, or where the progress was last saved
        ...
        opt.step()
        snapshots.step()                                     # takes one where a cycle has just ended
    ensemble = snapshots.ensemble(5)                         # averages the predictions of the last five

Huang, Li, Pleiss, Liu, Hopcroft & Weinberger 2017, "Snapshot Ensembles: Train 1, get M for free" (arXiv:1704.00109). A
snapshot is taken after the last update of a cycle, before the rate rises again.

Progress is saved with each snapshot, and by `snapshots.save()` in the loop as often as a kill may cost.

`SnapshotStore` is the folder alone: for loops that know themselves when to keep what.
"""

from descend.model_states import State
from descend.snapshots.files import SnapshotError
from descend.snapshots.store import Members, Snapshot, SnapshotStore
from descend.snapshots.taking import Snapshots

__all__ = ["Members", "Snapshot", "SnapshotError", "SnapshotStore", "Snapshots", "State"]
