"""Problems that occur twice, and held-out problems that were trained on.

A set that is trained on and a set that is measured on are only worth something apart. Texts are compared as words, without
case, typography and punctuation, but with every number and sign: x + 1 and x - 1 are two problems.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from attrs import field, frozen

from igpo_data.task import Task

WORD = re.compile(r"(?:[0-9][0-9,]*)?\.?[0-9]+|[^\W\d_]+|[^\w\s]")
SILENT = frozenset(".,;:!?'\"`$’‘“”")
SHINGLE = 3
"""Words of the runs by which similar prompts are found."""
LONGEST_RUN = 13
"""Words that two texts hardly share by chance (GPT-3, arXiv 2005.14165, appendix C)."""


def words(text: str) -> list[str]:
    """The words, numbers and signs of a text in one spelling; punctuation, dollar signs and LaTeX's spaces are left out."""
    text = re.sub(r"\\[,;! ]|~", " ", unicodedata.normalize("NFKC", text).casefold())
    return [word.replace(",", "") for word in WORD.findall(text) if word not in SILENT]


@frozen(kw_only=True)
class Repeat:
    """A problem that repeats an earlier one."""

    task: Task
    first: Task
    """The earlier one, which is kept."""
    similarity: float
    """1 for the same words; otherwise the share of their runs of three words that both have (Jaccard)."""

    @property
    def conflict(self) -> bool:
        """The same words, but another answer: one of the two is wrong."""
        return self.similarity == 1.0 and words(self.task.answer) != words(self.first.answer)


def repeats(tasks: Iterable[Task], near: float | None = None) -> tuple[list[Task], list[Repeat]]:
    """The tasks that are left, and those whose prompt repeats one of them: word for word, or with `near` that similar.

    Exact, not by sampling. Of similar prompts the earliest is kept; what is similar only to a left-out one is kept.
    """
    if near is not None and not 0 < near <= 1:
        raise ValueError(
            f"near = {near} must lie above 0 and not above 1, the share of word runs that two prompts share"
        )
    firsts: dict[tuple[str, ...], Task] = {}
    found: list[Repeat] = []
    for task in tasks:
        text = tuple(words(task.prompt))
        if (first := firsts.setdefault(text, task)) is not task:
            found.append(Repeat(task=task, first=first, similarity=1.0))
    if near is None:
        return list(firsts.values()), found
    similar = dict(_similar([runs(text, SHINGLE) for text in firsts], near))
    kept = list(firsts.values())
    found += [
        Repeat(task=kept[later], first=kept[earlier], similarity=share) for later, (earlier, share) in similar.items()
    ]
    return [task for number, task in enumerate(kept) if number not in similar], found


def _similar(sets: Sequence[frozenset[str]], least: float) -> Iterator[tuple[int, tuple[int, float]]]:
    """(later, (kept earlier, Jaccard similarity >= least)).

    Two sets that similar share one of their rarest members: of n, n - ceil(least n) + 1 need to be looked up
    (Chaudhuri et al. 2006; Bayardo et al. 2007).
    """
    frequency = Counter(member for each in sets for member in each)
    holders: dict[str, list[int]] = {}
    for number, each in enumerate(sets):
        rare = sorted(each, key=lambda member: (frequency[member], member))
        rare = rare[: len(rare) - math.ceil(least * len(rare) - 1e-9) + 1]
        best = (-1, 0.0)
        for other in {other for member in rare for other in holders.get(member, ())}:
            shared = len(each & sets[other])
            share = shared / (len(each) + len(sets[other]) - shared)
            best = max(best, (other, share), key=lambda pair: (pair[1], -pair[0]))
        if best[1] >= least:
            yield number, best
            continue
        for member in rare:
            holders.setdefault(member, []).append(number)


def runs(text: Sequence[str], length: int) -> frozenset[str]:
    """All runs of so many words; of a shorter text the one run that it is."""
    last = max(1, len(text) - length + 1)
    return frozenset(" ".join(text[start : start + length]) for start in range(last)) if text else frozenset()


@frozen(kw_only=True)
class Overlap:
    """What of one held-out problem is found in what is trained on."""

    task: Task
    share: float
    """Share of its runs of words that occur in the training texts."""
    exact: bool
    """Its whole prompt is the prompt of a training problem."""
    nearest: str | None
    """Key of the training problem that has most of its runs."""
    nearest_share: float
    """Share of its runs that this one problem has."""


@frozen
class Contamination:
    """Held-out problems, to be compared with training problems however many those are: only the former are kept in memory."""

    held_out: Sequence[Task]
    length: int = LONGEST_RUN
    """Words of a run. A shorter prompt counts only where it is the whole of a training prompt."""
    _owners: dict[str, list[int]] = field(factory=dict, init=False, repr=False)
    _whole: dict[str, list[int]] = field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length = {self.length} must be at least 1 word")
        for number, task in enumerate(self.held_out):
            text = words(task.prompt)
            self._whole.setdefault(" ".join(text), []).append(number)
            if len(text) >= self.length:
                for run in runs(text, self.length):
                    self._owners.setdefault(run, []).append(number)

    def against(self, training: Iterable[Task], *, traces: bool = True) -> list[Overlap]:
        """One overlap a held-out problem, in order. `training` is read once; its worked solutions count too (`traces`)."""
        total = Counter(number for owners in self._owners.values() for number in owners)
        seen: set[str] = set()
        exact: set[int] = set()
        nearest: dict[int, tuple[int, str]] = {}
        for task in training:
            prompt = words(task.prompt)
            exact.update(self._whole.get(" ".join(prompt), ()))
            shared: set[str] = set()
            for text in (prompt, words(task.trace) if traces and task.trace else []):
                shared |= {run for run in runs(text, self.length) if run in self._owners}
            seen |= shared
            for number, count in Counter(owner for run in shared for owner in self._owners[run]).items():
                if count > nearest.get(number, (0, ""))[0]:
                    nearest[number] = count, task.key
        covered = Counter(number for run in seen for number in self._owners[run])
        return [
            Overlap(
                task=task,
                share=covered[number] / total[number] if total[number] else float(number in exact),
                exact=number in exact,
                nearest=nearest[number][1] if number in nearest else None,
                nearest_share=nearest[number][0] / total[number] if number in nearest else 0.0,
            )
            for number, task in enumerate(self.held_out)
        ]
