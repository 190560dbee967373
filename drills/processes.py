"""Two processes: one is killed, and checkpoints of one are read by two and back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from drills.runs import FEW, Row, far, finish, words

PATIENCE = 60.0


def drill(folder: Path) -> list[Row]:
    """All against one process that nothing interrupted, in float64: tokens equal, numbers to 1e-9."""
    straight = folder / "one"
    code = finish(words(straight, *FEW, "--keep", "9"), folder / "one.log")
    if code:
        return [
            Row("two processes", 1, f"the run in one process failed with code {code}; see {folder / 'one.log'}", False)
        ]
    return [each(folder, straight) for each in (killed, told, two_of_one, one_of_two)]


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


def begun(run: Path) -> subprocess.Popen[str]:
    """A run in two processes that has written a checkpoint of RL, or has ended before."""
    command = igpo(*words(run, *FEW), "--processes", "2")
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "igpo-2").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return command


def goes_on(run: Path, straight: Path, said: str) -> list[str]:
    """In what the run differs after two processes went on with it."""
    again = igpo("train", "--resume", str(run), "--processes", "2")
    run.with_suffix(".log").write_text(said + again.communicate(timeout=600)[0])
    return [f"exit code {again.returncode}"] if again.returncode else far(run, straight)


def killed(folder: Path, straight: Path) -> Row:
    """The other process ends in time and the command says what happened; then the run goes on."""
    command = begun(folder / "two")
    children = psutil.Process(command.pid).children(recursive=True)
    workers = [each for each in children if "igpo_cli" in " ".join(each.cmdline())]
    workers[-1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    said = command.communicate(timeout=2 * PATIENCE)[0]
    seconds = time.monotonic() - began
    left = [each.pid for each in workers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    (line,) = [line for line in said.splitlines() if "was ended by SIGKILL" in line] or [""]
    found = goes_on(folder / "two", straight, said)
    happened = (
        f"all ended after {seconds:.1f} s, code {command.returncode}, '{line[:49]}'; "
        f"differs after going on: {', '.join(found) or 'nothing'}"
    )
    passed = bool(command.returncode and line and not left and not found) and len(workers) == 2 and seconds < PATIENCE
    return Row("one of two processes killed", 1, happened, passed)


def told(folder: Path, straight: Path) -> Row:
    """SIGTERM to the command: both finish the step, one saves and says how to go on."""
    command = begun(folder / "told")
    command.send_signal(signal.SIGTERM)
    said = command.communicate(timeout=2 * PATIENCE)[0]
    (line,) = [line for line in said.splitlines() if line.startswith("stopped by SIGTERM after")] or [""]
    found = goes_on(folder / "told", straight, said)
    happened = f"code {command.returncode}, '{line[:38]}'; differs after going on: {', '.join(found) or 'nothing'}"
    return Row("SIGTERM to two processes", 1, happened, command.returncode == 143 and bool(line) and not found)


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
