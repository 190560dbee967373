"""MetaMathQA: augmented problems of GSM8K and MATH with worked solutions (Yu et al., arXiv 2309.12284).

IGPO trains on two of its types, one solution a question. Rows hold query, response ("... The answer is: 18"), type and
original_question.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

from attrs import field, frozen, validators

from igpo_data.extraction import extract_answer, locate_answers
from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows

PAPER = ("GSM_AnsAug", "MATH_AnsAug")
PROBLEMS = 12_794
"""Different questions of these two types (IGPO, arXiv 2509.10396)."""
TYPES = tuple(f"{origin}_{kind}" for origin in ("GSM", "MATH") for kind in ("AnsAug", "Rephrased", "FOBAR", "SV"))
STATED = re.compile(r"The answer is:?[ \t]*(\S.*)")
FILE = "MetaMathQA-395K.json"
"""The one file of the hub's repository, and so of a clone of it."""


@frozen(kw_only=True)
class MetaMath:
    """Augmented problems of GSM8K and MATH with worked solutions, one a question: 12,794 of the two types of IGPO."""

    path: str | None = None
    """MetaMathQA-395K.json, its folder, or a folder with train.jsonl or .parquet. Default: the hub's meta-math/MetaMathQA."""
    types: tuple[str, ...] = field(
        default=PAPER, validator=[validators.min_len(1), validators.deep_iterable(validators.in_(TYPES))]
    )
    """Kinds of augmentation that are kept: GSM_ and MATH_, each AnsAug, Rephrased, FOBAR and SV."""

    splits = ("train",)
    hub = "meta-math/MetaMathQA"

    def __call__(self, split: str) -> list[Task]:
        """The questions in order of their first solution. Warns of another count than 12,794, and of rows left out.

        Of the solutions of a question the first is taken whose answer can be located, so that it can give hints.
        """
        if split not in self.splits:
            raise ValueError(f"metamath has no split {split!r}; it has only train")
        path = self.path or self.hub
        rows = load_rows(_file(path), None, split)
        found: dict[str, Task | None] = {}
        for place, row in rows:
            query, response, kind = _columns(place, row)
            if kind in self.types and not ((known := found.get(query)) and known.can_hint):
                found[query] = _task(query, response, kind) or known
        tasks = [task for task in found.values() if task is not None]
        if not tasks:
            raise ValueError(f"{path}: no rows of the types {', '.join(self.types)}")
        if set(self.types) == set(PAPER) and len(found) != PROBLEMS:
            warnings.warn(
                f"{path} holds {len(found):,} different questions of {' and '.join(PAPER)}, not {PROBLEMS:,} as in the "
                "paper: another version, or a part of it",
                stacklevel=2,
            )
        if missing := len(found) - len(tasks):
            warnings.warn(f"{path}: {missing:,} questions are left out, whose solutions state no answer", stacklevel=2)
        return tasks


def _file(path: str) -> str:
    inside = Path(path).expanduser() / FILE
    return str(inside) if inside.is_file() else path


def _columns(place: str, row: Any) -> tuple[str, str, str]:
    values = tuple(row.get(name) for name in ("query", "response", "type"))
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{place}: needs text in the columns query, response and type; it has {', '.join(row)}")
    return values


def _task(query: str, response: str, kind: str) -> Task | None:
    """None where the response states no answer at all."""
    stated = STATED.findall(response)
    answer = stated[-1].strip() if stated else extract_answer(response)
    if not answer:
        return None
    return Task(
        key=f"metamath/{hashlib.blake2b(query.encode(), digest_size=8).hexdigest()}",
        prompt=query,
        answer=answer,
        trace=response,
        answer_spans=locate_answers(response, answer),
        meta={"type": kind},
    )
