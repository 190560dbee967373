"""Run the arms of the experiment through the igpo command, one result file per arm and seed, and print the table.

Every arm of a seed starts from that seed's own SFT checkpoint. Finished results are kept and not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARMS = {
    "sft": "the starting point: masked-diffusion SFT only",
    "sft-more": "plain SFT continued on the traces that IGPO takes its hints from",
    "grpo": "GRPO: no hints",
    "resample": "equal budget: a second rollout of stuck groups, without hints",
    "igpo": "IGPO: hints from the trace, the answer hidden",
}
RL = {"grpo": "none", "resample": "resample", "igpo": "uniform-chunks"}
WINDOW = 10  # steps over which stuck shares are averaged, at either end of a run


def igpo(log: Path, *arguments: str) -> dict[str, float]:
    """Run one igpo command with one thread; its output goes to `log`. -> wall and CPU seconds, peak memory in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "igpo_cli", *arguments], stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"igpo {' '.join(arguments)} failed (exit {process.returncode}):\n{log.read_text()[-2000:]}")
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
    }


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def mean(values: Sequence[float]) -> float:
    """The mean, or nan where there is nothing to average."""
    return math.fsum(values) / len(values) if values else math.nan


def windows(rows: Sequence[dict[str, float]], key: str) -> list[float]:
    """The first and last window's mean of a metric over the RL steps."""
    values = [row[key] for row in rows if key in row]
    return [mean(values[:WINDOW]), mean(values[-WINDOW:])]


def summary(run: Path) -> dict[str, object]:
    """What the table needs of a finished run."""
    rows = metrics(run)
    evaluated = [row for row in rows if "eval/heldout/pass@1" in row]
    result: dict[str, object] = {
        "heldout": [[row["step"], row["eval/heldout/pass@1"]] for row in evaluated],
        "problems": evaluated[-1]["eval/heldout/problems"],
        "common": [row["eval/common/pass@1"] for row in rows if "eval/common/pass@1" in row][-1],
    }
    if any("stuck/before" in row for row in rows):
        result["stuck_before"] = windows(rows, "stuck/before")
        result["stuck_after"] = windows(rows, "stuck/after")
        result["leak"] = sum(row.get("hint/answer_leak", 0) for row in rows)
    return result


class Plan:
    """One experiment: where it lives and how long its runs are."""

    def __init__(self, folder: Path, preset: str, steps: int | None, overrides: Sequence[str]) -> None:
        self.folder, self.preset, self.steps, self.overrides = folder, preset, steps, list(overrides)

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / "runs" / f"{arm}-{seed}"

    def result(self, arm: str, seed: int) -> Path:
        return self.folder / "results" / f"{arm}-{seed}.json"

    def train(self, arm: str, seed: int) -> None:
        """Run one arm of one seed, unless its result is there."""
        if self.result(arm, seed).exists():
            return
        run = self.run(arm, seed)
        if run.exists():  # a run that was cut off: move it aside, never overwrite
            run.rename(run.with_name(f"{run.name}.cut-{int(time.time())}"))
        base = ["--preset", self.preset, "--seed", str(seed), "--folder", str(run.parent), "--name", run.name]
        base += self.overrides
        start = ["--model.path", str(self.run("sft", seed) / "model")]
        if arm == "sft":
            cost = igpo(self.folder / "logs" / f"{run.name}.txt", "train", *base, "--steps", "0")
        elif arm == "sft-more":
            # As many traces as RL sees prompts, in the RL task's split.
            more = ["--sft.split", "train", "--sft.steps", "60", "--sft.optimizer.name", "adamw"]
            more += ["--sft.optimizer.lr", "1e-3", "--sft.optimizer.warmup", "4"]
            cost = igpo(self.folder / "logs" / f"{run.name}.txt", "train", *base, *start, *more, "--steps", "0")
        else:
            steps = [] if self.steps is None else ["--steps", str(self.steps)]
            more = [*start, "--sft.steps", "0", "--injection", RL[arm], *steps]
            cost = igpo(self.folder / "logs" / f"{run.name}.txt", "train", *base, *more)
        aside = self.result(arm, seed).with_suffix(".part")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"arm": arm, "seed": seed, **cost, **summary(run)}, indent=1) + "\n")
        aside.rename(self.result(arm, seed))

    def results(self, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, object]]:
        for arm in arms:
            for seed in seeds:
                yield json.loads(self.result(arm, seed).read_text())


