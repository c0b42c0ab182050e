"""What PyTorch's own optimizer suite is to hold each class to: `python tests/torch_suite.py` prints its arguments.

A class with a twin in torch is held to torch's row for that: its constructor, error inputs and flags. Every other one
is held to what it claims. A complex number is two real ones to the suite, tensors of their own; a rule with norms of
whole tensors takes the complex tensor's, so that the suite's tests of complex numbers say nothing about it. The suite
gives every class vectors, so what takes matrices only is left out, as it leaves out torch's.
"""

import descend
from descend.staging import is_reduction


def claims(name):
    """What a class without a twin claims."""
    formula = getattr(descend, name).rule.formula()
    reduces, shares = any(map(is_reduction, formula.nodes)), bool(formula.shared_outputs)
    return ["foreach"] + ["differentiable", "capturable"] * (not shares) + ["complex"] * (not reduces)


if __name__ == "__main__":
    for name in descend.optim.classes:
        if getattr(descend, name).rule.formula().opaque_calls:
            continue
        print(f"descend:{name}={name}" if descend.optim.twin(name) else "+".join([f"descend:{name}", *claims(name)]))
