"""Rules for matrices, which look at a weight as a linear map."""

from descend.rule import Slot, rule
from descend.vocabulary import ema, maximum, orthogonalize, sqrt

__all__ = ["muon"]


@rule
def muon(p, g, buf=Slot("momentum_buffer"),
         *, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients=(3.4445, -4.7750, 2.0315),
         eps=1e-7, ns_steps=5, adjust_lr_fn=None):
    """Muon. Momentum, orthogonalized, for weights that are matrices: Jordan 2024, kellerjordan.github.io/posts/muon.

    The rate is scaled by the shape: with `adjust_lr_fn` "original", or None, by sqrt(max(1, rows / columns)), with
    "match_rms_adamw" by 0.2 * sqrt(max(rows, columns)) (Liu et al. 2025, arXiv:2502.16982). Decay is decoupled. All
    else (embeddings, gains, biases, the head) goes to another rule: `{"params": ..., "rule": descend.rules.adamw}`
    makes a group with its own. A filter of more dimensions is a matrix of its first dimension by the rest, as in the
    author's code; torch's class refuses it.
    """
    if p.ndim < 2:
        raise ValueError(f"Muon only supports 2D parameters (and filters as matrices), not {p.ndim}D; put them into a "
                         'group of another rule: descend.groups.matrices(model) does, or {"params": ..., "rule": '
                         "descend.rules.adamw}")
    if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
        raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported; adjust_lr_fn takes "
                         '"original", "match_rms_adamw" or None')
    c1, c2, c3 = ns_coefficients
    columns = p.numel / p.rows
    matching = adjust_lr_fn == "match_rms_adamw"
    scale = 0.2 * sqrt(maximum(p.rows, columns)) if matching else sqrt(maximum(1, p.rows / columns))
    buf = ema(buf, g, momentum)
    m = ema(buf, g, momentum) if nesterov else buf
    o = orthogonalize(m, c1, c2, c3, eps, ns_steps)
    return dict(p=p * (1 - lr * weight_decay) - lr * scale * o, buf=buf)
