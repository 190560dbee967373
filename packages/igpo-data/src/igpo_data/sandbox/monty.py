"""The back end of choice: monty, a Python interpreter without system calls, in worker processes that are kept warm.

It lacks parts of Python (inheritance, `yield`, many modules) and says so, and makes lists of what `map` or `zip` return;
both end as "unsupported", for another back end to decide.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from igpo_data.sandbox.executor import Limits, Run, UnavailableError
from igpo_data.sandbox.suite import Suite

if TYPE_CHECKING:
    from pydantic_monty import Monty, MontyError, MontySession

KINDS = """
def _kinds(value, type=type, str=str, len=len, list=list, tuple=tuple, set=set, frozenset=frozenset, dict=dict):
    strange, left, size = [], [value], 0
    while left:
        part = left.pop()
        kind = type(part)
        if kind in (list, tuple, set, frozenset):
            size += len(part)
            left.extend(part)
        elif kind == dict or str(kind) in ("<class 'collections.Counter'>", "<class 'collections.defaultdict'>"):
            size += len(part)
            left.extend(part.keys())
            left.extend(part.values())
        elif kind in (str, bytes):
            size += len(part) // 20
        elif str(kind)[8:-2] not in ("NoneType", "bool", "int", "float", "complex"):
            strange.append(str(kind)[8:-2])
        if size > 200_000:
            raise MemoryError("memory limit exceeded by what the function returns")
    return strange
"""
# Runs inside: monty turns what it has no counterpart for into text or a list.
RUNS = 1000
# After so many a worker process is replaced, so that it does not keep what the largest program took.
CONSUMERS = (
    "list( tuple( set( frozenset( dict( sum( min( max( sorted( any( all( join( Counter( deque( extend( update( "
    "enumerate( zip( map( filter("
)
LAZY = re.compile(
    r"(?<!in )(?<!\*)"
    + "".join(rf"(?<!{re.escape(word)})" for word in CONSUMERS.split())
    + r"\b(?:map|filter|zip|enumerate|reversed|finditer)\("
    r"|(?:return|=)[ \t]*+\((?=[^\n]{0,300}\bfor\b)"
)
# An iterator that is not used up where it is made: a list in its place could make a difference.
MISSING = re.compile(
    r"name '(?P<name>\w+)' is not defined"
    r"|module '(?P<module>[\w.]+)' has no attribute"
    r"|No module named '(?P<absent>\w+)"
    r"|cannot import name '\w+' from '(?P<part>[\w.]+)'"
    r"|'(?P<kind>[\w.]+)' object has no attribute '(?P<attribute>\w+)'"
)
WORDS = (
    "monty",  # "The monty syntax parser does not yet support yield expressions"
    "cannot suspend",  # A call of the program inside map or as a sort key.
    "not supported in this environment",
    "invalid return type",
)
# In the message of an exception that says what is missing.
ARGUMENTS = re.compile(r"^(?P<function>\w+)\(\) (?:got|takes|expected|does not)|argument")


@frozen(kw_only=True)
class InMonty:
    """pydantic-monty: no files, network, processes or environment, because the interpreter has none to give."""

    limits: Limits = field(factory=Limits)
    workers: int = 4
    """Runs at a time; each takes two processes, which are started when they are needed."""

    def run(self, program: str, tests: Suite) -> Run:
        """As `Executor.run`; UnavailableError where pydantic-monty is not installed."""
        pool = _pool(self.workers)
        workers = pool.workers()
        limits: Any = {
            "max_feed_duration_secs": self.limits.seconds,
            "max_total_sleep_secs": self.limits.seconds,
            "max_memory": self.limits.memory << 20,
            "max_suspensions": 10**6,
        }
        # With an upper bound a long sleep would hold the worker that long; without one it is refused at once.
        policy: Any = {"sleep": "system", "sleep_system_max": float("inf")}
        with (
            pool.slots,
            workers.checkout(limits=limits, os_policy=policy) as answering,
            workers.checkout(limits=limits, os_policy=policy) as asking,
        ):
            return _run(answering, asking, program, tests, self.limits.seconds)

    def close(self) -> None:
        """Ends the worker processes."""
        _pool(self.workers).close()


def _run(answering: MontySession, asking: MontySession, program: str, tests: Suite, seconds: float) -> Run:
    """One run in two sessions."""
    from pydantic_monty import MontyError

    end = time.monotonic() + seconds
    count = 0
    final: Run | None = None
    # Set where the tests must not go on, whatever they catch.

    def stand_in(expression: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count, final
            count += 1
            if final is None and time.monotonic() > end:
                final = Run("timeout")
            if final is not None:
                raise RuntimeError(final.outcome)
            try:
                strange, value = answering.feed_run(
                    f"_value = ({expression})(*_arguments, **_named)\n(_kinds(_value), _value)",
                    inputs={"_arguments": arguments, "_named": named},
                    print_callback=_ignore,
                )
            except MontyError as error:
                run = _ended(error, program)
                if run.outcome != "failed":
                    final = run
                cause = error.exception()
                raise (cause if isinstance(cause, Exception) else RuntimeError(run.note)) from None
            if strange:
                final = Run("unsupported", f"monty has no counterpart for a {strange[0]}")
            return value

        return call

    try:
        answering.feed_run(KINDS, print_callback=_ignore)
        answering.feed_run(program, print_callback=_ignore)
        asking.feed_run(
            tests.source,
            external_lookup={name: stand_in(expression) for name, expression in tests.calls},
            print_callback=_ignore,
        )
    except MontyError as error:
        return final or _ended(error, program)
    if final is not None:
        return final
    if not count:
        return Run("unsupported", "the tests never called the program")
    return Run("unsupported", "monty makes lists of map and zip") if LAZY.search(program) else Run("passed")


def _ignore(stream: str, text: str) -> None:
    """What is printed is thrown away, so there is no bound to it."""


def _ended(error: MontyError, program: str) -> Run:
    """What an error of monty says of the run."""
    from pydantic_monty import MontyConversionError, MontyCrashedError, MontySyntaxError

    if isinstance(error, MontyCrashedError):
        return Run("timeout") if error.timed_out else Run("failed", "the interpreter crashed")
    cause, message = error.exception(), str(error.exception())
    note = f"{type(cause).__name__}: {message}"[:200]
    if isinstance(error, MontySyntaxError):
        return Run("failed", note)
    if isinstance(cause, TimeoutError) and "limit exceeded" in message:
        return Run("timeout")
    if isinstance(cause, MemoryError):
        return Run("failed", "memory")
    lacks = isinstance(error, MontyConversionError) or isinstance(cause, PermissionError)
    lacks |= isinstance(cause, NotImplementedError | RuntimeError) and any(word in message for word in WORDS)
    lacks |= isinstance(cause, NameError | AttributeError | ImportError) and _missing(message, program)
    lacks |= isinstance(cause, TypeError) and _refused(message, program)
    return Run("unsupported" if lacks else "failed", note)


def _missing(message: str, program: str) -> bool:
    """Is what an error calls missing there in Python?"""
    found = MISSING.search(message)
    if found is None:
        return False
    if name := found["name"]:
        return hasattr(builtins, name)
    if module := found["module"] or found["absent"] or found["part"]:
        return module.partition(".")[0] in sys.stdlib_module_names
    kind = vars(builtins).get(found["kind"])
    if isinstance(kind, type):
        return hasattr(kind, found["attribute"])
    return not re.search(rf"\bclass {re.escape(found['kind'])}\b", program)


def _refused(message: str, program: str) -> bool:
    """Does an error complain of the arguments of a function that is not the program's own?"""
    found = ARGUMENTS.search(message)
    return found is not None and not (
        found["function"] and re.search(rf"\bdef {re.escape(found['function'])}\b", program)
    )


