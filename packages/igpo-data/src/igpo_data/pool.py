"""Killable worker processes for checks that may hang or eat memory.

Plain child processes with pipes rather than multiprocessing: that would import the caller's main script again in every
worker (and run it where it is unguarded), and a fork is unsafe in a process that holds a GPU or threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from queue import LifoQueue
from typing import Literal, cast, get_args

Outcome = Literal["equal", "different", "timeout", "memory", "error"]
START_SECONDS = 120.0
# For the imports of a new worker on a busy machine.
PATIENCE = 20.0
# Wall-clock seconds per second of processor time, for a worker that waits instead of computing.
BATCH = 16
# Pairs for which another worker is started.
REMEMBERED = 16_384
# Pairs whose outcome is kept.


class Pool:
    """At most `workers` processes, started when they are needed, each check limited to `seconds` of processor time."""

    def __init__(self, workers: int, seconds: float, memory: int) -> None:
        self._workers = [Worker(seconds, memory) for _ in range(workers)]
        self._idle: LifoQueue[Worker] = LifoQueue()  # The one that was used last is warm.
        for worker in self._workers:
            self._idle.put(worker)
        self._known: dict[tuple[str, str], Outcome] = {}

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Are these (gold, given) pairs of LaTeX strings equal? A pair that was settled before is not asked again."""
        new = list({pair: None for pair in pairs if pair not in self._known})
        # Starting a worker takes as long as a hundred checks.
        with ThreadPoolExecutor(min(1 + len(new) // BATCH, len(self._workers))) as threads:
            asked = dict(zip(new, threads.map(self._ask, new), strict=True))
        outcomes = [asked.get(pair) or self._known[pair] for pair in pairs]
        if len(self._known) + len(asked) > REMEMBERED:
            self._known.clear()
        self._known |= {pair: outcome for pair, outcome in asked.items() if outcome in ("equal", "different")}
        return outcomes

    def close(self) -> None:
        """Ends the processes; the next check starts new ones."""
        for worker in self._workers:
            worker.close()

    def _ask(self, pair: tuple[str, str]) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.ask(*pair)
        finally:
            self._idle.put(worker)


@lru_cache(maxsize=8)
def shared_pool(workers: int, seconds: float, memory: int) -> Pool:
    """One pool for all verifiers of a process that ask for the same limits."""
    return Pool(workers, seconds, memory)


class Worker:
    """One child process that runs `worker.py`; started when it is first asked, and again where it had to be killed."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory = seconds, memory
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, gold: str, given: str) -> Outcome:
        """One check. The worker sees to its limits itself; the clock here is for one that does not answer at all."""
        try:
            word = _exchange(self._running(), json.dumps([gold, given]), self.seconds * PATIENCE)
        except BaseException:
            self.close()  # Its reply may still come, and would be taken for the next one's.
            raise
        if word in get_args(Outcome):
            return cast(Outcome, word)
        self.close()
        return "timeout"

    def close(self) -> None:
        """Ends the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            _kill(process)
            process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.close()  # One that was inherited through a fork is only forgotten.
        self._process, self._owner = _start(self.seconds, self.memory), os.getpid()
        return self._process


def _start(seconds: float, memory: int) -> subprocess.Popen[str]:
    """A new worker that has imported what it needs, in a process group of its own."""
    process = subprocess.Popen(
        # -P: the folder of worker.py must not come before the standard library.
        [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(seconds), str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    word = _exchange(process, "", START_SECONDS)
    if word != "ready":
        _kill(process)
        process.communicate()
        raise RuntimeError(
            f"the math verifier's worker did not start ({word or f'exit code {process.returncode}'}); "
            "is 'math-verify[antlr4_13_2]' installed in this environment?"
        )
    return process


def _exchange(process: subprocess.Popen[str], question: str, seconds: float) -> str:
    """Sends a line (unless it is empty) and returns the answered one; "" where the worker died or had to be killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    clock = threading.Timer(seconds, _kill, [process])
    clock.start()
    try:
        if question:
            print(question, file=process.stdin, flush=True)
        return process.stdout.readline().strip()
    except BrokenPipeError:
        return ""
    finally:
        clock.cancel()


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a worker and the child that answers for it."""
    if sys.platform == "win32":
        process.kill()
    elif process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