def spread(values: Sequence[float]) -> str:
    """Mean, and with several values the standard error of the mean."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    centre = mean(values)
    error = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1) / len(values))
    return f"{centre:.3f} ± {error:.3f}"


def table(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """The arms as a Markdown table: mean and standard error over seeds."""
    lines = [
        "| arm | held-out pass@1, start | end | by seed | gain over the start, paired | lead over `grpo`, paired "
        "| common problems, end | stuck before → after, first steps | last steps | CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = [row["heldout"][-1][1] for row in plan.results(["grpo"], seeds)] if "grpo" in arms else []
    for arm in arms:
        found = list(plan.results([arm], seeds))
        ends = [row["heldout"][-1][1] for row in found]
        starts = [row["heldout"][0][1] for row in found]
        stuck = ["-", "-"]
        if "stuck_before" in found[0]:
            stuck = [
                f"{mean([row['stuck_before'][at] for row in found]):.2f} → "
                f"{mean([row['stuck_after'][at] for row in found]):.2f}"
                for at in (0, 1)
            ]
        cells = [
            f"**{arm}**",
            spread(starts) if arm != "sft" else "-",
            spread(ends),
            " ".join(f"{value:.2f}" for value in ends),
            spread([end - start for end, start in zip(ends, starts, strict=True)]) if arm != "sft" else "-",
            spread([end - other for end, other in zip(ends, plain, strict=True)])
            if arm not in ("sft", "grpo") and plain
            else "-",
            spread([row["common"] for row in found]),
            *stuck,
            *(f"{mean([row[key] for row in found]):.0f}" for key in ("cpu_s", "memory_mb")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the page's generated-part markers."""
    start, end = "<!-- generated: begin -->", "<!-- generated: end -->"
    before, rest = page.read_text().split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated: " + ", ".join(ARMS))
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma-separated integers")
    parser.add_argument("--steps", type=int, help="RL steps of an arm (default: the preset's)")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--folder", type=Path, default=ROOT / "evidence" / "results")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    parser.add_argument("--report", type=Path, help="write an HTML report of the first seed's RL arms here")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    options, overrides = parser.parse_known_args()
    arms = [arm for arm in ARMS if arm in options.arms.split(",")]
    unknown = set(options.arms.split(",")) - set(ARMS)
    if unknown:
        parser.error(f"no arm named {', '.join(sorted(unknown))}. Arms: {', '.join(ARMS)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    plan = Plan(options.folder, options.preset, options.steps, overrides)

    started = time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        for stage in (["sft"], [arm for arm in arms if arm != "sft"]):
            work = [(arm, seed) for seed in seeds for arm in stage]
            for (arm, seed), _ in zip(work, pool.map(lambda pair: plan.train(*pair), work), strict=True):
                print(f"[{time.perf_counter() - started:5.0f} s] seed {seed}: {arm:9} {ARMS[arm]}", flush=True)

    text = table(plan, arms, seeds)
    print()
    print(text)
    if options.page:
        write_between_markers(options.page, f"{len(seeds)} seeds ({options.seeds}).\n\n{text}")
        print(f"\nwritten to {options.page}")
    if options.report:
        shown = [str(plan.run(arm, seeds[0])) for arm in arms if arm in RL]
        igpo(plan.folder / "logs" / "report.txt", "report", *shown, "--out", str(options.report))
        print(f"\nreport: {options.report}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{time.perf_counter() - started:.0f} s in all, at most {peak:.0f} MB a run")


if __name__ == "__main__":
    main()
