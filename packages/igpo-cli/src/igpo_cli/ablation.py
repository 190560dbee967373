"""The runs of a study: planned, started as processes of their own, taken up again, and measured against each other.

What arms have in common before reinforcement learning is done once a seed: they start from the model of one run. A run
is finished if its folder says so, wherever it was trained; the same command does what is left.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import tomli_w
from attrs import evolve, frozen

from igpo_cli import comparison, history, runs
from igpo_cli.config import SECTIONS, SHARED, algorithm
from igpo_cli.errors import UsageError
from igpo_cli.options import options
from igpo_cli.plugins import KINDS
from igpo_cli.report.arms import Arm as Run
from igpo_cli.report.arms import flatten, read_arm
from igpo_cli.studies import Study

START = "start"
"""The run whose model the arms of a seed start from."""
LATER = {
    *("name", "folder", "steps", "split", "limit", "shuffle", "evaluate_every", "save_every", "keep", "rollouts_every"),
    *("trackers", "eval", "play_rows", "best", "grace"),
}
"""Top-level keys that nothing depends on before reinforcement learning; so do IGPO's own and most kinds of plug-in."""
HARMLESS = ("trackers", "play_rows", "keep", "best", "grace", "save_every", "rollouts_every")
"""Options in which runs of one study may differ: they change no result."""
BEFORE = ("model", "task")
"""The kinds that SFT has to do with."""


# Planning --------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Job:
    """One run."""

    name: str
    arm: str
    seed: int
    values: Mapping[str, Any]
    """Complete, as in its run.toml."""
    start: str | None = None
    """The run whose model it starts from."""


def plan(study: Study, values: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], folder: Path) -> list[Job]:
    """All runs, one seed after the other, each behind the run that it starts from. `values` by arm, and by START."""
    jobs = []
    for seed in seeds:
        own = [_job(arm.label, seed, values[arm.label], folder) for arm in study.arms]
        if study.start is not None:
            first = _job(START, seed, values[START], folder)
            jobs.append(first)
            own = [_from(job, first, folder, sft=True) for job in own]
        jobs += shared(own, folder)
    return jobs


def _job(arm: str, seed: int, values: Mapping[str, Any], folder: Path) -> Job:
    name = re.sub(r"[^\w.=+-]+", "_", arm) + f"-{seed}"
    return Job(
        name=name,
        arm=arm,
        seed=seed,
        values={**copy.deepcopy(dict(values)), "seed": seed, "name": name, "folder": str(folder)},
    )


def _from(job: Job, first: Job, folder: Path, *, sft: bool) -> Job:
    """The run, starting from the model of the first one; without `sft` that did its SFT too."""
    model = {**job.values["model"], "path": str(folder / first.name / "model")}
    phase = job.values["sft"] if sft else {**job.values["sft"], "steps": 0}
    return evolve(job, values={**job.values, "model": model, "sft": phase}, start=first.name)


def shared(jobs: Sequence[Job], folder: Path) -> Iterator[Job]:
    """Runs of one seed: where several have the same SFT before them, one does it, and comes first."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        alone = not job.values["sft"]["steps"] or "path" not in job.values["model"]
        groups.setdefault(job.name if alone else json.dumps(before(job.values), sort_keys=True), []).append(job)
    taken: dict[str, Job] = {}
    for number, group in enumerate(group for group in groups.values() if len(group) > 1):
        whole = next((job for job in group if not job.values["steps"]), None)
        first = whole or _start_of(group[0], f"sft{number or ''}", folder)
        yield first
        taken |= {job.name: first for job in group}
    for job in jobs:
        start = taken.get(job.name)
        if start is None:
            yield job
        elif start.name != job.name:
            yield _from(job, start, folder, sft=False)


def _start_of(job: Job, label: str, folder: Path) -> Job:
    """A run that ends where reinforcement learning would begin. Its evaluations stay, since a new model's words come from
    all tasks, but ask next to nothing."""
    tables = {
        name: {**table, "limit": 1, "samples": 1, "pass_at": []} for name, table in job.values.get("eval", {}).items()
    }
    first = _job(label, job.seed, {**job.values, "steps": 0, "eval": tables}, folder)
    return evolve(first, start=job.start)


def before(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is told that its SFT may depend on."""
    sft = values["sft"]
    later = LATER | set(options(algorithm())) - {"seed"} | {kind for kind in KINDS if kind not in BEFORE}
    own = {name for name in (*SECTIONS, *SHARED) if name in sft and name not in BEFORE}
    scopes = [values, sft, *values.get("eval", {}).values()]
    return {key: value for key, value in values.items() if key not in later | own} | {
        "tasks": [scope.get("task") for scope in scopes]
    }


# Running ---------------------------------------------------------------------------------------------------------------


