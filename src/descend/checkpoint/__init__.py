"""Optimizer states of other libraries, rewritten for the class of ours or of torch that has the same rule.

    saved = torch.load("checkpoint.pt")["optimizer"]  # of bitsandbytes.optim.AdamW32bit
    optimizer = descend.AdamW(model.parameters())
    optimizer.load_state_dict(checkpoint.convert(saved, source="bitsandbytes.AdamW32bit", to="descend.AdamW"))

    checkpoint.convert(optimizer.state_dict(), source="descend.AdamW", to="torch.AdamW")  # and back

The same name is not the same formula in every library: the table of `sources.py` says which classes have which of our
rules, which have another one under the same name, and what a state does not tell. States of torch's classes load into
ours of the same name without conversion.
"""

from descend.checkpoint.conversion import convert

__all__ = ["convert"]
