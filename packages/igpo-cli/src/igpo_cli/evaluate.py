"""Held-out evaluation: pass@1, pass@k, avg@k, with intervals that say how far to trust them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_cli import launch
from igpo_cli.runs import replace
from igpo_rl import derive, later
from igpo_rl.summary import pass_at_k

if TYPE_CHECKING:
    import torch

    from igpo_cli.play import Player
    from igpo_cli.problems import ProblemSet
    from igpo_rl import Problem
else:
    torch = later.load("torch")

Row = dict[str, Any]
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
    """pass@1 with low and high (95 %), problems, forwards a sample, and with several samples avg@n and pass@k."""
    rows: list[Row]
    """One object a sample: key, sample, prompt, completion, answer (as it was read), expected, correct, reward, note,
    forwards, seed."""
    correct: dict[str, int]
    """Correct samples by problem, of `samples` each."""
    samples: int

    def write(self, path: Path) -> None:
        """One JSON object a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def summarise(correct: Sequence[int], samples: int, pass_at: Sequence[int] = ()) -> dict[str, float]:
    """Correct counts a problem, out of `samples` each -> the metrics of `Score`; `pass_at`: the k of pass@k."""
    problems = len(correct)
    mean = math.fsum(count / samples for count in correct) / max(1, problems)
    low, high = wilson(sum(correct), problems) if samples == 1 else bootstrap([count / samples for count in correct])
    metrics = {"pass@1": mean, "low": low, "high": high, "problems": float(problems)}
    if samples > 1:
        metrics[f"avg@{samples}"] = mean
        powers = [2**power for power in range(1, samples.bit_length()) if 2**power < samples]
        for k in pass_at or [*powers, samples]:
            metrics[f"pass@{k}"] = math.fsum(pass_at_k(count, samples, k) for count in correct) / max(1, problems)
    return metrics


def evaluate(
    player: Player,
    problems: ProblemSet,
    *,
    samples: int,
    seed: int,
    pass_at: Sequence[int] = (),
    done: Iterable[Row] = (),
    keep: Callable[[list[Row]], None] | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Score:
    """Sample every problem `samples` times and judge them. The processes of a job share the batches; each gets the whole score.

    A sample's seed depends on the run's seed, its problem and its index alone, and batches are cut the same way for any
    number of processes and after a resumption: `done` are the rows of an earlier sitting, in whole batches. `keep` is given
    new rows, by the first process, and `told` how many of all there are.
    """
    pairs = [(problem, index) for problem in problems.problems for index in range(samples)]
    size = batch_rows(player)
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    known = {(row["key"], row["sample"]): row for row in done}
    open_ = [batch for batch in batches if not all((problem.key, index) in known for problem, index in batch)]
    finished = len(pairs) - sum(map(len, open_))
    for start in range(0, len(open_), launch.ranks()):
        part = launch.dealt(open_[start : start + launch.ranks()])
        rows = [
            row for shared in launch.gather(_played(player, problems, part[0], seed) if part else []) for row in shared
        ]
        if keep is not None and launch.rank() == 0:
            keep(rows)
        known |= {(row["key"], row["sample"]): row for row in rows}
        finished += len(rows)
        if told is not None:
            told(finished, len(pairs))
    found = [known[problem.key, index] for problem, index in pairs]
    counts = {problem.key: 0 for problem in problems.problems}
    for row in found:
        counts[str(row["key"])] += bool(row["correct"])
    metrics = summarise(list(counts.values()), samples, pass_at)
    metrics["forwards"] = math.fsum(row["forwards"] for row in found) / max(1, len(found))
    return Score(metrics=metrics, rows=found, correct=counts, samples=samples)


def batch_rows(player: Player) -> int:
    """Canvases that are sampled together: as many as the sampler takes in one forward."""
    return int(getattr(player.sampler, "max_rows", 64))


def _played(player: Player, problems: ProblemSet, batch: Sequence[tuple[Problem, int]], seed: int) -> list[Row]:
    seeds = [derive(seed, "evaluate", problem.key, index) for problem, index in batch]
    played = player([problem for problem, _ in batch], None, torch.tensor(seeds))
    forwards = [] if played.forwards is None else played.forwards.tolist()
    rows: list[Row] = []
    for at, (problem, index) in enumerate(batch):
        task = problems.tasks[problem.key]
        rows.append(
            {
                "key": problem.key,
                "sample": index,
                "prompt": task.prompt,
                "completion": played.texts[at],
                "answer": played.answers[at],
                "expected": task.answer,
                "correct": bool(played.correct[at]),
                "reward": float(played.reward[at]),
                "note": played.notes[at],
                "forwards": forwards[at],
                "seed": seeds[at],
            }
        )
    return rows
