"""The search for update rules: spaces of formulas, policies that propose from them, and their evaluation.

    from descend.search import Nos

    space = Nos(depth=2)
    rule = space.rule(space.decode("sign(g) sign(m) x x * | x1 g exp x *"))     # PowerSign

`Nos` is the space of sentences of Bello et al. 2017, `Programs` the open one of Chen et al. 2023; `Screening` tells on
probes which members are the same and which descend; `training.train` trains hundreds of rules at once;
`policies` propose, and `benchmark` measures policies on the complete map of depth one.
"""

from descend.search.known import SENTENCES, program_of
from descend.search.nos import Nos
from descend.search.programs import Programs
from descend.search.screening import Screening
from descend.search.space import SearchError, Space

__all__ = ["SENTENCES", "Nos", "Programs", "Screening", "SearchError", "Space", "program_of"]
