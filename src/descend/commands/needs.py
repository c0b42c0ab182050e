"""What commands need before they begin: packages, and files that can be written."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

INSTALL = "pip install 'descend[lab]'"
"""What installs the packages that experiments and the command line need beside torch."""

FOR_REPORTS = ("scipy", "altair", "jinja2", "vl_convert")
FOR_DIAGNOSES = ("loky", "optuna", "scipy", "sklearn", "altair", "contourpy", "jinja2", "safetensors", "vl_convert")
FOR_META_TRAINING = ("loky", "optuna", "sklearn", "altair", "jinja2", "safetensors", "vl_convert")
FOR_COMPARISONS = ("loky", "optuna", "scipy", "sklearn", "altair", "jinja2", "vl_convert")


def check_writable(out: str | Path | None) -> None:
    """Refuse a file that could not be written once all is measured."""
    from descend.experiments.errors import RunError

    if out is None:
        return
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise RunError(f"{path} cannot be written; name a file in a directory that is there")


def require(packages: Iterable[str]) -> None:
    """Refuse to begin without a package; the message says what installs it."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"this needs more packages ({package} is missing): {INSTALL}", name=package)
