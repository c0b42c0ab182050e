"""What the tests of resuming share: a usual rate, a hyper-parameter that is 0 for a while, a file's round trip."""

import io

import torch

from descend.schedules import cosine, warmup

RATE = 0.1 * (warmup(5) >> cosine(20))


def after_three(s):
    return 0.9 if s > 3 else 0.0


def saved(state):
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
