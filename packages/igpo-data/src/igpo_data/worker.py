"""A worker process: reads pairs of answers, says whether algebra finds them equal. Run by path, never imported.

It limits itself, so that it can neither outlive nor exhaust its parent: the kernel kills it when one check uses up its
processor time, even inside a big-integer operation that no Python signal handler interrupts.

Arguments: processor seconds for a check, memory in MiB. A line in: [gold, given]. A line out: one word.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def main(seconds: float, memory: int) -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # What a library prints must not look like a verdict.
    try:
        from math_verify import LatexExtractionConfig, parse, verify
        from sympy import Basic, Float
    except ImportError as error:
        print(f"cannot import {error.name}", file=replies, flush=True)
        return
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
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
        difference, size = abs((left - right).evalf()), abs(left.evalf())
        return bool(difference <= 1e-6 * size)

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        try:
            if sys.platform != "win32":
                signal.setitimer(signal.ITIMER_PROF, seconds)
            word = "equal" if equal(*json.loads(line)) else "different"
        except MemoryError:
            word = "memory"
        except Exception:  # noqa: BLE001 - whatever sympy raises on strange text, the pair is not equal
            word = "error"
        finally:
            if sys.platform != "win32":
                signal.setitimer(signal.ITIMER_PROF, 0)
        print(word, file=replies, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
