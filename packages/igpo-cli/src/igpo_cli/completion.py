"""What the shell offers at a press of TAB: names of plug-ins, presets, runs and metrics, and the flags of what was chosen.

Typer speaks with the shells; here is what it cannot know. Nothing imports torch, and whatever goes wrong is silence.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from igpo_cli.plugins import Catalogue

ASKED = "_IGPO_COMPLETE"
"""Environment variable with which a shell asks."""
Offer = Callable[[str], list[str]]
"""What begins with a text."""


def words() -> list[str] | None:
    """The whole words behind `igpo` while a shell asks; None otherwise. The word being typed is not among them."""
    if ASKED not in os.environ or not os.environ[ASKED].startswith("complete"):
        return None
    text = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        found = shlex.split(text)
    except ValueError:  # within quotes
        found = text.split()
    if (count := os.environ.get("COMP_CWORD", "")).isdecimal():
        return found[1 : int(count)]
    return found[1:] if text.endswith((" ", "\n")) else found[1:-1]


def settled(found: list[str]) -> list[str]:
    """The words without a flag at the end that still waits for its value."""
    return found[:-1] if found and found[-1].startswith("--") and "=" not in found[-1] else found


def among(names: Callable[[], Iterable[str]]) -> Offer:
    """Those names that begin so; they are looked up when they are asked for."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def plugin_names(catalogue: Catalogue, kind: str) -> Offer:
    """Plug-ins of a kind."""
    return among(lambda: catalogue.names(kind))


def preset_names(incomplete: str) -> list[str]:
    """Presets that begin so."""
    from igpo_cli.config import presets

    return among(presets)(incomplete)


def run_names(incomplete: str) -> list[str]:
    """Runs that begin so: those in runs/ by their names, others by their paths."""
    from igpo_cli.history import is_run, runs_in

    if "/" not in incomplete:
        return among(lambda: [folder.name for folder in runs_in(Path("runs"))])(incomplete)
    parent = Path(incomplete.rpartition("/")[0] or "/")
    entries = sorted(parent.iterdir()) if parent.is_dir() else []
    return among(lambda: [f"{entry}{'' if is_run(entry) else '/'}" for entry in entries if entry.is_dir()])(incomplete)


def run_names_and_files(incomplete: str) -> list[str]:
    """Runs, and TOML files beside them."""
    parent, _, _ = incomplete.rpartition("/")
    files = sorted(Path(parent or ("/" if incomplete.startswith("/") else ".")).glob("*.toml"))
    return run_names(incomplete) + [str(file) for file in files if str(file).startswith(incomplete)]


def metric_names(incomplete: str) -> list[str]:
    """Metrics of the newest run in runs/ that begin so."""
    from igpo_cli.history import last_rows, runs_in

    for folder in reversed(list(runs_in(Path("runs")))):
        steps, evaluated = last_rows(folder)
        names = {name for row in (*steps.values(), evaluated) for name in row if "/" in name}
        if names:
            return among(lambda: sorted(names))(incomplete)  # noqa: B023 it is called at once
    return []
