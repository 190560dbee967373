"""The figures of docs/verification.md: answer pairs, and completions of LLaDA-8B-Instruct, judged by us and by others.

`python -m evidence.verification [--rollouts FILE]`. The completions are d1's evaluation baselines (Apache-2.0), 3,393 rows of
{task, length, question, completion, answer}; where the file is absent their tables stay as they are.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from benchmarks.harness import write

from igpo_data import Countdown, Math, Sudoku, Task, Verdict, verify

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "verification.md"
PAIRS = ROOT / "tests" / "data" / "answer_pairs.tsv"
ROLLOUTS = ROOT.parent / "shared" / "data" / "llada_rollouts" / "rollouts.jsonl.gz"
EOS = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")
RIGHT = {
    "a percent sign behind the number": "ours",
    "words behind the number": "ours",
    "digits grouped by a LaTeX space": "ours",
    "a box without backslash or closing brace, or an empty one before it": "ours",
    "nothing is stated; the number stands somewhere in the working": "by our rule, ours; a generous reader sides with math-verify",
    "a placeholder is stated; the number stands somewhere in the working": "by our rule, ours; a generous reader sides with math-verify",
    "something else is stated than the number in the working": "ours",
    "the target is named, but no expression is stated that reaches it": "ours",
}


@frozen
class Pair:
    """A reference, an answer, and whether they are equal: equal, alike (but not equal), unequal or malformed."""

    truth: str
    kind: str
    reference: str
    answer: str


def read_pairs() -> list[Pair]:
    """The table of tests/data/answer_pairs.tsv."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()
    return [Pair(*line.split("\t")) for line in lines[1:]]


def judge_pairs(math: Math, pairs: Sequence[Pair]) -> list[Verdict]:
    """Our verdict of each answer, in a box; malformed ones behind ####, where no brace of a box can mend them."""
    texts = [f"#### {pair.answer}" if pair.truth == "malformed" else f"\\boxed{{{pair.answer}}}" for pair in pairs]
    return math.many(
        [(text, Task(key="", prompt="", answer=pair.reference)) for text, pair in zip(texts, pairs, strict=True)]
    )


def pairs_report(math: Math) -> str:
    """Counts by truth, and every equal pair that is not found equal."""
    pairs = read_pairs()
    verdicts = judge_pairs(math, pairs)
    lines = [
        "| pairs | rows | taken for equal by us | by comparing strings | without spaces, `$`, `\\text` |",
        "|---|---|---|---|---|",
    ]
    for truth in ("equal", "alike", "unequal", "malformed"):
        rows = [(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True) if pair.truth == truth]
        strings = sum(pair.reference == pair.answer for pair, _ in rows)
        squeezed = sum(squeeze(pair.reference) == squeeze(pair.answer) for pair, _ in rows)
        lines.append(
            f"| {truth} | {len(rows)} | {sum(verdict.correct for _, verdict in rows)} | {strings} | {squeezed} |"
        )
    lines += ["", "Equal pairs that we take for different:", "", "| class | reference | answer |", "|---|---|---|"]
    for pair, verdict in zip(pairs, verdicts, strict=True):
        if pair.truth == "equal" and not verdict.correct:
            cells = (pair.kind, *(f"`{text}`".replace("|", "\\|") for text in (pair.reference, pair.answer)))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def squeeze(text: str) -> str:
    """How published trainers normalise before they compare."""
    return re.sub(r"\\text\{([^{}]*)\}|[\s$]", r"\1", text).replace("dfrac", "frac")


def read_rollouts(file: Path) -> list[dict[str, Any]]:
    """The rows of the file, completions cut at their first EOS."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row | {"completion": EOS.split(row["completion"])[0]} for row in rows]


def task_of(row: Mapping[str, Any]) -> Task:
    """The row's problem as our verifiers want it."""
    answer, meta = row["answer"], {}
    if row["task"] == "countdown":
        meta = {"numbers": answer[0], "target": answer[1]}
        answer = ""
    elif row["task"] == "sudoku":
        meta = {"puzzle": re.findall(r"\d{16}", row["question"])[0]}
    return Task(key="", prompt=row["question"], answer=str(answer), meta=meta)


