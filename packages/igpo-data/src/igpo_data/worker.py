"""A worker process: does one kind of check that may hang or eat memory. Run by path, never imported.

It imports what the job needs once and lets a forked child answer, which the kernel kills when a check uses up its
processor time, even inside a big-integer operation. Arguments: the job, processor seconds for a check, memory in MiB.
A line in: the job's arguments as JSON. A line out: {"value": ...} or {"note": "timeout" | "memory" | "error"}."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TextIO

Job = Callable[..., Any]


def main(job: str, seconds: float, memory: int) -> None:
    """Answers until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # What a library prints must not look like a verdict.
    try:
        check = JOBS[job]()
    except ImportError as error:
        print(f"cannot import {error.name}", file=replies, flush=True)
        return
    print("ready", file=replies, flush=True)
    if sys.platform == "win32":  # No limits but the caller's clock.
        return answer(check, replies, seconds)

    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        child = os.fork()
        if child == 0:
            answer(check, replies, seconds)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return
        note = "timeout" if os.WTERMSIG(status) == signal.SIGPROF else "memory"
        print(json.dumps({"note": note}), file=replies, flush=True)


def answer(check: Job, replies: TextIO, seconds: float) -> None:
    """One reply for every line of input."""
    for line in sys.stdin:
        reply: dict[str, Any]
        try:
            if sys.platform != "win32":
                signal.setitimer(signal.ITIMER_PROF, seconds)
            reply = {"value": check(*json.loads(line))}
        except MemoryError:
            reply = {"note": "memory"}
        except Exception:  # noqa: BLE001 - whatever a library raises on strange text, the text is not right
            reply = {"note": "error"}
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


def algebra() -> Job:
    """Are two LaTeX strings equal for math-verify, the reference first?"""
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, Float

    config = [LatexExtractionConfig()]  # The other kind of extraction ends in sympy's parse_expr, which evaluates.

    @lru_cache(maxsize=1_024)
    def read(text: str) -> list[Any]:
        return list(parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None))

    def equal(gold: str, given: str) -> bool:
        known, found = read(gold), read(given)
        if not known or not found or not verify(known, found, timeout_seconds=None):
            return False
        left, right = known[0], found[0]
        if not (isinstance(left, Basic) and isinstance(right, Basic) and (left.has(Float) or right.has(Float))):
            return True
        if left.free_symbols or right.free_symbols:
            return True
        # verify() rounds to six places, where 1e-9 and 2e-9 are both 0.
        return bool(abs((left - right).evalf()) <= 1e-6 * abs(left.evalf()))

    equal("\\sqrt{x^2+1}", "\\frac{1}{2}+x")  # The grammar is built once, before any child is forked.
    return equal


def search() -> Job:
    """The span of a regular expression in a text, or None. Backtracking may take for ever, which is why it is here."""
    import re

    def span(pattern: str, text: str) -> tuple[int, int] | None:
        found = re.search(pattern, text)
        return found.span() if found else None

    return span


def score() -> Job:
    """A reasoning-gym scorer's score of a text; None where it cannot be trusted with one.

    Several scorers evaluate the text as Python, themselves or through sympy. Here `eval` reads literals only, and
    calculates where the text is the problem's own: problems may come from a file.
    """
    import ast
    import base64
    import builtins
    import pickle
    import re

    import reasoning_gym

    evaluate, own, refused = builtins.eval, set[str](), []
    sums = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant, ast.List, ast.Load)

    def literal(source: Any, *scopes: Any) -> Any:
        if (
            not scopes
            and source in own
            and all(isinstance(node, sums) for node in ast.walk(ast.parse(source, mode="eval")))
        ):
            return evaluate(source)
        if scopes or not isinstance(source, str):
            refused.append(source)
            raise ValueError("not evaluated")
        return ast.literal_eval(source)

    @lru_cache(maxsize=64)
    def dataset(name: str) -> Any:
        return reasoning_gym.create_dataset(name, seed=0, size=1)

    @lru_cache(maxsize=256)
    def load(packed: str) -> Any:
        return pickle.loads(base64.b64decode(packed))

    def strict(name: str, packed: str, text: str) -> float | None:
        entry, scorer = load(packed), dataset(name)
        own.clear()
        own.update(str(value) for value in (entry["answer"], entry["question"], *entry["metadata"].values()))
        refused.clear()
        builtins.eval = literal
        try:
            value = float(scorer.score_answer(text, entry))
        finally:
            builtins.eval = evaluate
        return None if refused and value != 1.0 else value

    def believes(name: str, packed: str, texts: Sequence[str]) -> bool:
        for text in texts:
            try:
                if strict(name, packed, text) == 1.0:
                    return True
            except Exception:  # noqa: BLE001 - a scorer that raises does not believe the text
                continue
        return False

    def plain(answer: str, text: str) -> bool:
        """Only the answer's words and signs, and as many numbers."""
        numbers, words = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"[^\W\d_]+")
        left, right = (words.sub("", numbers.sub("", each)) for each in (answer, text))
        same = len(numbers.findall(answer)) == len(numbers.findall(text))
        return same and set(words.findall(text)) <= set(words.findall(answer)) and set(right) <= {*left, *" .\n"}

    def far(answer: str, text: str) -> bool:
        try:
            known = float(answer)
            return not abs(known - float(text)) <= 0.01 * abs(known)
        except ValueError:
            return False

    def checked(name: str, packed: str, text: str) -> float | None:
        answer = load(packed)["answer"] or ""
        if text == answer:
            return 1.0
        value = strict(name, packed, text)
        if value != 1.0:
            return value
        if far(answer, text):
            return 0.0  # one takes the beginning of a number for the number
        if believes(name, packed, ("", "\x00", "neither here nor there", f"{text[::-1]} neither here nor there")):
            return None
        # Some pick what they like out of any text, "not 12 but 13" for example.
        picks = believes(name, packed, (f"not {text}", f"{text} or 7 is wrong", f"at least {text}"))
        return None if picks and not plain(answer, text) else value

    return checked


JOBS: dict[str, Callable[[], Job]] = {"algebra": algebra, "search": search, "score": score}

if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
