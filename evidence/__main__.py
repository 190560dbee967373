"""Run the arms of the studies through the igpo command, one result file per arm and seed, and print their tables.

Every arm of a seed starts from that seed's own SFT checkpoint. Finished results are kept and not run again; all arms of
one seed come before the next seed, so a table can be read, coarsely, long before it is complete.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from evidence.arms import ARMS, STUDIES, STUDY_OF, Study
from evidence.tokens import learned_tokenizer

ROOT = Path(__file__).resolve().parent.parent
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

    def __init__(self, folder: Path, results: Path, preset: str, steps: int | None, overrides: Sequence[str]) -> None:
        self.folder, self.kept, self.preset, self.steps, self.overrides = (
            folder,
            results,
            preset,
            steps,
            list(overrides),
        )

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / "runs" / f"{arm}-{seed}"

    def result(self, arm: str, seed: int) -> Path:
        return self.kept / f"{arm}-{seed}.json"

    def done(self, arm: str, seed: int) -> bool:
        return self.result(arm, seed).exists()

    def start(self, arms: Sequence[str], seed: int) -> None:
        """Make the seed's SFT checkpoints, where an arm still needs them."""
        needed = dict.fromkeys(STUDY_OF[arm].start for arm in arms if not self.done(arm, seed))
        for first in needed:
            if not (self.run(first, seed) / "model").exists():
                self.train(first, seed)

    def source(self, study: Study) -> list[str]:
        """The flags that all arms of a study share."""
        if study.file is None:
            return ["--preset", self.preset]
        return [str(study.file), "--model.tokenizer", str(learned_tokenizer(self.folder / "tokenizer", study.file))]

    def train(self, arm: str, seed: int) -> None:
        """Run one arm of one seed and keep its result."""
        run = self.run(arm, seed)
        if run.exists():  # a run that was cut off: move it aside, never overwrite
            run.rename(run.with_name(f"{run.name}.cut-{int(time.time())}"))
        study = STUDY_OF[arm]
        flags = [*self.source(study), "--seed", str(seed), "--folder", str(run.parent), "--name", run.name]
        flags += [*self.overrides, *ARMS[arm].flags]
        if ARMS[arm].from_sft:
            flags += ["--model.path", str(self.run(study.start, seed) / "model")]
        if self.steps is not None and "--steps" not in flags:
            flags += ["--steps", str(self.steps)]
        cost = igpo(self.folder / "logs" / f"{run.name}.txt", "train", *flags)
        aside = self.result(arm, seed).with_suffix(".part")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"arm": arm, "seed": seed, **cost, **summary(run)}, indent=1) + "\n")
        aside.rename(self.result(arm, seed))

    def results(self, arm: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The finished results of an arm by seed."""
        return {seed: json.loads(self.result(arm, seed).read_text()) for seed in seeds if self.done(arm, seed)}


def spread(values: Sequence[float]) -> str:
    """Mean, and with several values the standard error of the mean."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    centre = mean(values)
    error = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1) / len(values))
    return f"{centre:.3f} ± {error:.3f}"


