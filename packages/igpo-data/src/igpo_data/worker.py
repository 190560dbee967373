"""A worker process: reads pairs of answers, says whether algebra finds them equal. Run by path, never imported.

It imports the algebra once and lets a forked child answer, which the kernel kills when a check uses up its processor
time, even inside a big-integer operation. Arguments: processor seconds for a check, memory in MiB. A line in:
[gold, given] as JSON. A line out: one word."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO


def main(seconds: float, memory: int) -> None:
    """Answers until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # What a library prints must not look like a verdict.
    try:
        equal = algebra()
    except ImportError as error:
        print(f"cannot import {error.name}", file=replies, flush=True)
        return
    print("ready", file=replies, flush=True)
    if sys.platform == "win32":  # No limits but the caller's clock.
        return answer(equal, replies, seconds)

    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        child = os.fork()
        if child == 0:
            answer(equal, replies, seconds)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return
        print("timeout" if os.WTERMSIG(status) == signal.SIGPROF else "memory", file=replies, flush=True)


def answer(equal: Callable[[str, str], bool], replies: TextIO, seconds: float) -> None:
    """One word for every line of input."""
    for line in sys.stdin:
        try:
            if sys.platform != "win32":
                signal.setitimer(signal.ITIMER_PROF, seconds)
            word = "equal" if equal(*json.loads(line)) else "different"
        except MemoryError:
            word = "memory"
        except Exception:  # noqa: BLE001 - whatever algebra raises on strange text, the pair is not equal
            word = "error"
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(word, file=replies, flush=True)


def algebra() -> Callable[[str, str], bool]:
    """math-verify on two LaTeX strings, the reference first."""
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, Float

    config = [LatexExtractionConfig()]  # The other kind of extraction ends in sympy's parse_expr, which evaluates.

    def equal(gold: str, given: str) -> bool:
        known, found = (
            parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None) for text in (gold, given)
        )
        if not known or not found or not verify(known, found, timeout_seconds=None):
            return False
        left, right = known[0], found[0]
        if not (isinstance(left, Basic) and isinstance(right, Basic) and (left.has(Float) or right.has(Float))):
            return True
        if left.free_symbols or right.free_symbols:
            return True
        # verify() rounds to six places, where 1e-9 and 2e-9 are both 0.
        return bool(abs((left - right).evalf()) <= 1e-6 * abs(left.evalf()))

    return equal


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
