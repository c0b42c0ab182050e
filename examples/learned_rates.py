"""Meta-learn the rate and the betas of Adam, by the code that trains optimizers that are networks.

    python examples/learned_rates.py

A rule is a pair of pure functions, `init` and `update`, differentiable in its hyper-parameters: gradients of the losses
along 20 steps on random quadratics lead to them. They come out close to what a search over rates finds.
"""

import torch

from descend import rules
from descend.learned import LearnedRule, MetaTraining, Quadratics, Recipe, final_losses

STEPS = 100


def main(episodes: int = 100) -> dict[str, float]:
    """Learn; return mean log10 losses of fresh problems before and after, and the learned rate."""
    adam = LearnedRule(rules.adam, ("lr", "betas"), lr=1e-3)
    fresh = Quadratics().draw(200, seed=12345)
    before = final_losses(adam, fresh, STEPS).log10().mean()

    recipe = Recipe(Quadratics(), episodes, steps=STEPS, unroll=20, problems=64, rate=0.03, validate_every=10)
    training = MetaTraining(adam, recipe)
    training.run(validated=lambda one: print(f"episode {one.episode}: {one.score:.3f}"))
    adam.load_state_dict(training.best)

    after = final_losses(adam, fresh, STEPS).log10().mean()
    learned = adam.hyper_parameters()
    betas = [float(beta.detach()) for beta in learned["betas"]]
    rate = float(learned["lr"].detach())
    print(f"lr {rate:.3g}, betas {betas[0]:.3f} and {betas[1]:.4f}: {before:.2f} before, {after:.2f} after")
    return {"before": float(before), "after": float(after), "lr": rate}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
