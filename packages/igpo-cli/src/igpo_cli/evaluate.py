"""Held-out evaluation: pass@1, pass@k, avg@k, with intervals that say how far to trust them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
from attrs import frozen

from igpo_cli import launch
from igpo_cli.runs import replace
from igpo_rl import derive
from igpo_rl.summary import pass_at_k

if TYPE_CHECKING:
    import torch

    from igpo_cli.play import Player
    from igpo_cli.problems import ProblemSet
else:
    torch = lazy.load("torch")

Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share (Wilson 1927)."""
    if trials == 0:
        return (0.0, 1.0)
    share, z2 = successes / trials, Z * Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return (max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over problems: samples of one problem are not independent trials.

    Problems that are all alike give resampling nothing to vary; then each counts as one trial (Wilson).
    """
    if len(set(values)) < 2:
        return wilson(round(math.fsum(values)), len(values))
    rng = random.Random(seed)
    means = sorted(math.fsum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return (means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1])


@frozen(kw_only=True)
class Score:
    """The result of one evaluation."""

    metrics: dict[str, float]
    """pass@1 with low and high (95 %), problems, and with several samples avg@n and pass@k."""
    rows: list[dict[str, object]]
    """One object a sample: key, sample, prompt, completion, answer, correct, reward, note."""

    def write(self, path: Path) -> None:
        """One JSON object a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def summarise(correct: Sequence[int], samples: int) -> dict[str, float]:
    """Correct counts a problem, out of `samples` each -> the metrics of `Score`."""
    problems = len(correct)
    mean = math.fsum(count / samples for count in correct) / max(1, problems)
    low, high = wilson(sum(correct), problems) if samples == 1 else bootstrap([count / samples for count in correct])
    metrics = {"pass@1": mean, "low": low, "high": high, "problems": float(problems)}
    if samples > 1:
        metrics[f"avg@{samples}"] = mean
        sizes = [2**power for power in range(1, samples.bit_length()) if 2**power < samples]
        for k in [*sizes, samples]:
            metrics[f"pass@{k}"] = math.fsum(pass_at_k(count, samples, k) for count in correct) / problems
    return metrics


def evaluate(player: Player, problems: ProblemSet, *, samples: int, seed: int, rows: int = 256) -> Score:
    """Sample every problem `samples` times, `rows` canvases at a time, and judge them.

    The processes of a job share the samples, and each gets the whole score. A sample's seed depends on the run's seed,
    its problem and its index alone, so the result does not move with `rows` or the number of processes.
    """
    work = [(problem, index) for problem in problems.problems for index in range(samples)]
    counts: dict[str, int] = {problem.key: 0 for problem in problems.problems}
    records: list[dict[str, object]] = []
    mine = launch.dealt(work)
    for start in range(0, len(mine), rows):
        part = mine[start : start + rows]
        seeds = torch.tensor([derive(seed, "evaluate", problem.key, index) for problem, index in part])
        played = player([problem for problem, _ in part], None, seeds)
        for at, (problem, index) in enumerate(part):
            task = problems.tasks[problem.key]
            records.append(
                {
                    "key": problem.key,
                    "sample": index,
                    "prompt": task.prompt,
                    "completion": played.texts[at],
                    "answer": task.answer,
                    "correct": bool(played.correct[at]),
                    "reward": float(played.reward[at]),
                    "note": played.notes[at],
                }
            )
    records = launch.collected(records)
    for record in records:
        counts[str(record["key"])] += bool(record["correct"])
    return Score(metrics=summarise(list(counts.values()), samples), rows=records)
