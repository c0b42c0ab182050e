"""Problems to train on: data, model, loss and metric under one name.

A task says how to make a model, which batches it sees, what its loss is and how it is judged; nothing in it knows about
optimizers. `load("digits")` gives a built-in task, `load("mytask.py")` the one in your own file:

    from descend.tasks import TensorTask, task

    @task
    class Mine(TensorTask):
        "What it is, in one line."
        name, target = "mine", 0.9

        def tensors(self):  # {"train": (inputs, targets), "validation": ..., "test": ...}
            ...

        def network(self):  # a fresh torch.nn.Module
            ...

Every file in this package holds one task, found by its `@task`.
"""

from descend.tasks.base import Direction, EvaluationSplit, Task, TaskError, task
from descend.tasks.registry import catalog, load
from descend.tasks.seeding import seeded
from descend.tasks.splits import standardize, stratified_split
from descend.tasks.tensors import TensorTask

__all__ = [
    "Direction",
    "EvaluationSplit",
    "Task",
    "TaskError",
    "TensorTask",
    "catalog",
    "load",
    "seeded",
    "standardize",
    "stratified_split",
    "task",
]
