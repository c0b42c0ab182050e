"""The functions behind the commands: `compare`, `ensemble`, `range_test`, `report`, `show`, `list_`, `cache`, `bench`.

Each is what `descend <command>` calls, and as good in a script:

    comparison = descend.compare("digits", ["adamw", "sgd"], quick=True, out="runs/mine")
    comparison.results["summary"]
"""

from descend.commands.comparing import Comparison, compare, range_test
from descend.commands.ensembling import Study, ensemble
from descend.commands.looking import Cache, cache, list_, show
from descend.commands.measuring import bench
from descend.commands.needs import INSTALL
from descend.commands.reporting import report

__all__ = [
    "INSTALL",
    "Cache",
    "Comparison",
    "Study",
    "bench",
    "cache",
    "compare",
    "ensemble",
    "list_",
    "range_test",
    "report",
    "show",
]
