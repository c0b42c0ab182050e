"""What PyTorch's own optimizer suite is to hold each class to: `python tests/torch_suite.py` prints its arguments.

A class with a twin in torch is held to torch's row for that: its constructor, error inputs and flags. Every other one
is held to what it claims.
"""

import descend

CLAIMS = "foreach", "complex", "differentiable", "capturable"

if __name__ == "__main__":
    for name in descend.optim.classes:
        print(f"descend:{name}={name}" if descend.optim.twin(name) else "+".join([f"descend:{name}", *CLAIMS]))
