"""Built-in worked problems: three permutations of a short list, written out one after the other.

Small enough to be learned from nothing on two CPU cores, and rare operations leave a trained model stuck where a hint
helps. A wrong step cannot be made up for by luck: 120 answers fit the letters of a prompt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import chain

from attrs import field, frozen, validators

from igpo_data.task import Task

LETTERS = tuple("abcdefghijklmn")
COMMON = {"rev": (4, 3, 2, 1, 0), "rotl": (1, 2, 3, 4, 0), "rotr": (4, 0, 1, 2, 3), "swf": (1, 0, 2, 3, 4)}
RARE = {"zip": (0, 3, 1, 4, 2), "cut": (3, 4, 0, 1, 2), "mix": (2, 0, 4, 1, 3), "fold": (1, 3, 4, 2, 0)}
# new[i] = old[permutation[i]]
PERMUTATIONS = COMMON | RARE
RARE_WEIGHTS = (8, 4, 2, 1)
STEPS = 3
SIZES = [validators.ge(1), validators.le(1_000_000)]
SPLITS = ("sft", "train", "test", "common")


def solve(operations: tuple[str, ...], letters: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The list after each operation."""
    lists = []
    for operation in operations:
        letters = tuple(letters[i] for i in PERMUTATIONS[operation])
        lists.append(letters)
    return lists


@frozen(kw_only=True)
class Lists:
    """List problems with worked solutions, learnable from nothing in a minute.

    Prompt `rev zip rotl : a b c d e ?`, trace `rev e d c b a zip e b d a c rotl b d a c e #### b d a c e`. Splits: "sft"
    (a step is rarely a rare operation), "train" and "test" (exactly one rare operation, uniform over operation and place;
    no earlier list equals the answer) and "common" (none). Its hash decides whether a prompt may appear in sft, in train,
    or in test and common, so these three parts are disjoint at any size and seed.
    """

    seed: int = 0
    """Another seed draws other problems; the parts stay disjoint between seeds too."""
    sft_problems: int = field(default=30_000, validator=SIZES)
    """Problems in the split "sft"."""
    train_problems: int = field(default=480, validator=SIZES)
    """Problems in the split "train"."""
    test_problems: int = field(default=512, validator=SIZES)
    """Held-out problems in the split "test"."""
    common_problems: int = field(default=512, validator=SIZES)
    """Held-out problems without a rare operation in the split "common"."""
    rare_share: float = field(default=0.03, validator=[validators.ge(0.0), validators.le(1.0)])
    """Chance of a step of an "sft" problem to be a rare operation (8 : 4 : 2 : 1 for zip, cut, mix, fold)."""

    splits = SPLITS

    def __call__(self, split: str) -> list[Task]:
        """The problems of a split, all different, the same ones at every call."""
        sizes = dict(
            zip(
                SPLITS,
                (self.sft_problems, self.train_problems, self.test_problems, self.common_problems),
                strict=True,
            )
        )
        if split not in sizes:
            raise ValueError(f"lists has no split {split!r}; it has {', '.join(SPLITS)}")
        rng = random.Random(f"lists/{self.seed}/{split}")
        tasks: dict[str, Task] = {}
        while len(tasks) < sizes[split]:
            operations = self._operations(split, rng)
            letters = tuple(rng.sample(LETTERS, 5))
            prompt = " ".join((*operations, ":", *letters, "?"))
            if prompt not in tasks and _part(prompt) == ("test" if split == "common" else split):
                tasks[prompt] = _task(f"lists/{split}/{len(tasks)}", prompt, operations, letters)
        return list(tasks.values())

    def vocabulary(self) -> tuple[str, ...]:
        """The 25 words of every prompt and trace, in a fixed order."""
        return (*LETTERS, *PERMUTATIONS, ":", "?", "####")

    def _operations(self, split: str, rng: random.Random) -> tuple[str, ...]:
        if split == "sft":
            return tuple(
                rng.choices(tuple(RARE), RARE_WEIGHTS)[0]
                if rng.random() < self.rare_share
                else rng.choice(tuple(COMMON))
                for _ in range(STEPS)
            )
        if split == "common":
            return tuple(rng.choices(tuple(COMMON), k=STEPS))
        place, rare = rng.randrange(STEPS), rng.choice(tuple(RARE))
        while True:
            operations = rng.choices(tuple(COMMON), k=STEPS)
            operations[place] = rare
            *earlier, answer = solve(tuple(operations), LETTERS[:5])
            if answer not in earlier:  # a step undone by a later one (zip rotl rotr) would put the answer into a hint
                return tuple(operations)


def _part(prompt: str) -> str:
    """Which part of the prompts this one belongs to: an eighth is held out, an eighth for RL, the rest for SFT."""
    return {0: "test", 1: "train"}.get(hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0] % 8, "sft")


def _task(key: str, prompt: str, operations: tuple[str, ...], letters: tuple[str, ...]) -> Task:
    lists = solve(operations, letters)
    answer = " ".join(lists[-1])
    steps: Iterator[str] = chain.from_iterable(zip(operations, map(" ".join, lists), strict=True))
    trace = " ".join((*steps, "####", answer))
    # The last step's list is the answer too: everything behind the last operation's name is hidden.
    hidden = len(trace) - len(f"{answer} #### {answer}")
    return Task(
        key=key,
        prompt=prompt,
        answer=answer,
        trace=trace,
        answer_spans=((hidden, len(trace)),),
        meta={"operations": operations, "rare": tuple(name for name in operations if name in RARE)},
    )
