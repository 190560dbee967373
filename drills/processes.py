"""Two processes: one is killed, and checkpoints of one are read by two and back."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from drills.runs import Row, finish, metrics, words

FEW = ("--sft.steps", "4", "--steps", "6", "--dtype", "float64", "--evaluate-every", "3", "--rollouts-every", "1")
PATIENCE = 60.0


def drill(folder: Path) -> list[Row]:
    """All against one process that nothing interrupted, in float64: tokens equal, numbers to 1e-9."""
    straight = folder / "one"
    code = finish(words(straight, *FEW, "--keep", "9"), folder / "one.log")
    if code:
        return [
            Row("two processes", 1, f"the run in one process failed with code {code}; see {folder / 'one.log'}", False)
        ]
    return [killed(folder, straight), two_of_one(folder, straight), one_of_two(folder, straight)]


def igpo(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "igpo_cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def cut(run: Path, newest: str) -> None:
    """As if the run had ended right after this checkpoint."""
    shutil.rmtree(run / "model", ignore_errors=True)
    number = int(newest.rpartition("-")[2])
    for path in (run / "checkpoints").glob("igpo-*"):
        if int(path.name.rpartition("-")[2]) > number:
            shutil.rmtree(path)


def far(run: Path, straight: Path) -> list[str]:
    """In what the runs differ by more than the order in which numbers are added up."""
    found = []
    ours, theirs = metrics(run), metrics(straight)
    if len(ours) != len(theirs):
        return [f"{len(ours)} rows of metrics instead of {len(theirs)}"]
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() | other.keys():
            a, b = one.get(name), other.get(name)
            same = (
                math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
                if isinstance(a, float) and isinstance(b, float)
                else a == b
            )
            found += [] if same else [f"{one['phase']} {one['step']} {name}: {a} and {b}"]
    for path in sorted(straight.glob("rollouts/*.jsonl")):
        rows = [
            [json.loads(line) for line in (each / "rollouts" / path.name).read_text().splitlines()]
            for each in (run, straight)
        ]
        if [row["tokens"] for row in rows[0]] != [row["tokens"] for row in rows[1]]:
            found.append(f"tokens of {path.name}")
    return found[:3]


def killed(folder: Path, straight: Path) -> Row:
    """The other process ends in time and the command says what happened; then the run goes on."""
    run = folder / "two"
    command = igpo(*words(run, *FEW), "--processes", "2")
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "igpo-2").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [
        each for each in psutil.Process(command.pid).children(recursive=True) if "igpo_cli" in " ".join(each.cmdline())
    ]
    workers[-1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    said = command.communicate(timeout=2 * PATIENCE)[0]
    seconds = time.monotonic() - began
    left = [each.pid for each in workers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    (line,) = [line for line in said.splitlines() if "was ended by SIGKILL" in line] or [""]
    again = igpo("train", "--resume", str(run), "--processes", "2")
    said += again.communicate(timeout=600)[0]
    (folder / "two.log").write_text(said)
    found = [f"exit code {again.returncode}"] if again.returncode else far(run, straight)
    happened = f"all ended after {seconds:.1f} s, code {command.returncode}: {line[:90]}; differs after going on: {', '.join(found) or 'nothing'}"
    passed = bool(command.returncode and line and not left and not found) and len(workers) == 2 and seconds < PATIENCE
    return Row("one of two processes killed", 1, happened, passed)


def two_of_one(folder: Path, straight: Path) -> Row:
    """Two processes go on from a checkpoint of one."""
    run = folder / "two-of-one"
    shutil.copytree(straight, run)
    cut(run, "igpo-2")
    ended = igpo("train", "--resume", str(run), "--processes", "2")
    (folder / "two-of-one.log").write_text(ended.communicate(timeout=600)[0])
    found = [f"exit code {ended.returncode}"] if ended.returncode else far(run, straight)
    return Row("checkpoint of 1 read by 2", 1, f"differs: {', '.join(found) or 'nothing'}", not found)


def one_of_two(folder: Path, straight: Path) -> Row:
    """One process goes on from a checkpoint of two."""
    run = folder / "one-of-two"
    shutil.copytree(folder / "two", run)
    cut(run, "igpo-4")
    code = finish(["train", "--resume", str(run)], folder / "one-of-two.log")
    found = [f"exit code {code}"] if code else far(run, straight)
    return Row("checkpoint of 2 read by 1", 1, f"differs: {', '.join(found) or 'nothing'}", not found)
