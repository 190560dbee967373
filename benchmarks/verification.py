"""Verdicts of `igpo_data.Math` beside math-verify on the whole completion, in one process, as trainers call it.

Completions are generated: a few sentences of working and a boxed answer as models spell them (units, money, percent,
fractions), right in half of the rows. "With algebra" has one answer in five that takes algebra in a worker, as on MATH500.
The workers have started before the clock does. Identical pairs are remembered, which the second reading shows.
"""

from __future__ import annotations

import random

from benchmarks.harness import Row, compare, seconds
from igpo_data import Math, Task

NAME = "Verification"
WORKING = "We have {a} of them and then {b} more, which makes \\({a} + {b} = {c}\\). Dividing by 2 gives {d}. "
SPELLINGS = (
    "{n}",
    "{n:,}",
    "\\${n}.00",
    "{n} \\text{{ apples}}",
    "{n}\\%",
    "\\frac{{{twice}}}{{2}}",
    "x = {n}",
    "{n} \\text{{ cm}}",
)
ALGEBRAIC = ("{n}\\sqrt{{2}}", "\\frac{{{twice}}}{{\\sqrt{{2}}}}", "({n}x+1)^2", "{n}\\pi+\\frac12")


def pairs(count: int, algebra: float, seed: int) -> list[tuple[str, Task]]:
    """Completions with tasks, all different."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        n = 1_000 + index
        a, b = rng.randrange(1, n), rng.randrange(1, n)
        working = WORKING.format(a=a, b=b, c=a + b, d=(a + b) / 2) * rng.randrange(2, 8)
        wrong = rng.random() < 0.5
        if rng.random() < algebra:
            gold = rng.choice((f"{n}\\sqrt{{2}}", f"1+{n}x({n}x+2)"))
            stated = rng.choice(ALGEBRAIC).format(n=n + wrong, twice=2 * (n + wrong))
        else:
            gold, stated = str(n), rng.choice(SPELLINGS).format(n=n + wrong, twice=2 * (n + wrong))
        made.append((f"{working}\nSo the answer is \\boxed{{{stated}}}.", Task(key=str(index), prompt="", answer=gold)))
    return made


def published(made: list[tuple[str, Task]]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(f"\\boxed{{{task.answer}}}"), parse(text))) for text, task in made]


def rate(made: list[tuple[str, Task]], taken: float) -> str:
    return f"ours {len(made) / taken:,.0f} verdicts a second"


def run(quick: bool) -> list[Row]:
    count, rows = (50 if quick else 1_000), list[Row]()
    for name, algebra in (("ordinary answers", 0.0), ("with algebra", 0.2)):
        math = Math(workers=2)
        math("\\boxed{x+1}", Task(key="", prompt="", answer="1+x"))
        rounds = iter([pairs(count, algebra, seed) for seed in range(3)])
        sample = pairs(count // 5, algebra, 9)
        row = compare(
            f"{name}: {count:,} new pairs",
            lambda math=math, rounds=rounds: math.many(next(rounds)),  # type: ignore[misc]
            lambda sample=sample: published(sample),  # type: ignore[misc]
            repeats=2,
            memory=False,
        )
        assert row["baseline_s"] is not None
        assert row["ours_s"] is not None
        row["baseline_s"] *= count / len(sample)  # it is too slow for all of them
        row["ratio"] = row["baseline_s"] / row["ours_s"]
        row["note"] = rate(pairs(count, 0.0, 0), row["ours_s"])
        rows.append(row)
        again = [
            pair for _ in range(1 if quick else 20) for pair in pairs(count, algebra, 0)
        ]  # equal, not the same, text
        taken = seconds(lambda again=again, math=math: math.many(again), repeats=3)  # type: ignore[misc]
        rows.append(
            Row(case=f"{name}: {len(again):,} repeated pairs", ours_s=taken, baseline_s=None, ratio=None,
                ours_mb=None, baseline_mb=None, note=rate(again, taken))
        )  # fmt: skip
        math.close()
    return rows