def table(plan: Plan, study: Study, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """The arms as a Markdown table: mean and standard error over the seeds that have a result."""
    lines = [
        "| arm | seeds | held-out pass@1, start | end | by seed | gain over the start, paired "
        f"| lead over `{study.against}`, paired | common problems, end | stuck before → after, first steps | last steps "
        "| CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    reference = {seed: end(row) for seed, row in plan.results(study.against, seeds).items()}
    for arm in arms:
        found = plan.results(arm, seeds)
        if not found:
            continue
        rows = list(found.values())
        paired = [end(row) - reference[seed] for seed, row in found.items() if seed in reference]
        stuck = ["-", "-"]
        if "stuck_before" in rows[0]:
            stuck = [
                f"{mean([row['stuck_before'][at] for row in rows]):.2f} → {mean([row['stuck_after'][at] for row in rows]):.2f}"
                for at in (0, 1)
            ]
        moved = ARMS[arm].from_sft
        cells = [
            f"**{arm}**",
            str(len(rows)),
            spread([start(row) for row in rows]) if moved else "-",
            spread([end(row) for row in rows]),
            " ".join(f"{end(row):.2f}" for row in rows),
            spread([end(row) - start(row) for row in rows]) if moved else "-",
            spread(paired) if moved and arm != study.against else "-",
            spread([row["common"] for row in rows]),
            *stuck,
            *(f"{mean([row[key] for row in rows]):.0f}" for key in ("cpu_s", "memory_mb")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def start(row: dict[str, Any]) -> float:
    """Held-out pass@1 before training."""
    return float(row["heldout"][0][1])


def end(row: dict[str, Any]) -> float:
    """Held-out pass@1 after training."""
    return float(row["heldout"][-1][1])


def write_between_markers(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of this name."""
    begin, finish = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(finish)
    page.write_text(f"{before}{begin}\n{text}\n{finish}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("--studies", default="main", help="comma-separated, or all: " + ", ".join(STUDIES))
    parser.add_argument("--arms", help="only these of the studies' arms, comma-separated")
    parser.add_argument("--seeds", help="comma-separated integers (default: each study's own)")
    parser.add_argument("--steps", type=int, help="RL steps of an arm (default: the preset's)")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "evidence", help="where runs are kept")
    parser.add_argument("--results", type=Path, help="where results are kept (default: beside the runs)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    parser.add_argument("--report", type=Path, help="write an HTML report of the first seed's RL arms here")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    options, overrides = parser.parse_known_args()
    names = options.studies.split(",")
    if names == ["all"]:
        names = [name for name, study in STUDIES.items() if not study.gpu]
    if unknown := set(names) - set(STUDIES):
        parser.error(f"no study named {', '.join(sorted(unknown))}. Studies: {', '.join(STUDIES)}")
    large = [name for name in names if STUDIES[name].gpu]
    if large and "--device" not in overrides and not torch.cuda.is_available():
        parser.error(
            f"{', '.join(large)} would take days without a GPU, and torch sees none here. "
            "To try it out, name --device cpu and smaller sizes, such as --model.width 32 --sft.steps 2 --steps 2."
        )
    wanted = options.arms.split(",") if options.arms else [arm for name in names for arm in STUDIES[name].arms]
    if unknown := set(wanted) - {arm for name in names for arm in STUDIES[name].arms}:
        parser.error(f"no arm named {', '.join(sorted(unknown))} in {', '.join(names)}")
    own = [int(seed) for seed in options.seeds.split(",")] if options.seeds else None
    chosen = {
        name: ([arm for arm in STUDIES[name].arms if arm in wanted], own or list(STUDIES[name].seeds)) for name in names
    }
    plan = Plan(options.folder, options.results or options.folder / "results", options.preset, options.steps, overrides)

    started = time.perf_counter()
    pairs = list(dict.fromkeys((seed, arm) for arms, seeds in chosen.values() for seed in seeds for arm in arms))
    pairs.sort(key=lambda pair: pair[0])  # stable: one seed after the other, in each the order of the studies
    with ThreadPoolExecutor(options.jobs) as pool:
        seeds = dict.fromkeys(seed for seed, _ in pairs)
        for _ in pool.map(lambda seed: plan.start([arm for at, arm in pairs if at == seed], seed), seeds):
            pass
        left = [(seed, arm) for seed, arm in pairs if not plan.done(arm, seed)]
        for (seed, arm), _ in zip(left, pool.map(lambda pair: plan.train(pair[1], pair[0]), left), strict=True):
            print(f"[{time.perf_counter() - started:5.0f} s] seed {seed}: {arm:12} {ARMS[arm].about}", flush=True)

    for name, (arms, seeds) in chosen.items():
        text = table(plan, STUDIES[name], arms, seeds)
        print(f"\n{STUDIES[name].about}\n\n{text}")
        if options.page:
            write_between_markers(options.page, name, f"Seeds {', '.join(map(str, seeds))}.\n\n{text}")
            print(f"\nwritten to {options.page}")
    if options.report:
        arms, seeds = chosen[names[0]]
        shown = [str(plan.run(arm, seeds[0])) for arm in arms if ARMS[arm].from_sft and "sft" not in arm]
        igpo(plan.folder / "logs" / "report.txt", "report", *shown, "--out", str(options.report))
        print(f"\nreport: {options.report}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{time.perf_counter() - started:.0f} s in all, at most {peak:.0f} MB a run")


if __name__ == "__main__":
    main()
