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
from hashlib import blake2b
from pathlib import Path
from queue import LifoQueue
from typing import Any, Literal

from attrs import frozen

Job = Literal["algebra", "search", "score"]
START_SECONDS = 120.0
# For the imports of a new worker on a busy machine.
PATIENCE = 20.0
# Wall-clock seconds per second of processor time, for a worker that waits instead of computing.
BATCH = 16
# Questions for which another worker is started.
REMEMBERED = 16_384
# Questions whose reply is kept.


@frozen
class Reply:
    """What came of one check: a value, or the reason why there is none."""

    value: Any = None
    note: str = ""
    """timeout, memory, error, or empty."""


class Pool:
    """At most `workers` processes, started when they are needed, each check limited to `seconds` of processor time."""

    def __init__(self, job: Job, workers: int, seconds: float, memory: int) -> None:
        self._workers = [Worker(job, seconds, memory) for _ in range(workers)]
        self._idle: LifoQueue[Worker] = LifoQueue()  # The one that was used last is warm.
        for worker in self._workers:
            self._idle.put(worker)
        self._known: dict[bytes, Reply] = {}

    def check(self, questions: Sequence[tuple[str, ...]]) -> list[Reply]:
        """The job's replies to these arguments, in order. A question that was settled before is not asked again."""
        lines = [json.dumps(question) for question in questions]
        keys = [blake2b(line.encode(), digest_size=16).digest() for line in lines]
        new = {key: line for key, line in zip(keys, lines, strict=True) if key not in self._known}
        asked: dict[bytes, Reply] = {}
        if new:  # Starting a worker takes as long as a hundred checks.
            with ThreadPoolExecutor(min(1 + len(new) // BATCH, len(self._workers))) as threads:
                asked = dict(zip(new, threads.map(self._ask, new.values()), strict=True))
        replies = [asked.get(key) or self._known[key] for key in keys]
        if len(self._known) + len(asked) > REMEMBERED:
            self._known.clear()
        self._known |= {key: reply for key, reply in asked.items() if not reply.note}
        return replies

    def close(self) -> None:
        """Ends the processes; the next check starts new ones."""
        for worker in self._workers:
            worker.close()

    def _ask(self, line: str) -> Reply:
        worker = self._idle.get()
        try:
            return worker.ask(line)
        finally:
            self._idle.put(worker)


@lru_cache(maxsize=16)
def shared_pool(job: Job, workers: int, seconds: float, memory: int) -> Pool:
    """One pool for all verifiers of a process that ask for the same job and limits."""
    return Pool(job, share(workers), seconds, memory)


def share(workers: int) -> int:
    """This process's part of a machine's worker processes, at least one: torch's launcher starts several on a machine."""
    return max(1, workers // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Worker:
    """One child process that runs `worker.py`; started when it is first asked, and again where it had to be killed."""

    def __init__(self, job: Job, seconds: float, memory: int) -> None:
        self.job, self.seconds, self.memory = job, seconds, memory
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, line: str) -> Reply:
        """One check. The worker sees to its limits itself; the clock here is for one that does not answer at all.

        A worker that somebody else ended is replaced and asked once more.
        """
        for _ in range(2):
            try:
                word = _exchange(self._running(), line, self.seconds * PATIENCE)
            except BaseException:
                self.close()  # Its reply may still come, and would be taken for the next one's.
                raise
            if word is not None and word.startswith("{"):
                return Reply(**json.loads(word))
            self.close()
            if word is None:
                return Reply(note="timeout")
        return Reply(note="error")

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
        self._process, self._owner = _start(self.job, self.seconds, self.memory), os.getpid()
        return self._process


def _start(job: Job, seconds: float, memory: int) -> subprocess.Popen[str]:
    """A new worker that has imported what it needs, in a process group of its own."""
    process = subprocess.Popen(
        # -P: the folder of worker.py must not come before the standard library.
        [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), job, str(seconds), str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # The threads of numpy's BLAS reserve address space, which is what is limited.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    word = _exchange(process, "", START_SECONDS)
    if word != "ready":
        _kill(process)
        process.communicate()
        raise RuntimeError(
            f"a verifier's worker ({job}) did not start ({word or f'exit code {process.returncode}'}); "
            "are the dependencies of igpo-data installed in this environment?"
        )
    return process


def _exchange(process: subprocess.Popen[str], question: str, seconds: float) -> str | None:
    """Sends a line (unless it is empty) and returns the answered one; "" where the worker died, None past the time."""
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    clock = threading.Timer(seconds, stop)
    clock.start()
    try:
        if question:
            print(question, file=process.stdin, flush=True)
        word = process.stdout.readline().strip()
    except BrokenPipeError:
        word = ""
    finally:
        clock.cancel()
    return None if late.is_set() else word


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a worker and the child that answers for it."""
    if sys.platform == "win32":
        process.kill()
    elif process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
