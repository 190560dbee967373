"""What the runs of a study measured: by arm and seed, as a table and as a plot.

A mean is one over seeds, its error the standard error; leads are of pairs with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from igpo_cli.report.arms import Arm as Run
from igpo_cli.report.chart import Line
from igpo_cli.report.picture import svg
from igpo_cli.studies import Study

Runs = Mapping[str, Mapping[int, Run]]
"""The finished runs by arm and seed."""


@frozen(kw_only=True)
class Measured:
    """One metric of one arm, by seed."""

    values: Mapping[int, float]
    start: Mapping[int, float]
    """Before reinforcement learning, where it was measured."""

    def to_json(self) -> dict[str, Any]:
        mean, error = centre(list(self.values.values()))
        return {"mean": mean, "error": error, "by_seed": dict(self.values), "start_by_seed": dict(self.start)}


def centre(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and from two values on its standard error."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def columns(study: Study, done: Runs) -> list[str]:
    """The metrics of the table: every evaluation, then those of the study."""
    every = [run for by_seed in done.values() for run in by_seed.values()]
    evaluations = dict.fromkeys(f"eval/{name}/pass@1" for run in every for name in run.evaluations)
    return [*evaluations, *(name for name in study.metrics if name not in evaluations)]


def measure(metric: str, by_seed: Mapping[int, Run]) -> Measured | None:
    """An evaluation's last value, or the mean of another metric over the last sixth of the steps."""
    values, start = {}, {}
    for seed, run in by_seed.items():
        name = metric.removeprefix("eval/").removesuffix("/pass@1")
        if metric.startswith("eval/"):
            found = run.evaluations.get(name, [])
            if found:
                values[seed] = found[-1].score.value
            if (pair := run.before_and_after(name)) is not None:
                start[seed] = pair[0].score.value
        elif points := run.series("igpo", metric) or run.series("sft", metric):
            last = [value for _, value in points[-max(1, len(points) // 6) :]]
            values[seed] = math.fsum(last) / len(last)
    return Measured(values=values, start=start) if values else None


def results(study: Study, done: Runs) -> dict[str, Any]:
    """What results.json holds."""
    metrics = columns(study, done)
    table = {arm.label: {metric: measure(metric, done[arm.label]) for metric in metrics} for arm in study.arms}
    main = study.plot or next(iter(metrics), None)
    rows = []
    for arm in study.arms:
        found = {metric: value.to_json() for metric, value in table[arm.label].items() if value is not None}
        row = {"arm": arm.label, "about": arm.about, "at": arm.at, "seeds": sorted(done[arm.label]), "metrics": found}
        if study.against not in (None, arm.label):
            row["lead"] = {
                metric: lead
                for metric in metrics
                if (lead := paired(table[arm.label][metric], table[str(study.against)][metric])) is not None
            }
        rows.append(row)
    return {"study": study.name, "question": study.question, "against": study.against, "main": main, "arms": rows}


def paired(one: Measured | None, other: Measured | None) -> dict[str, Any] | None:
    """The difference of two arms over the seeds that both have."""
    if one is None or other is None:
        return None
    gaps = {seed: value - other.values[seed] for seed, value in one.values.items() if seed in other.values}
    if not gaps:
        return None
    mean, error = centre(list(gaps.values()))
    return {"mean": mean, "error": error, "by_seed": gaps}


def spread(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """0.431 ± 0.012"""
    if value is None:
        return "-"
    error = "" if value["error"] is None else f" ± {value['error']:.3f}"
    return f"{value['mean']:{sign}.3f}{error}"


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: mean and standard error over seeds; of evaluations where they began too."""
    metrics = list(dict.fromkeys(metric for row in found["arms"] for metric in row["metrics"]))
    against, main = found["against"], found["main"]
    titles = ["arm", "seeds", *(metric.removeprefix("eval/").removesuffix("/pass@1") for metric in metrics)]
    rows = []
    for row in found["arms"]:
        cells = []
        for metric in metrics:
            value = row["metrics"].get(metric)
            began = list(value["start_by_seed"].values()) if value else []
            cells.append((f"{centre(began)[0]:.3f} → " if began else "") + spread(value))
        if against:
            cells.append(spread(row.get("lead", {}).get(main), "+"))
        rows.append([row["arm"], str(len(row["seeds"])), *cells])
    return [*titles, *([f"lead over {against}"] if against else [])], rows


def markdown(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    titles, rows = table(found)
    about = [f"- **{row['arm']}**: {row['about']}" for row in found["arms"] if row["about"]]
    lines = [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
    return (
        "\n".join([*([found["question"], ""] if found["question"] else []), *lines, *(["", *about] if about else [])])
        + "\n"
    )


def drawing(study: Study, done: Runs) -> str | None:
    """The study's metric as an SVG: over the axis where arms stand on one, else over the steps; None without data."""
    metric = study.plot or next(iter(columns(study, done)), None)
    if metric is None:
        return None
    lines: list[Line] = []
    if study.axis is None:
        for index, arm in enumerate(study.arms):
            curves = [dict(run.series("igpo", metric)) for run in done[arm.label].values()]
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            if steps:
                points = [(float(step), centre([curve[step] for curve in curves])) for step in steps]
                lines.append(_line(index, arm.label, points, marks=metric.startswith("eval/")))
    else:
        values = {arm.label: measure(metric, done[arm.label]) for arm in study.arms}
        known = [(arm, centre(list(value.values.values()))) for arm in study.arms if (value := values[arm.label])]
        on = [arm.at for arm, _ in known if arm.at is not None]
        for index, name in enumerate(dict.fromkeys(arm.line for arm, _ in known if arm.at is not None)):
            points = sorted((arm.at, value) for arm, value in known if arm.at is not None and arm.line == name)
            lines.append(_line(index, name or study.axis, points, marks=True))
        for arm, level in known:
            if arm.at is None and on:
                lines.append(_line(len(lines), arm.label, [(min(on), level), (max(on), level)], marks=False))
    return svg([(metric, "", lines)], study.axis or "step") if lines else None


def _line(index: int, label: str, points: Sequence[tuple[float, tuple[float, float | None]]], *, marks: bool) -> Any:
    bounds = [(place, mean - error, mean + error) for place, (mean, error) in points if error is not None]
    places: Any = [(place, mean) for place, (mean, _) in points]  # whole numbers are for steps
    return Line(
        arm=index % 6,
        label=label,
        points=places,
        intervals=bounds if marks else (),
        dashed=index >= 6,
    )
