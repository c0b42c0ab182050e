"""What all tests share: no deadline for hypothesis on shared machines, and one torch thread per process."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("descend", deadline=None, derandomize=True)
settings.load_profile("descend")
torch.set_num_threads(1)


@pytest.fixture
def float64():
    """Float64 as torch's default type, in which torch keeps all its scalars too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