class Pool:
    """Worker processes, started when they are first asked for; a worker that overruns its limits by a second is killed."""

    owner: int | None = None
    # The process that first started any: monty's threads do not survive a fork, and its calls would wait for ever.

    def __init__(self, size: int) -> None:
        self.size = size
        # Or runs that hold one process would wait for each other's second.
        self.slots = threading.Semaphore(size)
        self._workers: Monty | None = None
        self._lock = threading.Lock()

    def workers(self) -> Monty:
        """The running pool."""
        if Pool.owner not in (None, os.getpid()):
            raise UnavailableError(
                "this process was forked from one that had used monty; start it anew instead (spawn)"
            )
        with self._lock:
            if self._workers is None:
                try:
                    from pydantic_monty import Monty
                except ModuleNotFoundError as error:
                    raise UnavailableError("pydantic-monty is not installed (pip install 'igpo-data[code]')") from error
                self._workers = Monty(max_processes=2 * self.size, max_checkouts_per_worker=RUNS)
                self._workers.__enter__()
                Pool.owner = os.getpid()
            return self._workers

    def close(self) -> None:
        """Ends the processes."""
        if Pool.owner == os.getpid():
            with self._lock:
                workers, self._workers = self._workers, None
            if workers is not None:
                workers.__exit__(None, None, None)


@lru_cache(maxsize=8)
def _pool(size: int) -> Pool:
    """One pool for all verifiers with as many workers."""
    return Pool(size)
