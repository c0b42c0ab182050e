"""Rules that set their rate themselves, from what they see of the whole gradient."""

from descend.rule import Slot, active, rule
from descend.vocabulary import ema, exp, global_norm, highest, log, lowest, maximum, minimum, push, sqrt, where

__all__ = ["yellowfin"]

_EPS = 1e-6
_WARMING = 200  # steps of slow start: ten windows


@rule
def yellowfin(p, g, buf=Slot("momentum_buffer"), mean=Slot("grad_avg"),
              window=Slot("curvatures", shape=("optimizer", 20)), n=Slot("tuned_steps", shape="optimizer"),
              low=Slot("log_curvature_min", shape="optimizer"), high=Slot("log_curvature_max", shape="optimizer"),
              squares=Slot("grad_norm_squared_avg", shape="optimizer"),
              norms=Slot("grad_norm_avg", shape="optimizer"), distances=Slot("distance_avg", shape="optimizer"),
              rate=Slot("tuned_lr", init="first_lr", shape="optimizer"), mu=Slot("tuned_momentum", shape="optimizer"),
              *, lr=1.0, beta=0.999, first_lr=1e-4, weight_decay=0.0, smoothed=False):
    """YellowFin. Momentum SGD that tunes one rate and one momentum: Zhang & Mitliagkas 2019, arXiv:1706.03471.

    Every step minimizes mu * D^2 + rate^2 * C, where sqrt(mu) is at least (sqrt(r) - 1) / (sqrt(r) + 1) and rate =
    (1 - sqrt(mu))^2 / h_min: D is the distance to the optimum, C the variance of the gradient, r = h_max / h_min the
    range of curvatures over 20 steps. As in the authors' code of 2017-10 the rate and momentum of the step itself are
    applied (`smoothed=True` applies their averages, as the paper words it), the rate warms up over 200 steps, and
    gradients are clipped by the largest curvature of the step before. `lr` multiplies the tuned rate, so that
    schedules work; the rate and momentum in force are `tuned_lr` and `tuned_momentum` of every param group. The first
    step takes `first_lr` and no momentum. Statistics leave weight decay out, as the authors' do. Not here: the
    asynchronous closed loop, and their debiasing for sparse gradients. The cubic's root is exact to rounding; theirs
    is to 1e-6. The loss must be a mean over the batch.
    """
    h_before = exp(high / (1 - beta**n))
    size = global_norm(g)
    guard = where(n > 1, minimum(1, (10 * sqrt(h_before) + _EPS) / (size + _EPS)), 1)
    size = guard * size
    g = guard * g
    burst = where(n > 0, where(size * size >= h_before, sqrt(h_before) / (size + _EPS), 1), 1)

    n = n + 1
    seen = 1 - beta**n
    window = push(window, size * size)
    low = ema(low, log(lowest(window) + _EPS), beta)
    high = ema(high, log(highest(window) + _EPS), beta)
    h_min, h_max = exp(low / seen), exp(high / seen)
    squares = ema(squares, size * size, beta)
    mean = ema(mean, g, beta)
    C = maximum(_EPS, squares / seen - (global_norm(mean) / seen) ** 2)
    norms = ema(norms, size, beta)
    distances = ema(distances, norms / (squares + _EPS), beta)
    D = distances / seen

    q = ((D + _EPS) * (h_min + _EPS)) ** 2 / (2 * (C + _EPS))  # sqrt(mu) = x solves (1 - x)^3 = q x
    w = -(((sqrt(q**2 + 4 / 27 * q**3) + q) / 2) ** (1 / 3))
    x = 1 + w - q / (3 * w)
    x = x + ((1 - x) ** 3 - q * x) / (3 * (1 - x) ** 2 + q)
    r = sqrt(maximum((h_max + _EPS) / (h_min + _EPS), 1 + _EPS))
    tuned_mu = maximum(x**2, ((r - 1) / (r + 1)) ** 2)
    tuned_rate = (1 - sqrt(tuned_mu)) ** 2 / (h_min + _EPS) * minimum(1, n / _WARMING)
    mu = where(n > 1, ema(mu, tuned_mu, beta) if smoothed else tuned_mu, 0)
    rate = where(n > 1, ema(rate, tuned_rate, beta) if smoothed else tuned_rate, first_lr)

    d = burst * g + weight_decay * p if active(weight_decay) else burst * g
    buf = mu * buf + d
    step = minimum(lr * rate, 100 / (size + _EPS))
    return dict(p=p - step * buf, buf=buf, mean=mean, window=window, n=n, low=low, high=high, squares=squares,
                norms=norms, distances=distances, rate=rate, mu=mu)
