"""Gradients as a network reads them: their size on a logarithmic scale, and their sign."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

Preprocessing = Literal["paper", "repository", "none"]
RANGES: Final = {"paper": 10.0, "repository": 5.0}
"""The usual range, in natural logarithms: p of the paper, k of the authors' code."""


def preprocess(gradients: Tensor, kind: Preprocessing, reach: float) -> Tensor:
    """Return what the network reads of each gradient: (..., 2), or (..., 1) for "none".

    The paper: (log|g| / p, sign g) where |g| >= e^-p, else (-1, e^p g). The authors' code has no such switch:
    max(log(|g| + eps) / k, -1) and e^k g cut at -1 and 1, which between e^-k and 1 are the same.

    Args:
        gradients: of any shape.
        kind: "paper", "repository", or "none" for the gradient as it is.
        reach: p or k.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, appendix A; google-deepmind/learning-to-learn, preprocess.py.
    """
    if kind == "none":
        return gradients.unsqueeze(-1)
    scale = torch.exp(torch.tensor(reach, dtype=gradients.dtype, device=gradients.device))
    size = gradients.abs()
    if kind == "repository":
        logs = torch.log(size + torch.finfo(gradients.dtype).eps) / reach
        return torch.stack([logs.clamp(min=-1), (gradients * scale).clamp(-1, 1)], -1)
    is_large = size >= 1 / scale
    logs = torch.where(is_large, torch.log(torch.where(is_large, size, 1)) / reach, -1)
    return torch.stack([logs, torch.where(is_large, gradients.sign(), gradients * scale)], -1)
