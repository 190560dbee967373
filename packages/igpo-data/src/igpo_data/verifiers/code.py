"""Programs: whether what a completion writes passes the task's tests, run in a sandbox.

A reward of code is the one that models learn to cheat: by ending the process, redefining what the tests compare with, or
reading what they expect. Program and tests therefore never share an interpreter (`igpo_data.sandbox`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

from attrs import field, frozen, validators

from igpo_data.pool import share
from igpo_data.sandbox.executor import Executor, Limits, Run, UnavailableError
from igpo_data.sandbox.monty import InMonty
from igpo_data.sandbox.processes import Bubblewrap, Unprotected
from igpo_data.sandbox.suite import Suite, prepare
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 65_536
# Characters of a program.
FENCE = re.compile(r"^[ \t]*(?:```|~~~)")
START = re.compile(r"^(?:(?:def|class|async def|import|from)\b|@)", re.MULTILINE)


@frozen(kw_only=True)
class Program:
    """The program that the completion writes must pass the task's tests, in a sandbox.

    Read from `task.meta`: `tests` (asserts or a `check(candidate)`), `entry_point` (the function tested), `prefix` (code
    that the completion goes on from). The tests run apart from the program and see plain data only.
    """

    timeout: float = field(default=5.0, validator=validators.gt(0.0))
    """Seconds for one program with its tests. Beyond them the verdict is wrong, with the note "timeout"."""
    memory: int = field(default=512, validator=validators.ge(64))
    """Memory limit of a program in MiB."""
    workers: int = field(default=4, validator=validators.ge(1))
    """Programs that run side by side on a machine; the processes of a job share them."""
    sandbox: Literal["auto", "monty", "bubblewrap"] = "auto"
    """auto: monty, and bubblewrap for what monty lacks. Or one of them alone."""
    unsafe: bool = False
    """Where no sandbox can run a program, run it in a plain process with all rights of this user."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order; different programs run side by side, identical ones once.

        Notes: no-answer (no program), unverifiable (no tests, or no sandbox that could run it), too-long, timeout, memory,
        error (it raised something).
        """
        jobs = [self._job(completion, task) for completion, task in pairs]
        wanted = list(dict.fromkeys(job for job in jobs if not isinstance(job, Verdict)))
        with ThreadPoolExecutor(min(share(self.workers), len(wanted) or 1)) as threads:
            verdicts = dict(zip(wanted, threads.map(self._judge, wanted), strict=True))
        return [job if isinstance(job, Verdict) else verdicts[job] for job in jobs]

    def close(self) -> None:
        """Ends processes that are kept warm; the next program starts new ones."""
        for executor in self._executors():
            executor.close()

    def _job(self, completion: str, task: Task) -> tuple[str, Suite] | Verdict:
        """A program and its tests, or the verdict where one of them is missing."""
        entry_point, prefix = task.meta.get("entry_point"), task.meta.get("prefix") or ""
        suite = _suite(task.meta.get("tests") or "", entry_point, prefix)
        if suite is None:
            return _wrong(None, "unverifiable")
        program = extract_program(completion, entry_point, prefix)
        if program is None:
            return _wrong(None, "no-answer")
        if len(program) > LONGEST:
            return _wrong(None, "too-long")
        if not program.isascii() and any("\ud800" <= letter <= "\udfff" for letter in program):
            return _wrong(None, "error")  # Half a character: no interpreter would read it.
        return program, suite

    def _judge(self, job: tuple[str, Suite]) -> Verdict:
        program, suite = job
        faults = []
        for executor in self._executors():
            try:
                run = executor.run(program, suite)
            except UnavailableError as fault:
                faults.append(str(fault))
                continue
            if run.outcome != "unsupported":
                return _verdict(program, run)
        if faults:
            warnings.warn(
                f"programs that no sandbox here can run count as unverifiable: {'; '.join(faults)}. "
                "--verifier.unsafe runs them unprotected.",
                RuntimeWarning,
                stacklevel=2,
            )
        return _wrong(program, "unverifiable")

    def _executors(self) -> list[Executor]:
        limits = Limits(seconds=self.timeout, memory=self.memory)
        every: dict[str, Executor] = {
            "monty": InMonty(limits=limits, workers=share(self.workers)),
            "bubblewrap": Bubblewrap(limits=limits),
        }
        chosen = [executor for name, executor in every.items() if self.sandbox in ("auto", name)]
        return [*chosen, Unprotected(limits=limits)] if self.unsafe else chosen


def extract_program(completion: str, entry_point: str | None = None, prefix: str = "") -> str | None:
    """The program of a completion, `prefix` before it; None where it writes none.

    The last fenced block that defines the entry point, or else the last block, or else the text from its first line of
    code on. Where nothing defines the entry point, the text goes on from the prefix.
    """
    before, blocks = _fenced(completion)
    root = re.match(r"\w+", entry_point or "")
    defining = re.compile(
        rf"^[ \t]*(?:async )?(?:def|class)[ \t]+{root[0]}\b" if root else r"^(?:def|class)\b", re.MULTILINE
    )
    # Without an opening fence the text before the closing one is the program, if the prompt ended in a fence.
    candidates = [text for text in (before, *blocks) if text.strip()]
    defined = [text for text in candidates if defining.search(text)]
    if not candidates:
        return None
    code = (defined or candidates)[-1]
    if code == before and defined and (start := START.search(code)):
        code = code[start.start() :]
    if not prefix:
        return code
    if defined:
        return f"{prefix}\n{code}"
    return f"{prefix.rstrip()}\n{_body(code)}"


def _fenced(text: str) -> tuple[str, list[str]]:
    """The text before the first fence, and what stands between fences; the last block may lack its end."""
    before: list[str] = []
    blocks: list[list[str]] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if FENCE.match(line):
            inside = not inside
            if inside:
                blocks.append([])
        elif inside:
            blocks[-1].append(line)
        elif not blocks:
            before.append(line)
    return "".join(before), ["".join(block) for block in blocks]


def _body(code: str) -> str:
    """The lines of a function's body, indented; models often leave out the first line's spaces."""
    lines = code.strip("\n").splitlines()
    if lines[0][:1] in (" ", "\t"):
        return "\n".join(lines)
    if any(line[:1] not in (" ", "\t", "") for line in lines[1:]):
        return "\n".join("    " + line for line in lines)
    return "\n".join(["    " + lines[0], *lines[1:]])


@lru_cache(maxsize=4096)
def _suite(tests: str, entry_point: str | None, prefix: str) -> Suite | None:
    """The tests made ready, or None where they test nothing."""
    try:
        return prepare(tests, entry_point, prefix)
    except ValueError:
        return None


def _verdict(program: str, run: Run) -> Verdict:
    if run.outcome == "passed":
        return Verdict(reward=1.0, correct=True, answer=program)
    if run.outcome == "timeout" or run.note == "memory":
        return _wrong(program, "timeout" if run.outcome == "timeout" else "memory")
    return _wrong(program, "" if run.note.startswith("AssertionError") else "error")


def _wrong(answer: str | None, note: str) -> Verdict:
    return Verdict(reward=0.0, correct=False, answer=answer, note=note)
