"""Which curves there are, how each is read, and their lines: of one run what was measured, of several seeds their mean."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from attrs import evolve, frozen

from igpo_cli.health import Points, short
from igpo_cli.report.arms import COLOURS, Arm, Family, mean
from igpo_cli.report.chart import Line, chart, escape, smooth, thin
from igpo_cli.report.summary import eval_names

DASHED = '<span class="key dashed"></span>'
SOLID = '<span class="key"></span>'
SPIKE = 30
OWN = f"{SOLID} own tokens, {DASHED} hint tokens"


@frozen(kw_only=True)
class Curve:
    """One chart: what it is called, how to read it, and the metrics it draws, by what each is called in it."""

    title: str
    caption: str
    metrics: dict[str, str]
    """The first is drawn solid, others dashed."""
    instead: dict[str, str] | None = None
    """Metrics to draw where none of the others was measured."""
    top: float | None = None
    """Upper end of the scale; by default what the values need."""
    spikes: bool = False
    """A logarithmic scale where one value is SPIKE times the median."""

    def of(self, families: Sequence[Family], phase: str) -> dict[str, str]:
        arms = [arm for family in families for arm in family.arms]
        measured = any(arm.series(phase, name) for arm in arms for name in self.metrics.values())
        return self.metrics if measured or self.instead is None else self.instead


LEARNING = (
    Curve(title="Reward", caption="mean of the sampled rows, before any is replaced", metrics={"": "reward/mean"}),
    Curve(
        title="Right working",
        caption="share of correct samples whose working is right too",
        metrics={"": "correct/derived"},
        top=1.0,
    ),
)
HINTS = (
    Curve(
        title="Hint share",
        caption=f"{SOLID} of scored tokens, {DASHED} of rows",
        metrics={"of tokens": "hint/tokens", "of rows": "hint/rows"},
    ),
    Curve(
        title="Shown of the trace",
        caption="share of the slots of inpainted rows that were given",
        metrics={"": "hint/shown"},
    ),
    Curve(
        title="Entropy",
        caption=f"nats a token: {OWN}",
        metrics={"own": "policy/entropy_own", "hints": "policy/entropy_hint"},
        instead={"": "policy/entropy"},
    ),
    Curve(
        title="Log-prob",
        caption=f"nats a token, old policy: {OWN}",
        metrics={"own": "policy/logp_own", "hints": "policy/logp_hint"},
        instead={"": "policy/logp"},
    ),
    Curve(
        title="Ratio to the old policy",
        caption=f"mean: {OWN} that keep their gradient",
        metrics={"own": "policy/ratio_own", "hints": "policy/ratio_hint"},
        instead={"": "policy/ratio"},
    ),
    Curve(
        title="Clipped tokens",
        caption=f"share: {OWN}",
        metrics={"own": "policy/clip_own", "hints": "policy/clip_hint"},
        instead={"": "policy/clip"},
    ),
    Curve(
        title="Gradient by kind of token",
        caption=f"norm: {OWN}",
        metrics={"own": "gradient/own", "hints": "gradient/hint"},
        instead={"own": "gradient/own_proxy", "hints": "gradient/hint_proxy"},
    ),
    Curve(title="What hints change", caption="KL of plain to hinted marginals, nats a token", metrics={"": "hint/kl"}),
    Curve(
        title="Kept hints",
        caption="share of scored hint tokens that keep their gradient",
        metrics={"": "policy/kept_hints"},
    ),
)
STABILITY = (
    Curve(title="KL to the reference", caption="nats a token", metrics={"": "policy/kl"}, spikes=True),
    Curve(title="Gradient norm", caption="before clipping", metrics={"": "optimizer/grad_norm"}, spikes=True),
    Curve(
        title="Largest ratio",
        caption="of any token to the old policy",
        metrics={"": "policy/ratio_max"},
        spikes=True,
    ),
    Curve(
        title="Noise of the estimator",
        caption="variance of a row\u2019s mean log-prob between views, nats\u00b2",
        metrics={"": "policy/estimate_variance"},
    ),
    Curve(title="Completions that end", caption="share of rows with an end token", metrics={"": "sample/eos"}, top=1.0),
    Curve(title="Length", caption="tokens a row, up to its end", metrics={"": "sample/length"}),
    Curve(title="Forwards", caption="model forwards a rollout", metrics={"": "sample/forwards"}),
)
SFT = (
    Curve(title="Loss", caption="masked-diffusion bound, nats a token", metrics={"": "sft/loss"}),
    Curve(title="Accuracy on masked tokens", caption="share predicted", metrics={"": "sft/accuracy"}, top=1.0),
    Curve(title="Gradient norm", caption="before clipping", metrics={"": "optimizer/grad_norm"}),
)


def curves(families: Sequence[Family]) -> str:
    """The RL phase: what was learned, what hints did, whether it was stable, what it cost."""
    body = ""
    for title, charts, figures in (
        ("", LEARNING, _stuck(families) + _accuracy(families, "igpo", wide=True) + _tries(families)),
        ("Hints", HINTS, ""),
        ("Stability", STABILITY, ""),
    ):
        constant: list[str] = []
        figures += "".join(_figure(families, "igpo", curve, constant) for curve in charts)
        remark = f"<p class=fine>The same at every step: {', '.join(constant)}.</p>" if constant else ""
        if figures or remark:
            body += (f"<h3>{title}</h3>" if title else "") + f"<div class=figures>{figures}</div>{remark}"
    return body and body + _remark(families, "igpo")


def sft_curves(families: Sequence[Family]) -> str:
    """The phase before it."""
    constant: list[str] = []
    figures = _accuracy(families, "sft", wide=False)
    figures += "".join(_figure(families, "sft", curve, constant) for curve in SFT)
    return figures and f"<div class=figures>{figures}</div>{_remark(families, 'sft')}"


def _figure(families: Sequence[Family], phase: str, curve: Curve, constant: list[str]) -> str:
    """A chart; one whose every value is the same becomes a word in `constant`, one that was never measured nothing."""
    metrics = curve.of(families, phase)
    lines = [
        line
        for family in families
        for place, (label, metric) in enumerate(metrics.items())
        if (line := _line(families, family, phase, metric, label, dashed=place > 0)) is not None
    ]
    values = {value for line in lines for points in (line.points, *line.raw) for _, value in points}
    if curve.spikes and values and 0 < SPIKE * statistics.median(values) < max(values):
        lines = [evolve(line, points=positive(line.points), raw=[positive(run) for run in line.raw]) for line in lines]
        return chart(curve.title, f"{curve.caption}, logarithmic", lines, log=True)
    if len(values) == 1:
        constant.append(f"{curve.title.lower()} {short(values.pop())}")
        return ""
    return chart(curve.title, curve.caption, lines, top=curve.top) if values else ""


def _line(
    families: Sequence[Family], family: Family, phase: str, metric: str, label: str, *, dashed: bool = False
) -> Line | None:
    """None where no run of the family has the metric."""
    window = _window(families, phase)
    runs = [points for arm in family.arms if (points := arm.series(phase, metric))]
    if not runs:
        return None
    points, alone = averaged(runs), len(families) == 1
    if len(runs) > 1:
        raw = [thin(smooth(run, window)) for run in runs] if not dashed else []
    else:
        raw = [thin(points)] if alone and window > 1 else []
    name = f"{family.name} {label}".rstrip()
    return Line(arm=family.colour, label=name, points=thin(smooth(points, window)), dashed=dashed, raw=raw)


def averaged(runs: Sequence[Points]) -> Points:
    """The mean at the steps that all runs have; of runs without common steps the first."""
    tables = [dict(run) for run in runs]
    common = [step for step in tables[0] if all(step in table for table in tables)]
    return [(step, statistics.fmean(table[step] for table in tables)) for step in common] or list(runs[0])


def positive(points: Points) -> Points:
    return [(step, value) for step, value in points if value > 0]


def _window(families: Sequence[Family], phase: str) -> int:
    """Steps of a running mean: odd, a twelfth of the phase, 25 at most."""
    return min(25, max((arm.last_step(phase) for arm in _arms(families)), default=0) // 12 | 1)


def _arms(families: Sequence[Family]) -> list[Arm]:
    return [arm for family in families for arm in family.arms]


def _stuck(families: Sequence[Family]) -> str:
    lines = []
    for family in families:
        before = _line(families, family, "igpo", "stuck/before", "before", dashed=True)
        after = _line(families, family, "igpo", "stuck/after", "after")
        if before:
            lines.append(evolve(before, raw=(), down_to=after.points if after else []))
        if after:
            lines.append(evolve(after, raw=()))
    caption = f"share of groups without a correct row: {DASHED} before hints, {SOLID} after"
    return chart("Stuck groups", caption, lines, wide=True, top=1.0) if lines else ""


def _tries(families: Sequence[Family]) -> str:
    """pass@k of the rollouts: of one family every k in its own colour, of several the largest."""
    largest = max((arm.history.largest_k for arm in _arms(families)), default=0)
    if not largest:
        return ""
    if len(families) > 1:
        curve = Curve(
            title=f"pass@{largest}",
            caption="chance of a correct row in a group, before hints",
            metrics={"": f"correct/pass@{largest}"},
            top=1.0,
        )
        return _figure(families, "igpo", curve, [])
    names = {1: "correct/mean"} | {
        2**power: f"correct/pass@{2**power}" for power in range(1, largest.bit_length()) if 2**power <= largest
    }
    if largest not in names:
        names[largest] = f"correct/pass@{largest}"
    lines, keys = [], []
    for index, (k, metric) in enumerate(names.items()):
        if line := _line(families, families[0], "igpo", metric, ""):
            lines.append(Line(arm=index % COLOURS, label=f"pass@{k}", points=line.points))
            keys.append(f'<span class="swatch a{index % COLOURS}"></span>pass@{k}')
    return chart("pass@k", f"of the rollouts, before hints: {' '.join(keys)}", lines, top=1.0) if lines else ""


def _accuracy(families: Sequence[Family], phase: str, *, wide: bool) -> str:
    figures: list[str] = []
    for name in eval_names(_arms(families)):
        lines = [line for family in families for line in _scores(family, name, phase)]
        if not lines:
            continue
        bars = ""
        if any(line.intervals for line in lines):
            bars = "; bars are 95\u00a0% intervals" + (
                ", of several seeds one standard error" if any(len(family.arms) > 1 for family in families) else ""
            )
        title = f"Accuracy on {name}"
        figures.append(chart(title, f"share of problems solved{bars}", lines, wide=wide and not figures))
    return "".join(figures)


def _scores(family: Family, name: str, phase: str) -> list[Line]:
    """At most one: of one run with the intervals of its problems, of several their mean and its standard error."""
    found = [[at for at in arm.evaluations.get(name, []) if at.phase == phase] for arm in family.arms]
    found = [run for run in found if run]
    if not found:
        return []
    if len(found) == 1:
        points = [(at.step, at.score.value) for at in found[0]]
        intervals = [
            (at.step, at.score.low, at.score.high)
            for at in found[0]
            if at.score.low is not None and at.score.high is not None
        ]
        return [Line(arm=family.colour, label=family.name, points=points, intervals=intervals)]
    runs = [[(at.step, at.score.value) for at in run] for run in found]
    points = averaged(runs)
    intervals = []
    for step, value in points:
        here = mean([dict(run)[step] for run in runs if step in dict(run)])
        if here is not None and here.error is not None:
            intervals.append((step, value - here.error, value + here.error))
    return [Line(arm=family.colour, label=family.name, points=points, intervals=intervals, raw=runs)]


def _remark(families: Sequence[Family], phase: str) -> str:
    several = any(len(family.arms) > 1 for family in families)
    parts = []
    if (window := _window(families, phase)) > 1:
        faint = ", the faint ones what was measured" if len(families) == 1 and not several else ""
        parts.append(f"Lines are running means over {window} steps{faint}; accuracies are as measured.")
    if several:
        parts.append("Of several seeds the mean is drawn, and faintly each of them.")
    return f"<p class=fine>{' '.join(parts)}</p>" if parts else ""


COSTS = (
    ("rollout", "time/rollout"),
    ("inpainting", "time/inpaint"),
    ("of both: sampling", "time/sample"),
    ("of both: verifying", "time/verify"),
    ("learning", "time/learn"),
)


def costs(families: Sequence[Family]) -> str:
    """Seconds a step by phase, as a table; empty where they were not measured."""

    def median(name: str) -> list[str]:
        cells = []
        for family in families:
            values = [value for arm in family.arms for value in arm.history.values(name)]
            cells.append(statistics.median(values) if values else None)
        return ["" if value is None else f"{value:,.0f}" if value >= 100 else short(round(value, 3)) for value in cells]

    rows = [(title, median(name)) for title, name in (*COSTS, ("tokens a second of sampling", "time/speed"))]
    rows = [(title, cells) for title, cells in rows if any(cells)]
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(family.name)}</th>" for family in families)
    body = "".join(
        f"<tr><th scope=row>{title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for title, cells in rows
    )
    return (
        f'<div class="scroll"><table class=plain><thead><tr><th scope=col>seconds a step (median)</th>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
