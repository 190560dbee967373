"""Faults of plug-ins and devices within a run: values that are no numbers, a reward that raises."""

from __future__ import annotations

import math
from pathlib import Path

from drills.runs import FEW, STEPS, Row, far, finish, metrics, words
from igpo_rl.checkpoint import Checkpoints


def drill(folder: Path) -> list[Row]:
    """NaN now and then, NaN always, a reward that raises, a device without room."""
    return [
        sometimes(folder / "nan"),
        always(folder / "always-nan"),
        raising(folder / "raising"),
        cramped(folder / "roomy", folder / "cramped"),
    ]


def steps(run: Path) -> list[dict[str, object]]:
    return [row for row in metrics(run) if row["phase"] == "igpo" and "optimizer/skipped" in row]


def finite(run: Path) -> bool:
    """Whether the newest checkpoint is whole, and all its numbers are numbers."""
    saved = Checkpoints(folder=run / "checkpoints").latest()
    return saved is not None and all(weight.isfinite().all() for weight in saved.load()["weights"].values())


def sometimes(run: Path) -> Row:
    """The updates are left out, counted and said; the others are made."""
    log = run.with_suffix(".log")
    code = finish(words(run, "--loss", "sometimes-nan", "--loss.every", "7"), log)
    skipped = sum(float(row["optimizer/skipped"]) for row in steps(run))
    passed = code == 0 and len(steps(run)) == STEPS and 0 < skipped < STEPS and finite(run)
    happened = f"exit code {code}, {skipped:g} steps' worth of updates left out of {len(steps(run))}, weights finite: {finite(run)}"
    return Row("NaN now and then", 1, happened, passed and "is left out" in log.read_text())


def always(run: Path) -> Row:
    """The run stops with a diagnosis, and no weight is damaged."""
    log = run.with_suffix(".log")
    code = finish(words(run, "--loss", "sometimes-nan", "--loss.every", "1"), log)
    (said,) = [line for line in log.read_text().splitlines() if line.startswith("error:")] or [""]
    passed = code == 1 and bool(said) and finite(run) and not (run / "model").exists()
    return Row("NaN always", 1, f"exit code {code}: {said[:160]}", passed)


def raising(run: Path) -> Row:
    """The rows do not count, the kind of exception is said once, and the run ends well."""
    log = run.with_suffix(".log")
    code = finish(words(run, "--verifier.trip"), log)
    told = [line for line in log.read_text().splitlines() if "ZeroDivisionError" in line]
    values = [value for row in steps(run) for value in row.values() if isinstance(value, float)]
    passed = code == 0 and len(steps(run)) == STEPS and bool(told) and all(map(math.isfinite, values))
    return Row(
        "reward that raises",
        1,
        f"exit code {code}, {len(steps(run))} steps; {told[0][:140] if told else 'nothing said'}",
        passed,
    )


def cramped(roomy: Path, run: Path) -> Row:
    """What does not fit is halved until it does, and the run is that of a device with room; in float64, to 1e-9."""
    log = run.with_suffix(".log")
    codes = [finish(words(roomy, *FEW), log), finish(words(run, *FEW, "--model", "small"), log)]
    halved = log.read_text().count("out of memory in")
    found = [f"exit codes {codes}"] if any(codes) else far(run, roomy)
    happened = f"halved {halved} times; differs: {', '.join(found) or 'nothing'}"
    return Row("out of memory (simulated)", 1, happened, halved > 0 and not found)
