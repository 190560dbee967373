"""`igpo ablate`: the same run with other options and seeds, and what came of it in one table and one plot."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from igpo_cli.commands import App, Reading, Varied, config_command
from igpo_cli.errors import RunError, UsageError, configuring, note
from igpo_cli.launch import Accelerate, Processes

if TYPE_CHECKING:
    from igpo_cli.ablation import Job
    from igpo_cli.config import Config
    from igpo_cli.studies import Study


OF_ONE_RUN = ("seed", "name", "folder", "model.path")
"""What differs between runs of one arm."""


def register(app: App) -> None:
    """Adds the command."""
    studies: list[Study] = []

    def varied(reading: Reading) -> Varied:
        """One configuration an arm."""
        from igpo_cli.ablation import START
        from igpo_cli.studies import find

        scale: Any = reading.own.get("scale", ["small"])[-1]
        study = find(reading.preset, scale, file=reading.file is not None)
        study = study.varying([str(text) for text in reading.own.get("vary", ())])
        studies.append(study)
        over = {arm.label: arm.sources for arm in study.arms}
        return Varied(over | ({START: (study.start,)} if study.start else {}), study.preset, study.under)

    @config_command(app, "ablate", vary=varied)
    def ablate(
        configs: dict[str, Config],
        *,
        vary: Annotated[
            list[str],
            typer.Option(
                metavar="OPTION=A,B",
                help="An option and its values; repeated: all combinations. X,Y=A,B gives both the same.",
                show_default=False,
            ),
        ] = [],  # noqa: B006
        seeds: Annotated[str, typer.Option(metavar="N | A,B", help="So many seeds from 1 on, or a list.")] = "3",
        scale: Annotated[
            Literal["small", "paper"], typer.Option(help="Of a study: minutes on a CPU, or the paper's.")
        ] = "small",
        metric: Annotated[
            list[str], typer.Option(metavar="NAME", help="A further column of the table.", show_default=False)
        ] = [],  # noqa: B006
        jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
        processes: Processes = None,
        accelerate: Accelerate = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and start none.")] = False,
        listed: Annotated[bool, typer.Option("--list", help="List the studies and start nothing.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the results, or the list, as JSON.")] = False,
    ) -> None:
        """Run a study: every arm with every seed, one table and one plot. The same command goes on where it stopped.

        The arms are those of --vary, or of a study that comes with igpo: --preset NAME (--list shows them).
        """
        from attrs import evolve

        from igpo_cli import ablation
        from igpo_cli import studies as known

        if listed:
            list_studies(as_json)
            return
        study = studies[-1]
        if not vary and study.question == "":
            raise UsageError(
                "nothing is varied. Give options with values, such as --vary injection.high=0.2,0.4,0.6, or a study "
                "with --preset NAME (igpo ablate --list)."
            )
        study = evolve(study, metrics=tuple(dict.fromkeys((*study.metrics, *metric))))
        folder = folder_of(configs, study, scale)
        values = {label: config.values for label, config in configs.items()}
        planned = ablation.plan(study, values, known.seeds_of(seeds), folder)
        if dry_run:
            with configuring():
                list_runs(planned, folder, list(values), as_json)
            return
        launching = ["--processes", str(processes)] if processes else []
        launching += ["--accelerate", str(accelerate)] if accelerate else []
        with interrupted_by_term():
            failed = ablation.work(planned, folder, jobs, said(planned), launching)
        arguments = ["igpo", *sys.argv[1:]]
        found = ablation.write(study, planned, folder, arguments)
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            show(found, folder)
        if failed:
            names = ", ".join(job.name for job in failed[:4]) + (", ..." if len(failed) > 4 else "")
            raise RunError(
                f"{len(failed)} of {len(planned)} runs failed: {names}. Their logs are in {folder / 'logs'}; "
                "the same command tries them again."
            )


@contextmanager
def interrupted_by_term() -> Iterator[None]:
    """SIGTERM ends the runs that are going on as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def folder_of(configs: Mapping[str, Config], study: Study, scale: str) -> Path:
    """Where the study lives: --folder and --name, or the study's own name."""
    config = next(iter(configs.values()))
    chosen = config.origins.get("name", "default") == "flag"
    name = config.run.name if chosen else study.name + ("-paper" if scale == "paper" and study.question else "")
    return Path(config.run.folder) / str(name)


def said(planned: Sequence[Job]) -> Any:
    """Says on stderr that a run is done."""
    count = 0

    def say(job: Job, what: str) -> None:
        nonlocal count
        count += 1
        print(f"[{count}/{len(planned)}] {job.name} {what}", file=sys.stderr, flush=True)

    return say


def list_studies(as_json: bool) -> None:
    """What comes with igpo."""
    from igpo_cli import studies, table

    found = [studies.read(name, "small") for name in studies.shipped()]
    if as_json:
        shown = [
            {"name": study.name, "question": study.question, "arms": [arm.label for arm in study.arms]}
            for study in found
        ]
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        rows = [[study.name, study.question, str(len(study.arms))] for study in found]
        columns = [
            table.Column("study", style="bold"),
            table.Column("question", prose=True),
            table.Column("arms", right=True),
        ]
        table.show(columns, rows)


def list_runs(planned: Sequence[Job], folder: Path, arms: Sequence[str], as_json: bool) -> None:
    """The runs, and the options in which arms differ."""
    from igpo_cli import ablation, table
    from igpo_cli.options import show as shown
    from igpo_cli.report.arms import flatten

    flat = {job.name: flatten(job.values) for job in planned}
    compared = [flat[job.name] for job in planned if job.arm in arms]
    keys = [key for key in dict.fromkeys(key for each in flat.values() for key in each) if key not in OF_ONE_RUN]
    keys = [key for key in keys if len({shown(each[key]) for each in compared if key in each}) > 1]
    rows: list[dict[str, Any]] = [
        {
            "run": job.name,
            "arm": job.arm,
            "seed": job.seed,
            "starts from": job.start,
            "state": ablation.state(job, folder),
            "options": {key: flat[job.name][key] for key in keys if key in flat[job.name]} if job.arm in arms else {},
        }
        for job in planned
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    columns = [
        table.Column("run", style="bold"),
        table.Column("state"),
        table.Column("starts from"),
        table.Column("options", prose=True),
    ]
    table.show(
        columns,
        [
            [
                row["run"],
                row["state"],
                row["starts from"] or "",
                ", ".join(f"{k}={shown(v)}" for k, v in row["options"].items()),
            ]
            for row in rows
        ],
    )


def show(found: Mapping[str, Any], folder: Path) -> None:
    """The table, and where everything is."""
    from igpo_cli import comparison, table

    titles, rows = comparison.table(found)
    columns = [
        table.Column(title, right=number > 0, style="" if number else "bold") for number, title in enumerate(titles)
    ]
    table.show(columns, rows)
    if not any(found["main"] in row["metrics"] for row in found["arms"]):
        note(f"no run has measured {found['main']} yet, by which arms lead and which the plot shows")
    files = [name for name in ("table.md", "plot.svg", "results.json") if (folder / name).is_file()]
    print(f"\n{folder}: {', '.join(files)}, and the runs (igpo report {shlex.quote(str(folder))}/RUN ...)")
