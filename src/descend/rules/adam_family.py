"""Adam and what came of it: moving averages of the gradient and of its square."""

from descend.rule import Slot, active, rule
from descend.vocabulary import ema, maximum, sqrt, where

__all__ = ["adam", "adamax", "adamw", "adamwpaper", "amsgrad", "nadam", "radam"]


@rule
def adamw(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"), v_max=Slot("max_exp_avg_sq"),
          *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
    """AdamW. Adam with decoupled weight decay: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2.

    The decay is `lr * weight_decay`, as in torch, timm and optax. The paper multiplies the decay by the schedule's
    multiplier and not by the rate: that is `adamwpaper`, and the weight decay of the paper divided by the rate is ours.
    The decay is taken from the weights before the step. Defaults are torch's; keras decays by 4e-3, optax by 1e-4.
    `amsgrad=True` keeps the maximum of the raw second moment and corrects its bias afterwards, as torch does.
    """
    beta1, beta2 = betas
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    if amsgrad:
        v_max = maximum(v_max, v)
    m_hat = m / (1 - beta1**t)
    v_hat = (v_max if amsgrad else v) / (1 - beta2**t)
    if active(weight_decay):
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * m_hat / (sqrt(v_hat) + eps), m=m, v=v, v_max=v_max)


@rule
def adamwpaper(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"),
               *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, eta=1.0):
    """AdamWPaper. AdamW as published: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2, line 12.

    `eta` is the schedule's multiplier and takes the schedule; it scales the step and the decay alike, and the decay is
    not multiplied by the rate. With `lr` constant, `weight_decay` here is `lr * weight_decay` of torch's AdamW.
    Defaults of the rate, the betas and eps are the paper's; it names no default decay.
    """
    beta1, beta2 = betas
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    update = lr * (m_hat / (sqrt(v_hat) + eps))
    if active(weight_decay):
        update = update + weight_decay * p
    return dict(p=p - eta * update, m=m, v=v)


@rule
def adam(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"), v_max=Slot("max_exp_avg_sq"),
         *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled_weight_decay=False):
    """Adam. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.

    eps stands outside the root, after the bias correction, as in the paper and torch; TensorFlow, keras and Torch7 put
    it before the correction, which makes it up to 31.6 times larger in the first steps. `weight_decay` is L2, added to
    the gradient, unless `decoupled_weight_decay`. `amsgrad=True` is torch's variant, with bias correction after the
    maximum; the published one is `amsgrad`, the rule.
    """
    beta1, beta2 = betas
    if active(weight_decay) and not decoupled_weight_decay:
        g = g + weight_decay * p
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    if amsgrad:
        v_max = maximum(v_max, v)
    m_hat = m / (1 - beta1**t)
    v_hat = (v_max if amsgrad else v) / (1 - beta2**t)
    if active(weight_decay) and decoupled_weight_decay:
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * m_hat / (sqrt(v_hat) + eps), m=m, v=v, v_max=v_max)


@rule
def amsgrad(p, g, m=Slot("exp_avg"), v=Slot("exp_avg_sq"), v_max=Slot("max_exp_avg_sq"),
            *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """AMSGrad. Reddi, Kale & Kumar 2018, arXiv:1904.09237, Algorithm 2, without the projection.

    As published there is no bias correction, and the maximum is taken of the moving average v, not of the squared
    gradient. The paper has no eps; ours stands outside the root. torch's `Adam(amsgrad=True)` corrects both biases
    after the maximum, optax before it: three different algorithms under one name. `weight_decay` is L2.
    """
    beta1, beta2 = betas
    if active(weight_decay):
        g = g + weight_decay * p
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    v_max = maximum(v_max, v)
    return dict(p=p - lr * m / (sqrt(v_max) + eps), m=m, v=v, v_max=v_max)


@rule
def adamax(p, g, t, m=Slot("exp_avg"), u=Slot("exp_inf"),
           *, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """Adamax. Adam with the infinity norm: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2.

    eps is added to |g| inside the maximum, as in torch; the paper has none. `weight_decay` is L2.
    """
    beta1, beta2 = betas
    if active(weight_decay):
        g = g + weight_decay * p
    m = ema(m, g, beta1)
    u = maximum(beta2 * u, abs(g) + eps)
    return dict(p=p - lr / (1 - beta1**t) * (m / u), m=m, u=u)


@rule
def nadam(p, g, t, mu_product=Slot("mu_product", init=1.0, shape="scalar"), m=Slot("exp_avg"), v=Slot("exp_avg_sq"),
          *, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
          decoupled_weight_decay=False):
    """NAdam. Adam with Nesterov momentum: Dozat 2016, Incorporating Nesterov Momentum into Adam, Algorithm 2.

    The momentum schedule is torch's and TensorFlow's, beta1 * (1 - 0.96^(0.004 t) / 2); keras leaves the 0.004 out,
    optax keeps beta1 constant, and Dozat's own code has neither. m itself averages with the plain beta1.
    """
    beta1, beta2 = betas
    if active(weight_decay) and not decoupled_weight_decay:
        g = g + weight_decay * p
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    mu_product = mu_product * mu
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    v_hat = v / (1 - beta2**t)
    m_bar = (1 - mu) / (1 - mu_product) * g + mu_next / (1 - mu_product * mu_next) * m
    if active(weight_decay) and decoupled_weight_decay:
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * m_bar / (sqrt(v_hat) + eps), mu_product=mu_product, m=m, v=v)


@rule
def radam(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"),
          *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False):
    """RAdam. Rectified Adam: Liu et al. 2020, arXiv:1908.03265, Algorithm 2.

    The adaptive step is taken where the length of the approximated average exceeds 5, as in torch (the paper says 4);
    before that it is momentum without adaptation. eps is added to the root of the uncorrected v, as in torch.
    """
    beta1, beta2 = betas
    if active(weight_decay) and not decoupled_weight_decay:
        g = g + weight_decay * p
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    m_hat = m / (1 - beta1**t)
    rho_max = 2 / (1 - beta2) - 1
    rho = rho_max - 2 * t * beta2**t / (1 - beta2**t)
    rectifier = sqrt((rho - 4) * (rho - 2) * rho_max / ((rho_max - 4) * (rho_max - 2) * rho))
    adaptive = rectifier * sqrt(1 - beta2**t) / (sqrt(v) + eps)
    update = m_hat * where(rho > 5, adaptive, 1)
    if active(weight_decay) and decoupled_weight_decay:
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * update, m=m, v=v)