def plain(row: Mapping[str, Any]) -> bool:
    """math-verify on the whole text; of countdown it can only know the target."""
    from math_verify import parse, verify

    gold = row["answer"][1] if row["task"] == "countdown" else row["answer"]
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(row["completion"])))


def disagreement(row: Mapping[str, Any], verdict: Verdict) -> str:
    """The class of a row that the two judge differently, by its form alone."""
    answer = verdict.answer or ""
    if verdict.correct:
        if "%" in answer:
            return "a percent sign behind the number"
        if re.search(r"\\[,!;]|\{,\}", answer):
            return "digits grouped by a LaTeX space"
        if re.search(r"[A-Za-z]{2,}", answer):
            return "words behind the number"
        return "a box without backslash or closing brace, or an empty one before it"
    if row["task"] == "countdown":
        return "the target is named, but no expression is stated that reaches it"
    if not answer:
        return "nothing is stated; the number stands somewhere in the working"
    if not re.search(r"\w", answer):
        return "a placeholder is stated; the number stands somewhere in the working"
    return "something else is stated than the number in the working"


def rollouts_report(math: Math, rows: Sequence[dict[str, Any]]) -> str:
    """Shares, times and disagreements by task and length."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    math("\\boxed{x+1}", Task(key="", prompt="", answer="1+x"))  # the workers have started
    plain(rows[0])
    head = "| task | length | rows | correct | math-verify | only ours | only math-verify | nothing stated | seconds | math-verify |"
    lines, classes = [head, "|---" * 10 + "|"], Counter[tuple[str, str, bool]]()
    for task, length in sorted({(row["task"], row["length"]) for row in rows}):
        part = [row for row in rows if (row["task"], row["length"]) == (task, length)]
        verifier = {"countdown": Countdown(), "sudoku": Sudoku()}.get(task, math)
        started = time.perf_counter()
        ours = verify(verifier, [(row["completion"], task_of(row)) for row in part])
        middle = time.perf_counter()
        theirs = [plain(row) for row in part]
        seconds = middle - started, time.perf_counter() - middle
        differ = [(row, mine) for row, mine, other in zip(part, ours, theirs, strict=True) if mine.correct != other]
        classes.update((task, disagreement(row, mine), mine.correct) for row, mine in differ)
        shares = [f"{sum(found) / len(part):.3f}" for found in ([mine.correct for mine in ours], theirs)]
        only = sum(mine.correct for _, mine in differ)
        silent = sum(mine.note == "no-answer" for mine in ours)
        figures = (len(part), *shares, only, len(differ) - only, silent, *(f"{each:.2f}" for each in seconds))
        lines.append(f"| {task} | {length} | {' | '.join(map(str, figures))} |")
    lines += ["", "| task | correct for | rows | class | who is right |", "|---|---|---|---|---|"]
    lines += disagreements(classes)
    return "\n".join(lines)


def disagreements(classes: Counter[tuple[str, str, bool]]) -> Iterator[str]:
    for (task, kind, ours), count in sorted(classes.items(), key=lambda item: (item[0][0], -item[1])):
        yield f"| {task} | {'us' if ours else 'math-verify'} | {count} | {kind} | {RIGHT[kind]} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evidence.verification", description=__doc__)
    parser.add_argument("--rollouts", type=Path, default=ROLLOUTS, help="the completions (.jsonl.gz)")
    options = parser.parse_args()
    math = Math(workers=2)
    parts = {"pairs": pairs_report(math)}
    if options.rollouts.is_file():
        parts["rollouts"] = rollouts_report(math, read_rollouts(options.rollouts))
    else:
        print("the completions are not at hand (--rollouts FILE): their tables stay as they are")
    math.close()
    for name, text in parts.items():
        print(text, end="\n\n")
        write(name, text, PAGE)


if __name__ == "__main__":
    main()
