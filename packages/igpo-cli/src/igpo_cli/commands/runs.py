"""`igpo runs`: which runs there are, how far they came, and what sets them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App
from igpo_cli.completion import run_names
from igpo_cli.errors import UsageError, configuring

if TYPE_CHECKING:
    from rich.text import Text

    from igpo_cli.history import Past
    from igpo_cli.report.arms import Arm

STYLES = {"running": "cyan", "finished": "green", "interrupted": "yellow"}
FOLDER = Annotated[Path, typer.Option(help="Where the runs are.")]
FIGURES = (
    ("reward", "reward/mean", ".3f"),
    ("stuck", "stuck/before", ".2f"),
    ("loss", "sft/loss", ".3f"),
)
"""What a list shows of the last step."""
IGNORED = ("name", "folder", "plugins")
"""Options in which any two runs differ, or that say nothing."""
OF_THE_RUN = ("command", "peak_memory")
"""What environment.json holds besides a run's surroundings."""


def register(app: App) -> None:
    """Adds the group."""
    group = app.group("runs", "List, show and compare runs.")

    @group.command("list")
    def list_(
        folder: Annotated[Path, typer.Argument(help="Where the runs are.")] = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """List the runs of a folder: state, steps, last measurements, size."""
        from igpo_cli.history import read, runs_in

        if not folder.is_dir():
            raise UsageError(
                f"there is no folder '{folder}'. Runs are made by igpo train, in runs/ unless --folder says else."
            )
        with configuring():
            found = [read(each) for each in runs_in(folder)]
        if as_json:
            print(json.dumps([plain(past) for past in found], indent=2, ensure_ascii=False))
        elif found:
            show_list(found)
        else:
            print(f"{folder} holds no runs yet. Make one with igpo train.")

    @group.command()
    def show(
        run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run.", autocompletion=run_names)],
        folder: FOLDER = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Show one run: how it was made, how far it came, what it measured, and what can be done with it."""
        from igpo_cli.history import find, read

        with configuring():
            past = read(find(run, folder))
        if as_json:
            print(json.dumps(plain(past) | details(past), indent=2, ensure_ascii=False))
        else:
            show_run(past)

    @group.command()
    def compare(
        runs: Annotated[
            list[str], typer.Argument(metavar="RUN RUN ...", help="Folders or names of runs.", autocompletion=run_names)
        ],
        folder: FOLDER = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Compare runs: the options in which they differ, and their results. Changes are against the first one."""
        from igpo_cli.history import find
        from igpo_cli.report.arms import read_arms

        if len(runs) < 2:
            raise UsageError("one run alone is not to be compared. Name two or more, or use igpo runs show.")
        with configuring():
            arms = read_arms([find(run, folder) for run in runs])
        found = comparison(arms)
        print(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else show_comparison(found)


# One run ---------------------------------------------------------------------------------------------------------------


def plain(past: Past) -> dict[str, Any]:
    """A run as a row of the list."""
    return {
        "name": past.name,
        "folder": str(past.folder),
        "state": past.state,
        "started": past.started.isoformat(timespec="seconds") if past.started else None,
        "seconds": past.seconds,
        "injection": past.chosen("injection"),
        "task": past.chosen("task"),
        "model": past.chosen("model"),
        "steps": past.steps,
        "planned": past.planned,
        "metrics": {label: past.latest(name) for label, name, _ in FIGURES if past.latest(name) is not None},
        "evaluations": {
            score.name: {"pass@1": score.value, "low": score.low, "high": score.high, "problems": score.problems}
            for score in past.scores
        },
        "bytes": sum(past.sizes.values()),
    }


def details(past: Past) -> dict[str, Any]:
    """What `igpo runs show` knows besides."""
    return {
        "environment": environment(past.folder),
        "last": {phase: dict(row) for phase, row in past.metrics.items()},
        "sizes": dict(past.sizes),
        "next": list(next_steps(past)),
    }


def environment(folder: Path) -> dict[str, Any]:
    """environment.json; empty where there is none that can be read."""
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def next_steps(past: Past) -> list[str]:
    """Commands that make sense now."""
    if past.state == "running":
        return [f"igpo plot {past.folder}"]
    if past.state == "interrupted":
        checkpoints = past.folder / "checkpoints"
        saved = checkpoints.is_dir() and any(checkpoints.iterdir())
        return [f"igpo train --resume {past.folder}" if saved else f"igpo train {past.folder}/run.toml --name NEW"]
    return [f"igpo {word} {past.folder}" for word in ("report", "sample", "eval")]


def progress(past: Past) -> str:
    """sft 800, igpo 12/60: what is not at its end is followed by where that is."""
    parts = []
    for phase in past.planned | past.steps:
        done, planned = past.steps.get(phase, 0), past.planned.get(phase, 0)
        parts.append(f"{phase} {done}" + (f"/{planned}" if done < planned else ""))
    return ", ".join(parts)


def show_list(found: Sequence[Past]) -> None:
    """A run a row."""
    from rich.text import Text

    from igpo_cli.history import bytes_of
    from igpo_cli.screen import clock
    from igpo_cli.table import Column, show

    names = list(dict.fromkeys(score.name for past in found for score in past.scores))
    columns = [
        Column("run", style="bold"),
        Column("state"),
        Column("injection"),
        Column("steps"),
        *(Column(name, right=True) for name in names),
        *(Column(label, right=True, spare=True) for label, _, _ in FIGURES),
        Column("time", right=True, spare=True),
        Column("size", right=True, spare=True),
    ]
    rows: list[list[str | Text]] = []
    for past in found:
        scores = {score.name: f"{score.value:.3f}" for score in past.scores}
        rows.append(
            [
                past.name,
                Text(past.state, STYLES[past.state]),
                past.chosen("injection"),
                progress(past),
                *(scores.get(name, "") for name in names),
                *("" if (value := past.latest(name)) is None else f"{value:{form}}" for _, name, form in FIGURES),
                clock(past.seconds) if past.seconds else "",
                bytes_of(sum(past.sizes.values())),
            ]
        )
    show(columns, rows)


def show_run(past: Past) -> None:
    """The page of `igpo runs show`."""
    from rich.text import Text

    from igpo_cli.history import bytes_of
    from igpo_cli.screen import clock
    from igpo_cli.table import Column, pairs, pipe_or_terminal, show

    console = pipe_or_terminal()
    told = environment(past.folder)
    about: dict[str, str | Text] = dict([
        ("state", Text(past.state, STYLES[past.state])),
        ("steps", progress(past)),
        ("time", clock(past.seconds) if past.seconds else ""),
        ("started", f"{past.started:%Y-%m-%d %H:%M}" if past.started else ""),
        ("command", " ".join(map(str, told.get("command", [])))),
        ("device", str(told.get("device", ""))),
        *((kind, past.chosen(kind)) for kind in ("model", "task", "verifier", "sampler", "injection", "estimator", "loss")),
        *((f"eval {score.name}", str(score).removeprefix(f"{score.name} ")) for score in past.scores),
        ("size", f"{bytes_of(sum(past.sizes.values()))}: " + ", ".join(
            f"{name} {bytes_of(count)}"
            for name, count in sorted(past.sizes.items(), key=lambda item: -item[1])[:4]
        )),
    ])  # fmt: skip
    console.print(Text(str(past.folder), "bold"))
    pairs(about, console)
    for phase, row in past.metrics.items():
        console.print(Text(f"\nThe last step of {phase}", "bold"))
        values = {name: value for name, value in row.items() if name not in ("phase", "step", "time")}
        show(
            [Column("metric"), Column("value", right=True)],
            [[name, "-" if value is None else f"{value:.4g}"] for name, value in values.items()],
            console,
        )
    console.print(Text("\nNext: ", "dim").append(Text("  or  ", "dim").join(Text(step) for step in next_steps(past))))


# Several ---------------------------------------------------------------------------------------------------------------


def comparison(arms: Sequence[Arm]) -> dict[str, Any]:
    """Options and surroundings that are not the same everywhere, and a row of results a run."""
    from igpo_cli.report.arms import flatten

    options = differing(
        {arm.name: {key: value for key, value in flatten(arm.config).items() if key not in IGNORED} for arm in arms}
    )
    machine = differing(
        {arm.name: flatten({k: v for k, v in arm.environment.items() if k not in OF_THE_RUN}) for arm in arms}
    )
    return {
        "runs": [arm.name for arm in arms],
        "options": options,
        "environment": machine,
        "results": {arm.name: results(arm, arms[0]) for arm in arms},
    }


def differing(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key -> run -> value, for keys whose values differ; None where a run has no such key."""
    keys = dict.fromkeys(key for table in tables.values() for key in table)
    rows = {key: {name: table.get(key) for name, table in tables.items()} for key in keys}
    return {key: row for key, row in rows.items() if any(value != next(iter(row.values())) for value in row.values())}


def results(arm: Arm, first: Arm) -> dict[str, Any]:
    """The last values of a run, and its evaluations against those of the first run."""
    from igpo_cli.report.summary import gain

    found: dict[str, Any] = {
        "steps": {phase: arm.last_step(phase) for phase in ("sft", "igpo") if arm.last_step(phase)},
        "seconds": arm.seconds,
        "peak_memory": arm.environment.get("peak_memory"),
    }
    rewards = [value for _, value in arm.series("igpo", "reward/mean")]
    size = max(1, len(rewards) // 6)
    if rewards:
        found["reward, last sixth"] = sum(rewards[-size:]) / size
    if (opened := arm.opened()) is not None:
        found["stuck"], found["opened"] = opened
    for name, past in arm.evaluations.items():
        score = past[-1].score
        row: dict[str, Any] = {"pass@1": score.value, "low": score.low, "high": score.high}
        if arm is not first and (other := first.evaluations.get(name)):
            row["change"], interval = gain(other[-1], past[-1])
            row["change low"], row["change high"] = interval or (None, None)
        found.setdefault("evaluations", {})[name] = row
    return found


def show_comparison(found: dict[str, Any]) -> None:
    """Options first, then results; a run a column."""
    from rich.text import Text

    from igpo_cli.history import bytes_of
    from igpo_cli.screen import clock
    from igpo_cli.table import Column, pipe_or_terminal, show

    console = pipe_or_terminal()
    runs = found["runs"]
    options = found["options"] | found["environment"]
    if options:
        rows = [[key, *("-" if row[run] is None else brief(row[run]) for run in runs)] for key, row in options.items()]
        show([Column("option"), *(Column(run) for run in runs)], rows, console)
    else:
        console.print("The runs have the same options.")
    lines: dict[str, dict[str, str]] = {}
    for run in runs:
        result = found["results"][run]
        steps = ", ".join(f"{phase} {count}" for phase, count in result["steps"].items())
        lines.setdefault("steps", {})[run] = steps
        lines.setdefault("time of igpo", {})[run] = clock(result["seconds"]) if result["seconds"] is not None else ""
        lines.setdefault("peak of memory", {})[run] = bytes_of(result["peak_memory"]) if result["peak_memory"] else ""
        for label, key, form in (
            ("stuck groups", "stuck", ".0%"),
            ("of them opened", "opened", ".0%"),
            ("reward, last sixth", "reward, last sixth", ".3f"),
        ):
            lines.setdefault(label, {})[run] = f"{result[key]:{form}}" if key in result else ""
        for name, row in result.get("evaluations", {}).items():
            bounds = f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] is not None else ""
            lines.setdefault(name, {})[run] = f"{row['pass@1']:.3f}{bounds}"
            if "change" in row:
                bounds = (
                    f" [{row['change low']:+.3f}, {row['change high']:+.3f}]" if row["change low"] is not None else ""
                )
                lines.setdefault(f"{name}, against {runs[0]}", {})[run] = f"{row['change']:+.3f}{bounds}"
    console.print()
    rows = [[label, *(row.get(run, "") for run in runs)] for label, row in lines.items() if any(row.values())]
    show([Column("result"), *(Column(run) for run in runs)], rows, console)
    console.print(Text("\nBrackets: 95 % intervals over the choice of problems, not over seeds.", "dim"))


def brief(value: Any) -> str:
    """A value as one types it."""
    from igpo_cli.options import brief

    return brief(value)
