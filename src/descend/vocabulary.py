"""The functions that an update rule may be written in, beside the arithmetic of expressions."""

from __future__ import annotations

from descend.expr import Expr, FormulaError, Operand, apply, call_site, draw_site, leaf, operand, slot_of
from descend.expr import t as step


def sqrt(x: Operand) -> Expr:
    """The square root."""
    return apply("sqrt", x)


def exp(x: Operand) -> Expr:
    """The exponential function."""
    return apply("exp", x)


def log(x: Operand) -> Expr:
    """The natural logarithm."""
    return apply("log", x)


def tanh(x: Operand) -> Expr:
    """The hyperbolic tangent."""
    return apply("tanh", x)


def sign(x: Operand) -> Expr:
    """-1, 0 or 1; the sign of 0 is 0, as in torch."""
    return apply("sign", x)


def minimum(a: Operand, b: Operand) -> Expr:
    """The smaller of two; NaN if one is NaN, as in torch."""
    return apply("minimum", a, b)


def maximum(a: Operand, b: Operand) -> Expr:
    """The larger of two; NaN if one is NaN, as in torch."""
    return apply("maximum", a, b)


def clip(x: Operand, low: Operand, high: Operand) -> Expr:
    """`x` held between `low` and `high`; NaN stays NaN."""
    return apply("clip", x, low, high)


def where(condition: Expr, a: Operand, b: Operand) -> Expr:
    """`a` where the condition holds, else `b`.

    Both sides are evaluated, and a NaN on the unused side is harmless. Not so its gradient where the condition differs
    from element to element (or under vmap): 0 * NaN is NaN, so keep the arguments of the unused side in their domain.
    """
    return apply("where", condition, a, b)


def ema(average: Operand, x: Operand, beta: Operand) -> Expr:
    """The exponential moving average after `x`: beta * average + (1 - beta) * x."""
    return operand(beta) * average + (1 - beta) * operand(x)


def fresh(slot: Expr) -> Expr:
    """A condition for `where`: whether the parameter's slot has no value yet."""
    if not isinstance(slot, Expr) or slot.op != "slot":
        raise FormulaError("fresh takes a slot by its name in the signature, before anything is assigned to that name")
    return leaf("fresh", slot_of(slot)[0])


def orthogonalize(x: Operand, a: Operand, b: Operand, c: Operand, eps: Operand, steps: Operand) -> Expr:
    """The matrix nearest to `x` whose singular values are all about 1, by Newton-Schulz iterations, computed by torch.

    X / max(|X|, eps) is taken `steps` times to a X + (b (X X') + c (X X')^2) X, in bfloat16.
    """
    return apply("orthogonalize", x, a, b, c, eps, steps)


def clip_units(x: Operand, weights: Operand, limit: Operand, least: Operand = 1e-3) -> Expr:
    """`x` with each unit scaled down to `limit` times the norm of its `weights`, that being `least` at least.

    A unit is what the first dimension counts, such as a row or a filter; a vector is one unit. Brock et al. 2021,
    arXiv:2102.06171, equation 3; computed by torch.
    """
    return apply("clip_units", x, weights, limit, least)


def normal(std: Operand) -> Expr:
    """A normal random number for every element, with mean 0 and standard deviation `std`; each call draws anew.

    Random numbers are a function of the optimizer's seed, of t, of the parameter's place in the optimizer, of the call
    and of the element. A rule that draws them declares t.
    """
    return apply("normal", std, step, site=_draw())


def keep(x: Operand, q: Operand) -> Expr:
    """`x` with probability `q`, else 0, drawn for every element; each call draws anew. Nothing is scaled by 1 / q.

    What Bello et al. 2017, arXiv:1709.07417, write drop(x, 0.3) is keep(x, 0.7). Random numbers are those of `normal`.
    """
    return apply("keep", x, q, step, site=_draw())


def push(window: Expr, x: Operand) -> Expr:
    """The window with `x` as its last value, and without its first if it was full."""
    return apply("push", window, x)


def lowest(window: Expr) -> Expr:
    """The least of the values that a window holds, infinity if it holds none; NaN if one is NaN."""
    return apply("lowest", window)


def highest(window: Expr) -> Expr:
    """The largest of the values that a window holds, -infinity if it holds none; NaN if one is NaN."""
    return apply("highest", window)


def sum(x: Operand) -> Expr:
    """The sum over the elements of the parameter tensor."""
    return apply("sum", x)


def mean(x: Operand) -> Expr:
    """The mean over the elements of the parameter tensor."""
    return apply("mean", x)


def norm(x: Operand) -> Expr:
    """The Euclidean norm over the elements of the parameter tensor."""
    return apply("norm", x)


def global_sum(x: Operand) -> Expr:
    """The sum over all elements of all parameters with a gradient that the same rule steps."""
    return apply("global_sum", x, site=_site())


def global_mean(x: Operand) -> Expr:
    """The mean over all elements of all parameters with a gradient that the same rule steps."""
    return apply("global_mean", x, site=_site())


def global_norm(x: Operand) -> Expr:
    """The Euclidean norm over all elements of all parameters with a gradient that the same rule steps."""
    return apply("global_norm", x, site=_site())


def _draw() -> int:
    number = draw_site.get()
    if number is None:
        raise FormulaError("normal and keep can be written only inside a rule")
    return number()


def _site() -> int:
    number = call_site.get()
    if number is None:
        raise FormulaError("a global_ reduction can be written only inside a rule")
    return number()
