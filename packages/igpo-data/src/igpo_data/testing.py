"""Conformance checks for task sources and verifiers, for the built-in ones and for third parties alike.

Each raises AssertionError that says what is wrong. A reward that cannot be trusted ruins a run without a trace, so the
check of a verifier also throws at it what models really write when they fail.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import attrs

from igpo_data.task import Task, TaskSource
from igpo_data.verdict import Verdict, Verifier, verify

HOSTILE = (
    "",
    " \n\t",
    "\\boxed{}",
    "\\boxed{",
    "\\boxed",
    "####",
    "The answer is",
    "\x00\ufffd\ud800",
    "9**9**9**9",
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{10^{10^{10}}}",
    "\\boxed{100000000!}",
    "\\boxed{__import__('os')._exit(3)}",
    "\\boxed{().__class__.__base__.__subclasses__()}",
    "\\boxed{" + "(" * 200 + "1" + ")" * 200 + "}",
    "\\boxed{" * 3_000 + "1" + "}" * 3_000,
    "\\boxed{" + "\\frac{1}{" * 100 + "1" + "}" * 100 + "}",
    "\\boxed{" + "9" * 5_000 + "}",
    "\\boxed{1e999999999}",
    "\\boxed{1/0}",
    "[" * 1_000_000,
    "#### " * 200_000,
)
# Completions that must be neither correct nor able to crash or block a verifier.

FRAGMENTS = (
    *(
        "\\frac",
        "\\sqrt",
        "\\boxed",
        "\\text",
        "\\left(",
        "\\right]",
        "\\begin{pmatrix}",
        "\\end{matrix}",
        "\\sum",
        "\\int",
        "\\infty",
        "\\pm",
        "\\cup",
    ),
    *(
        "{",
        "}",
        "[",
        ")",
        "$",
        "$$",
        "\\(",
        "\\]",
        "&",
        "\\\\",
        "^",
        "_",
        "%",
        "\\%",
        "=",
        "<",
        ",",
        ";",
        "'",
        '"',
        "`",
        "#",
        "####",
        "-",
        "/",
        "!",
        ":",
        "|",
    ),
    *(
        "<answer>",
        "</answer>",
        "<reasoning>",
        "The answer is",
        "or",
        "not",
        "x",
        "y",
        "i",
        "e",
        "9",
        "10",
        "0",
        ".5",
        "1e9",
        " ",
        "\n",
        "\t",
    ),
    *(
        "\x00",
        "\x02",
        "\x03",
        "\x1b[2J",
        "\u200b",
        "\u202e",
        "\ud800",
        "\uffff",
        "\u0663",
        "\u2460",
        "\u221e",
        "\u2212",
        "\U0001f600",
        "e\u0301",
        "\u00bd",
    ),
)
CODE = (
    "__import__('os')._exit(3)", "().__class__.__base__.__subclasses__()", "exec('raise SystemExit')", "open('/dev/zero').read()",
    "(lambda f: f(f))(lambda f: f(f))", "[0]*10**10", "'a'*10**10", "9**9**9**9", "eval(input())", "globals()['__builtins__']",
    "${jndi:ldap://x}", "'; DROP TABLE tasks; --", "{{7*7}}", "%s%s%s%n", "S('__import__(\"os\").abort()')", "while True: pass",
)  # fmt: skip
COSTLY = (
    "9^{9^{9^{9}}}", "10^{10^{10}}", "100000000!", "((((9!)!)!)!)", "\\sum_{n=1}^{10^9} n^n", "\\sum_{n=1}^{\\infty} \\frac{1}{n^{1.0001}}",
    "\\prod_{k=1}^{99999999} k", "\\int_0^{\\infty} e^{-x^{x^x}} dx", "\\binom{10^{12}}{5 \\cdot 10^{11}}", "\\lim_{n \\to \\infty} n^{n^n}",
    "2^{2^{2^{2^{2^{2}}}}}", "\\sqrt[10^9]{2^{10^9}}", "(x+y+z)^{4000}", "\\sin(10^{10^{6}})", "\\log_{1.0000001}(10^{10^{7}})", "0^{0^{-1}}",
)  # fmt: skip
UNTRUE = (
    "not %s", "%s or 7", "%s and 7", "%s^{9}", "%s!", "\\frac{%s}{0}", "%s + 10^{-9}", "-%s i", "%s%s", "1.%s", "\\sqrt{%s}", "%s x", "%s \\ne",
    "at least %s", "%s_{7}", "}%s{", "%s, 7", "(%s, 7)", "\\{%s, 7\\}", "%s \\cdot 10^{-999999}", "\\sum_{k=1}^{\\infty} %s", "x > %s", "%s \\text{ is wrong}",
)  # fmt: skip
# Statements that hold the answer and are not it.


def hostile(count: int, answer: str = "12", seed: int = 0) -> Iterator[str]:
    """Texts that are never right where the answer is `answer` (a number or a letter): soup, code, towers, floods, near misses.

    Deterministic; most are short, a few hold up to a million characters.
    """
    rng = random.Random(seed)
    frames = (
        "\\boxed{%s}",
        "#### %s",
        "<answer>%s</answer>",
        "The answer is %s",
        "\\boxed{%s",
        '{"answer": "%s"}',
        "%s",
    )

    def length(most: int) -> int:
        return int(most ** rng.uniform(0.1, 1.0))

    def nest(opening: str, inside: str, closing: str) -> str:
        depth = length(5_000)
        return opening * depth + inside + closing * rng.choice((depth, 0, depth - 1))

    def statement() -> str:
        kind = rng.randrange(10)
        if kind == 0:
            return "".join(rng.choice(FRAGMENTS) for _ in range(length(200)))
        if kind == 1:
            return "".join(
                chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000))))
                for _ in range(length(200))
            )
        if kind == 2:
            return rng.choice(CODE)
        if kind == 3:
            return rng.choice(COSTLY)
        if kind == 4:
            return nest(
                *rng.choice(
                    (
                        ("(", "7", ")"),
                        ("{", "7", "}"),
                        ("\\frac{1}{", "7", "}"),
                        ("\\sqrt{", "7", "}"),
                        ("9^{", "9", "}"),
                        ("[", "", "]"),
                        ('{"answer":', "7", "}"),
                    )
                )
            )
        if kind == 5:
            return rng.choice(("", "-", "0.", "1/", "10^", "1e", "\\sqrt")) + rng.choice("3789") * length(20_000)
        if kind == 6:
            return rng.choice(("a", "aa ", "1+", "1,", "x^2+", "\\text{a}", "ab", "((", "-", "7 ")) * length(
                3_000
            ) + rng.choice("!?)}x")
        return rng.choice(UNTRUE).replace("%s", answer)

    for _ in range(count):
        if rng.random() < 0.01:
            flood = rng.choice(
                (
                    "\\boxed{",
                    "#### ",
                    "[",
                    "{",
                    "}{",
                    "<answer>",
                    "The answer is ",
                    "\\frac",
                    '{"',
                    "\\begin{",
                    "9",
                    "a",
                    "\\",
                    "$",
                    "\n",
                )
            )
            yield flood * (length(1_000_000) // len(flood))
        else:
            yield rng.choice(frames).replace("%s", statement())


def check_task_source(source: TaskSource, split: str = "train", limit: int = 1_000) -> None:
    """The first `limit` tasks of a split: repeatable, with unique keys, and with answers that can be kept out of hints."""
    _check_options(source)
    splits = getattr(source, "splits", None)
    _require(splits is None or split in splits, f"the split {split!r} is none of its `splits`, {splits}")
    before = random.getstate()
    tasks = list(islice(source(split), limit))
    _require(random.getstate() == before, "it draws from the global generator; use random.Random(seed)")
    _require(bool(tasks), f"the split {split!r} is empty")
    _require(tasks == list(islice(source(split), limit)), "two calls give different tasks; draw from an explicit seed")
    keys = [task.key for task in tasks]
    _require(len(set(keys)) == len(keys), "keys occur twice; seeds are derived from them")
    vocabulary = set(source.vocabulary()) if hasattr(source, "vocabulary") else None
    for task in tasks:
        _require(bool(task.key and task.prompt.strip()), f"task {task.key!r} has no key or no prompt")
        for (_, end), (start, _) in pairwise(task.answer_spans):
            _require(end <= start, f"task {task.key!r}: answer spans overlap or are out of order: {task.answer_spans}")
        _require(
            task.trace is None or not task.answer_spans or task.answer_spans != ((0, len(task.trace)),),
            f"task {task.key!r}: the whole trace is answer, nothing is left for hints",
        )
        if vocabulary is not None:
            words = set(f"{task.prompt} {task.trace or ''}".split())
            _require(
                words <= vocabulary, f"task {task.key!r}: words outside vocabulary(): {sorted(words - vocabulary)}"
            )


def check_verifier(verifier: Verifier, task: Task, right: Sequence[str], wrong: Sequence[str] = ()) -> None:
    """Right completions of a task are correct, wrong and hostile ones are not, alone as in a batch, and nothing raises."""
    _check_options(verifier)
    _require(bool(right), "give at least one right completion; a verifier that rejects everything proves nothing")
    completions = [*right, *wrong, *HOSTILE]
    batch = verify(verifier, [(completion, task) for completion in completions])
    _require(len(batch) == len(completions), f"{len(completions)} completions, but {len(batch)} verdicts")
    for index, (completion, verdict) in enumerate(zip(completions, batch, strict=True)):
        shown = f"{completion[:60]!r} (answer {task.answer!r})"
        _require(isinstance(verdict, Verdict), f"{shown}: a {type(verdict).__name__} instead of a Verdict")
        _require(isinstance(verdict.correct, bool), f"{shown}: correct = {verdict.correct!r} is no bool")
        _require(math.isfinite(verdict.reward), f"{shown}: reward = {verdict.reward}")
        _require(verdict.correct == (index < len(right)), f"{shown}: judged {verdict}")
    for completion in (*right, *wrong):
        alone = verifier(completion, task)
        _require(alone == batch[completions.index(completion)], f"{completion[:60]!r}: another verdict alone: {alone}")
    empty = attrs.evolve(task, answer="", trace=None, answer_spans=())
    _require(not verifier("", empty).correct, "an empty completion agrees with an empty answer")


def _check_options(plugin: object) -> None:
    kind = type(plugin)
    _require(attrs.has(kind), f"{kind.__name__} is no attrs class; its fields are its options")
    _require(
        bool((kind.__doc__ or "").strip()), f"{kind.__name__} has no docstring; its first line is shown by igpo plugins"
    )
    try:
        hash(plugin)
    except TypeError:
        frozen = False
    else:
        frozen = kind.__setattr__ is not object.__setattr__
    _require(frozen, f"{kind.__name__} is not frozen; use @attrs.frozen(kw_only=True)")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
