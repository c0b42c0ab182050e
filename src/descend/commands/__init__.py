"""The functions behind the commands: `compare`, `ensemble`, `find_rules`, `export_rule`, `make_map`, `meta_train`,
`range_test`, `report`, `show`, `list_`, `cache`, `bench`.

Each is what `descend <command>` calls, and as good in a script:

    comparison = descend.compare("digits", ["adamw", "sgd"], quick=True, out="runs/mine")
    comparison.results["summary"]
"""

from descend.commands.comparing import Comparison, compare, range_test
from descend.commands.diagnosing import Diagnosed, diagnose
from descend.commands.ensembling import Study, ensemble
from descend.commands.exporting import Exported, export_rule
from descend.commands.looking import Cache, cache, list_, show
from descend.commands.mapping import make_map
from descend.commands.measuring import bench
from descend.commands.meta_training import MetaTrained, meta_train
from descend.commands.needs import INSTALL
from descend.commands.reporting import report
from descend.commands.searching import Search, find_rules

__all__ = [
    "INSTALL",
    "Cache",
    "Comparison",
    "Diagnosed",
    "Exported",
    "MetaTrained",
    "Search",
    "Study",
    "bench",
    "cache",
    "compare",
    "diagnose",
    "ensemble",
    "export_rule",
    "find_rules",
    "list_",
    "make_map",
    "meta_train",
    "range_test",
    "report",
    "show",
]
