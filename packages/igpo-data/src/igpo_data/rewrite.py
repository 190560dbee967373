"""Length-aligned fine-tuning data: long worked solutions made concise, checked, and kept only with their answer.

Every draft that was paid for is in a journal before it is used: a run that was killed goes on where it was, and no
answer of a model is asked for twice. What a run keeps is decided from the journal alone, at its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from igpo_data.extraction import locate_answers
from igpo_data.rewriters import Draft, FailedError, RefusedError, Rewriter
from igpo_data.task import Task
from igpo_data.verdict import Verifier, verify

PATIENCE = 8
# Rows in a row without an answer, after which the server is taken to be gone.


class Journal:
    """An append-only file of drafts by content hash; each is on the disk before `add` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._lock = threading.Lock()
        self._drafts: dict[str, Draft] = {}
        try:
            _exclusive(self._file.fileno(), path)
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._drafts

    def __getitem__(self, key: str) -> Draft:
        return self._drafts[key]

    def add(self, key: str, draft: Draft) -> None:
        """Writes one draft; from any thread."""
        line = json.dumps({"id": key, **asdict(draft)}).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._drafts[key] = draft

    def _read(self, path: Path) -> None:
        """Reads what is there. A last line without its end was being written when the program was killed."""
        self._file.seek(0)
        whole, last = 0, b"\n"
        for number, line in enumerate(self._file, start=1):
            try:
                entry = json.loads(line)
                key = entry.pop("id")
                self._drafts[key] = Draft(**entry)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if not line.endswith(b"\n"):
                    break
                raise ValueError(
                    f"{path}:{number}: not a draft ({error}); delete the line to have that row rewritten again"
                ) from error
            whole, last = whole + len(line), line
        self._file.truncate(whole)
        if not last.endswith(b"\n"):
            self._file.write(b"\n")
            self._file.flush()


