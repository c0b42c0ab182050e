"""Rates adapted per weight from the history of squared gradients: Adagrad and its descendants before Adam."""

from descend.rule import Slot, active, rule
from descend.vocabulary import ema, sqrt

__all__ = ["adadelta", "adagrad", "rmsprop"]


@rule
def adagrad(p, g, t, total=Slot("sum", init="initial_accumulator_value"),
            *, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
    """Adagrad. Duchi, Hazan & Singer 2011, JMLR 12, the diagonal form of Figure 1.

    eps stands outside the root, as in torch; keras and optax put it inside, and TensorFlow has none but starts the sum
    at 0.1. `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    total = total + g * g
    rate = lr / (1 + (t - 1) * lr_decay)
    return dict(p=p - rate * g / (sqrt(total) + eps), total=total)


@rule
def adadelta(p, g, t, v=Slot("square_avg"), u=Slot("acc_delta"),
             *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    """Adadelta. Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    The method has no rate: lr is 1. keras and TensorFlow default to 0.001, which makes it a thousand times slower. The
    average of squared steps takes the step before it is multiplied by lr. The paper sets rho to 0.95, torch to 0.9.
    `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    v = ema(v, g * g, rho)
    delta = sqrt(u + eps) / sqrt(v + eps) * g
    u = ema(u, delta * delta, rho)
    return dict(p=p - lr * delta, v=v, u=u)


@rule
def rmsprop(p, g, t, v=Slot("square_avg"), buf=Slot("momentum_buffer"), g_avg=Slot("grad_avg"),
            *, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
    """RMSprop. Tieleman & Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850, equations 38 to 45.

    torch's form: eps outside the root, v from 0 without bias correction (the first step is 1 / sqrt(1 - alpha) rates
    long), the rate outside the momentum buffer. TensorFlow puts eps inside the root, starts v at 1, keeps the rate in
    the buffer, and Hinton's alpha is 0.9. `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    v = ema(v, g * g, alpha)
    variance = v
    if centered:
        g_avg = ema(g_avg, g, alpha)
        variance = v - g_avg * g_avg
    update = g / (sqrt(variance) + eps)
    if active(momentum):
        buf = momentum * buf + update
        update = buf
    return dict(p=p - lr * update, v=v, buf=buf, g_avg=g_avg)
