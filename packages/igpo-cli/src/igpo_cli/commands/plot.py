"""`igpo plot`: metrics of runs as curves, in the terminal or as an SVG file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from igpo_cli.commands import App
from igpo_cli.completion import metric_names, run_names
from igpo_cli.errors import UsageError, close, configuring

if TYPE_CHECKING:
    from igpo_cli.report.arms import Arm
    from igpo_cli.report.chart import Line

USUAL = ("reward/mean", "sft/loss")
"""What is drawn without --metric: the first of these that a run has."""


def register(app: App) -> None:
    """Adds the command."""

    @app.command()
    def plot(
        runs: Annotated[
            list[str],
            typer.Argument(metavar="RUN ...", help="Folders or names of runs.", autocompletion=run_names),
        ],
        metric: Annotated[
            list[str],
            typer.Option(
                metavar="NAME", help="A metric; may be repeated. Default: reward/mean.", autocompletion=metric_names
            ),
        ] = [],  # noqa: B006
        phase: Annotated[
            Literal["sft", "igpo"] | None, typer.Option(help="Default: the last phase that has the metric.")
        ] = None,
        smooth: Annotated[int, typer.Option(min=1, help="Steps of a running mean.")] = 1,
        height: Annotated[int, typer.Option(min=4, help="Lines of a chart.")] = 12,
        folder: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("runs"),
        out: Annotated[
            Path | None, typer.Option(metavar="FILE.svg", help="Write the charts here instead of showing them.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="A list of curves, each point \\[step, value].")] = False,
    ) -> None:
        """Plot metrics of one or several runs over their steps."""
        from igpo_cli.history import find
        from igpo_cli.report.arms import read_arms

        if out is not None and out.suffix != ".svg":
            raise UsageError(f"--out {out} must end in .svg. Browsers and rsvg-convert make other formats of it.")
        with configuring():
            arms = read_arms([find(run, folder) for run in runs])
        charts = [chart_of(arms, name, phase, smooth) for name in metric or usual(arms)]
        if as_json:
            rows = [
                {"metric": name, "phase": of, "run": line.label, "points": line.points}
                for name, of, lines in charts
                for line in lines
            ]
            print(json.dumps(rows))
        elif out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            from igpo_cli.report.picture import svg

            out.write_text(svg(charts), encoding="utf-8")
            print(out)
        else:
            show(charts, height)


Chart = tuple[str, str, "list[Line]"]
"""Metric, phase, and a line for each run that has it."""


def metrics_of(arms: Sequence[Arm]) -> list[str]:
    """All that was measured, sorted."""
    from igpo_cli.health import number

    rows = (row for arm in arms for row in arm.rows)
    return sorted(
        {name for row in rows for name, value in row.items() if name not in ("phase", "step") and number(value)}
    )


def usual(arms: Sequence[Arm]) -> list[str]:
    """One metric that says most."""
    known = metrics_of(arms)
    found = [name for name in USUAL if name in known][:1]
    if not found:
        raise UsageError(f"{', '.join(arm.name for arm in arms)}: nothing to plot; no step was finished yet.")
    return found


def chart_of(arms: Sequence[Arm], metric: str, phase: str | None, smooth: int) -> Chart:
    """The curves of a metric; UsageError where no run has it."""
    from igpo_cli.report import chart

    for of in (phase,) if phase else ("igpo", "sft"):
        series = [(number, arm.name, arm.series(of, metric)) for number, arm in enumerate(arms)]
        lines = [
            chart.Line(arm=number, label=name, points=chart.smooth(points, smooth))
            for number, name, points in series
            if points
        ]
        if lines:
            return metric, of, lines
    known = metrics_of(arms)
    meant = close(metric, known) or close(metric, {name.rpartition("/")[2]: name for name in known})
    meant = next((name for name in known if meant in (name, name.rpartition("/")[2])), None)
    hint = f" Did you mean '{meant}'?" if meant and meant != metric else ""
    where = f" in phase {phase}" if phase else ""
    raise UsageError(f"no run has a metric '{metric}'{where}.{hint} igpo runs show {arms[0].folder} lists them.")


def show(charts: Sequence[Chart], height: int) -> None:
    """One chart below the other."""
    from rich.text import Text

    from igpo_cli.curves import draw, legend
    from igpo_cli.screen import tolerant_console

    console = tolerant_console()
    for number, (metric, phase, lines) in enumerate(charts):
        if number:
            console.print()
        console.print(Text(metric, "bold").append(f"  {phase}", "dim"))
        for text in draw(lines, console, rows=height):
            console.print(text, no_wrap=True)
        if len(lines) > 1:
            console.print(legend(lines, console))