def state(job: Job, folder: Path) -> str:
    """new, running, finished or interrupted; UsageError where the folder's run was told something else and came to a step."""
    run = folder / job.name
    if runs.last_step(run) is None and not runs.is_running(run):
        return "new"
    path = folder / "plans" / f"{job.name}.toml"
    old = flatten(tomllib.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    new = flatten(tomllib.loads(tomli_w.dumps(job.values)))
    # An option that only one of them has is of another version, or of another plug-in, whose name differs.
    if key := next((key for key in new if key in old and key not in HARMLESS and old[key] != new[key]), None):
        raise UsageError(
            f"{run} was made with {key} = {old[key]}, and not {new[key]}. Choose another --name for this study."
        )
    return history.read(run).state


def work(
    jobs: Sequence[Job], folder: Path, workers: int, say: Callable[[Job, str], None], flags: Sequence[str] = ()
) -> list[Job]:
    """Train what is not finished, `workers` runs at a time. -> the runs that failed, and those that start from them.

    `flags` of `igpo train` say how processes are launched.
    """
    states = {job.name: state(job, folder) for job in jobs}
    if busy := [name for name, found in states.items() if found == "running"]:
        raise UsageError(f"{folder / busy[0]} is being trained by another process. Wait for its end.")
    (folder / "plans").mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    futures: dict[str, Future[bool]] = {}

    def one(job: Job) -> bool:
        if job.start is not None and not futures[job.start].result():
            return False
        return train(job, folder, workers, processes, flags)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                if states[job.name] == "finished":
                    futures[job.name] = Future()
                    futures[job.name].set_result(True)
                else:
                    futures[job.name] = pool.submit(one, job)
            names = {futures[job.name]: job for job in jobs if states[job.name] != "finished"}
            for future in as_completed(names):
                say(names[future], "finished" if future.result() else why(names[future], folder, futures))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes.values()):
                process.send_signal(signal.SIGINT)
            raise
    return [job for job in jobs if not futures[job.name].result()]


def why(job: Job, folder: Path, futures: Mapping[str, Future[bool]]) -> str:
    """What is said of a run that failed: the last line of its log."""
    if job.start is not None and not futures[job.start].result():
        return f"left out, because {job.start} failed"
    lines = (folder / "logs" / f"{job.name}.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    return "failed: " + next((line for line in reversed(lines) if line.strip()), "it said nothing")


def train(
    job: Job, folder: Path, workers: int, processes: dict[str, subprocess.Popen[bytes]], flags: Sequence[str] = ()
) -> bool:
    """Run one to its end, from its last checkpoint if there is one; True if that went well."""
    run, path = folder / job.name, folder / "plans" / f"{job.name}.toml"
    path.write_text(tomli_w.dumps(job.values), encoding="utf-8")
    resumable = (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir())
    if run.is_dir() and not resumable:
        aside = next(place for n in range(1, 10_000) if not (place := folder / "cut" / f"{job.name}.{n}").exists())
        aside.parent.mkdir(exist_ok=True)
        run.rename(aside)
    words = ["--resume", str(run)] if resumable else [str(path)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    with (folder / "logs" / f"{job.name}.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "igpo_cli", "train", *words, *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**threads, **os.environ, "NO_COLOR": "1"},
            start_new_session=True,  # an interruption reaches it once, from here
        )
        processes[job.name] = process
        process.wait()
        del processes[job.name]
    return process.returncode == 0 and history.read(run).state == "finished"


# Results ---------------------------------------------------------------------------------------------------------------


def finished(study: Study, jobs: Sequence[Job], folder: Path) -> dict[str, dict[int, Run]]:
    """The finished runs of the arms, by arm and seed."""
    found: dict[str, dict[int, Run]] = {arm.label: {} for arm in study.arms}
    for job in jobs:
        run = folder / job.name
        if job.arm in found and run.is_dir() and history.read(run).state == "finished":
            found[job.arm][job.seed] = read_arm(run, job.name)
    return found


def write(study: Study, jobs: Sequence[Job], folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """manifest.json, results.json, table.md and plot.svg of what is finished; returns the results."""
    done = finished(study, jobs, folder)
    found = comparison.results(study, done)
    manifest = {
        "study": study.name,
        "question": study.question,
        "command": list(arguments),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arms": [{"arm": arm.label, "about": arm.about} for arm in study.arms],
        "runs": [
            {"run": job.name, "arm": job.arm, "seed": job.seed, "starts from": job.start, "state": state(job, folder)}
            for job in jobs
        ],
    }
    runs.write_json(folder / "manifest.json", manifest)
    runs.write_json(folder / "results.json", found)
    (folder / "table.md").write_text(comparison.markdown(found), encoding="utf-8")
    plot = folder / "plot.svg"
    if (picture := comparison.drawing(study, done)) is not None:
        plot.write_text(picture, encoding="utf-8")
    else:
        plot.unlink(missing_ok=True)  # that of runs that are no longer among them
    return found
