"""YellowFin in straight lines of float64: an oracle that shares nothing with the rule but the paper.

Zhang & Mitliagkas, arXiv:1706.03471, in the order of the authors' code of October 2017, number by number in Python.
The cubic is solved by NumPy's eigenvalues.
"""

import math

import numpy as np
import torch

EPS = 1e-6
BETA = 0.999


def yellowfin(params, grads, state, t, lr=1.0, first_lr=1e-4, weight_decay=0.0, smoothed=False):
    """One step of all parameters. `state` keeps every intermediate of the step under its name in the paper."""
    s = state
    if t == 1:
        s.update(window=[], log_min=0.0, log_max=0.0, g2=0.0, norm=0.0, dist=0.0, lr_avg=first_lr, mu_avg=0.0)
        s["gbar"] = [torch.zeros_like(g) for g in grads]
        s["buf"] = [torch.zeros_like(g) for g in grads]
    iteration = t - 1
    total = math.sqrt(sum(float((g * g).sum()) for g in grads))
    if iteration > 1:
        bound = math.sqrt(100 * s["h_max"]) + EPS
        if bound / (total + EPS) < 1:
            grads = [g * (bound / (total + EPS)) for g in grads]
            total *= bound / (total + EPS)
    previous_max = s.get("h_max")
    debias = 1 - BETA**t

    s["window"] = [*s["window"], total**2][-20:]
    s["log_min"] = BETA * s["log_min"] + (1 - BETA) * math.log(min(s["window"]) + EPS)
    s["log_max"] = BETA * s["log_max"] + (1 - BETA) * math.log(max(s["window"]) + EPS)
    s["h_min"], s["h_max"] = math.exp(s["log_min"] / debias), math.exp(s["log_max"] / debias)

    s["g2"] = BETA * s["g2"] + (1 - BETA) * total**2
    s["gbar"] = [BETA * a + (1 - BETA) * g for a, g in zip(s["gbar"], grads, strict=True)]
    mean_squared = sum(float((a * a).sum()) for a in s["gbar"]) / debias**2
    s["C"] = max(EPS, s["g2"] / debias - mean_squared)

    s["norm"] = BETA * s["norm"] + (1 - BETA) * total
    s["dist"] = BETA * s["dist"] + (1 - BETA) * s["norm"] / (s["g2"] + EPS)
    s["D"] = s["dist"] / debias

    if iteration == 0:
        s["lr_t"], s["mu_t"], s["root"], s["q"] = first_lr, 0.0, None, None
        rate, momentum = first_lr, 0.0
    else:
        s["q"] = (s["D"] + EPS) ** 2 * (s["h_min"] + EPS) ** 2 / (2 * (s["C"] + EPS))
        # (1 - x)^3 = q x, that is y^3 + q y + q = 0 for y = x - 1, whose roots lie further apart
        roots = np.roots([1.0, 0.0, s["q"], s["q"]])
        s["root"] = 1 + float(roots[np.argmin(abs(roots.imag))].real)
        spread = math.sqrt(max((s["h_max"] + EPS) / (s["h_min"] + EPS), 1 + EPS))
        s["mu_t"] = max(s["root"] ** 2, ((spread - 1) / (spread + 1)) ** 2)
        s["lr_t"] = (1 - math.sqrt(s["mu_t"])) ** 2 / (s["h_min"] + EPS)
        s["lr_t"] = min(s["lr_t"], s["lr_t"] * t / (10 * 20))
        s["lr_avg"] = BETA * s["lr_avg"] + (1 - BETA) * s["lr_t"]
        s["mu_avg"] = BETA * s["mu_avg"] + (1 - BETA) * s["mu_t"]
        rate, momentum = (s["lr_avg"], s["mu_avg"]) if smoothed else (s["lr_t"], s["mu_t"])
    s["rate"], s["momentum"] = rate, momentum

    s["burst"] = iteration > 0 and total**2 >= previous_max
    clip = math.sqrt(previous_max) / (total + EPS) if s["burst"] else 1.0
    step = min(lr * rate, 100 / (total + EPS))
    s["buf"] = [momentum * b + clip * g + weight_decay * p for b, g, p in zip(s["buf"], grads, params, strict=True)]
    return [p - step * b for p, b in zip(params, s["buf"], strict=True)]