def _exclusive(descriptor: int, path: Path) -> None:
    """Two runs with one journal would pay for the same rows."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{path} is being written by another run; wait for it, or choose another output") from error


def content_hash(task: Task, rewriter: Rewriter) -> str:
    """What a draft depends on, and nothing else: the same row is the same draft in any order, file or run."""
    parts = [task.prompt, task.answer, task.trace, *rewriter.identity]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@frozen(kw_only=True)
class Row:
    """What became of one task."""

    task: Task
    reason: str = ""
    """Why it was dropped; empty for a row that is kept."""
    said: str = ""
    """What the server or the verifier said of it."""
    text: str = ""
    """The concise trace."""
    tokens: int = 0
    located: bool = False
    """True where the answer is found in the new trace, so that it can be kept out of hints."""

    def record(self) -> dict[str, Any]:
        """The row of the output: key, prompt, answer, trace, and of meta what JSON can hold."""
        plain = {
            name: value
            for name, value in self.task.meta.items()
            if name not in ("key", "prompt", "answer", "trace") and _is_json(value)
        }
        task = self.task
        return {"key": task.key, "prompt": task.prompt, "answer": task.answer, "trace": self.text, **plain}


@frozen(kw_only=True)
class Result:
    """Rows in the order of the tasks, and what they took."""

    rows: Sequence[Row]
    before: Sequence[int]
    """Tokens of the traces that there were."""
    drafts: Sequence[Draft]
    """Each draft that was used, once; their tokens were paid for, now or earlier."""
    asked: int
    """Drafts that were made in this run."""

    @property
    def kept(self) -> list[Row]:
        return [row for row in self.rows if not row.reason]

    def report(self, price_in: float = 0.0, price_out: float = 0.0) -> dict[str, Any]:
        """Figures, and each dropped row with its reason; prices are for a million tokens."""
        given, made = (
            sum(getattr(draft, f"{name}_tokens") for draft in self.drafts) for name in ("prompt", "completion")
        )
        kept = self.kept
        return {
            "tasks": len(self.rows),
            "kept": len(kept),
            "dropped": dict(Counter(row.reason for row in self.rows if row.reason).most_common()),
            "answer located": sum(row.located for row in kept),
            "tokens before": sum(self.before),
            "longest before": max(self.before, default=0),
            "tokens after": sum(row.tokens for row in kept),
            "longest after": max((row.tokens for row in kept), default=0),
            "drafts made now": self.asked,
            "drafts from the journal": len(self.drafts) - self.asked,
            "prompt tokens paid": given,
            "completion tokens paid": made,
            "cost": round((given * price_in + made * price_out) / 1e6, 4),
            "dropped rows": [
                {"key": row.task.key, "reason": row.reason, "said": row.said} for row in self.rows if row.reason
            ],
        }


def rough_tokens(text: str) -> int:
    """Tokens of a text without a tokenizer, rather too many: digits and signs alone, words in pieces of six letters."""
    return sum(1 if len(piece) < 7 else -(-len(piece) // 6) for piece in re.findall(r"[^\W\d_]+|\d|[^\w\s]|_", text))


def rewrite(
    tasks: Sequence[Task],
    rewriter: Rewriter,
    verifier: Verifier,
    *,
    journal: Path | None = None,
    tokens: int = 1024,
    count: Callable[[str], int] = rough_tokens,
    concurrency: int = 8,
    keep_short: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Rewrites the traces; a draft is kept if it ends in time for an end token (`tokens`) and is judged correct.

    A trace that the verifier refuses is not rewritten, since no rewriting could be checked; with `keep_short` neither is
    one that fits already, which is kept. `journal` holds drafts between runs; without it each run makes all of them.
    FailedError where the rewriter no longer answers; what was paid for is in the journal.
    """
    before = [0 if task.trace is None else count(task.trace) for task in tasks]
    traced = [index for index, task in enumerate(tasks) if task.trace is not None]
    verdicts = verify(verifier, [(tasks[index].trace or "", tasks[index]) for index in traced])
    sound = {index for index, verdict in zip(traced, verdicts, strict=True) if verdict.correct}
    short = {index for index in sound if keep_short and before[index] < tokens}
    keys = {index: content_hash(tasks[index], rewriter) for index in sorted(sound - short)}
    wanted = {key: tasks[index] for index, key in keys.items()}
    with Journal(journal) if journal else contextlib.nullcontext() as book:
        drafts, failures, asked = _drafts(wanted, rewriter, book, concurrency, progress)

    def unjudged(index: int, task: Task) -> Row:
        if index in short:
            return Row(task=task, text=task.trace or "", tokens=before[index], located=task.can_hint)
        if index not in sound:
            return Row(task=task, reason="trace refused" if index in traced else "no trace")
        if said := failures.get(keys[index]):
            return Row(task=task, reason="no answer", said=said)
        draft = drafts[keys[index]]
        length = count(draft.text)
        fault = "empty" if not draft.text else "cut off" if draft.cut_off else "too long" if length >= tokens else ""
        located = bool(locate_answers(draft.text, task.answer))
        return Row(task=task, reason=fault, text=draft.text, tokens=length, located=located)

    rows = [unjudged(index, task) for index, task in enumerate(tasks)]
    unsure = [index for index in keys if not rows[index].reason]
    judged = verify(verifier, [(rows[index].text, tasks[index]) for index in unsure])
    for index, verdict in zip(unsure, judged, strict=True):
        if not verdict.correct:
            rows[index] = evolve(rows[index], reason="answer lost", said=verdict.note)
    return Result(rows=rows, before=before, drafts=list(drafts.values()), asked=asked)


def _drafts(
    wanted: Mapping[str, Task],
    rewriter: Rewriter,
    book: Journal | None,
    concurrency: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Draft], dict[str, str], int]:
    """Drafts by key, what was said where there is none, and how many were made now rather than found in the journal."""
    known = {key: book[key] for key in wanted if key in book} if book else {}
    missing = {key: task for key, task in wanted.items() if key not in known}
    failures: dict[str, str] = {}

    def draft(item: tuple[str, Task]) -> tuple[str, Draft | RefusedError | FailedError]:
        key, task = item
        try:
            made = rewriter(task)
        except (RefusedError, FailedError) as error:
            return key, error
        if book is not None:
            book.add(key, made)  # Here and at once: what is paid for must not be lost.
        return key, made

    made: dict[str, Draft] = {}
    in_a_row = 0
    threads = ThreadPoolExecutor(concurrency)
    try:
        for future in as_completed([threads.submit(draft, item) for item in missing.items()]):
            key, outcome = future.result()
            in_a_row = in_a_row + 1 if isinstance(outcome, FailedError) else 0
            if in_a_row >= max(PATIENCE, concurrency):
                raise FailedError(f"{in_a_row} rows in a row were not answered: {outcome}")
            if isinstance(outcome, Draft):
                made[key] = outcome
            else:
                failures[key] = str(outcome)
            if progress:
                progress(len(known) + len(made) + len(failures), len(wanted))
    finally:
        threads.shutdown(cancel_futures=True)
    return known | made, failures, len(made)


def write_rows(path: Path, result: Result) -> None:
    """The kept rows as .jsonl, in the order of the tasks, all of them or none: the file appears when it is complete."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for row in result.kept:
            file.write(json.dumps(row.record(), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
