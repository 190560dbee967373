"""The built-in list problems: solved right, split apart, and with nothing of the answer outside its span."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_data import Derivation, Lists
from igpo_data.tasks.lists import COMMON, LETTERS, PERMUTATIONS, RARE, SPLITS
from igpo_data.testing import check_task_source, check_verifier

SMALL = dict.fromkeys(("sft_problems", "train_problems", "test_problems", "common_problems"), 300)


def worked(prompt: str) -> str:
    """The trace of a prompt, written once more from the definition of the operations."""
    operations, letters = prompt.removesuffix(" ?").split(" : ")
    current, words = letters.split(), []
    for operation in operations.split():
        new = [""] * 5
        for place, source in enumerate(PERMUTATIONS[operation]):
            new[place] = current[source]
        current = new
        words += [operation, *current]
    return " ".join([*words, "####", *current])


@pytest.mark.parametrize("split", SPLITS)
def test_every_trace_is_the_solution_of_its_prompt(split: str) -> None:
    for task in Lists(**SMALL)(split):
        assert task.trace == worked(task.prompt)
        assert task.answer == task.trace.split(" #### ")[1]
        assert len(task.prompt.split()) == 10
        assert len(task.trace.split()) == 24  # a canvas of 25 with its EOS


def test_the_operations_are_those_of_their_names() -> None:
    letters = "abcde"
    moved = {name: "".join(letters[i] for i in order) for name, order in PERMUTATIONS.items()}
    assert moved == {
        "rev": "edcba", "rotl": "bcdea", "rotr": "eabcd", "swf": "bacde",
        "zip": "adbec", "cut": "deabc", "mix": "caebd", "fold": "bdeca",
    }  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_only_two_steps_and_an_operation_are_hintable(split: str) -> None:
    for task in Lists(**SMALL)(split):
        ((start, end),) = task.answer_spans
        assert task.trace is not None
        assert end == len(task.trace)
        assert task.trace[start:end] == f"{task.answer} #### {task.answer}"
        assert len(task.trace[:start].split()) == 13
        assert task.trace[:start].split()[-1] in PERMUTATIONS
        # What the throw-away demo did, hiding only what follows ####, shows the answer.
        faulty = task.trace.index("####")
        assert task.answer in task.trace[:faulty]


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_earlier_list_of_an_rl_problem_is_its_answer(split: str) -> None:
    for task in Lists(**SMALL)(split):
        assert task.trace is not None
        assert f" {task.answer} " not in task.trace[: task.answer_spans[0][0]]


def test_rl_problems_have_one_rare_operation_uniform_over_operation_and_place() -> None:
    problems = 12_000
    counts = Counter[tuple[str, int]]()
    for task in Lists(train_problems=problems)("train"):
        (place,) = [i for i, name in enumerate(task.meta["operations"]) if name in RARE]
        counts[task.meta["operations"][place], place] += 1
    expected = problems / 12
    chi_squared = sum((counts[key] - expected) ** 2 / expected for key in product(RARE, range(3)))
    assert chi_squared < 35  # 11 degrees of freedom; fixed seed


def test_sft_problems_have_few_rare_steps_in_their_weights() -> None:
    tasks = Lists()("sft")
    assert len(tasks) == 30_000
    rare = Counter(name for task in tasks for name in task.meta["rare"])
    assert sum(rare.values()) / 90_000 == pytest.approx(0.03, abs=0.003)
    assert rare["zip"] / rare.total() == pytest.approx(8 / 15, abs=0.04)
    assert rare["cut"] / rare.total() == pytest.approx(4 / 15, abs=0.04)
    assert rare["zip"] > rare["cut"] > rare["mix"] > rare["fold"] > 0
    assert not any(task.meta["rare"] for task in Lists()("common"))
    assert Counter(n for t in tasks for n in t.meta["operations"] if n in COMMON).most_common()[-1][1] > 20_000


@given(seeds=st.tuples(st.integers(), st.integers()), share=st.floats(0, 1))
@settings(max_examples=15)
def test_sft_rl_and_held_out_prompts_are_apart_at_any_seed(seeds: tuple[int, int], share: float) -> None:
    one, other = (Lists(seed=seed, rare_share=share, **SMALL) for seed in seeds)
    sft, train, test, common = (
        {task.prompt for task in source(split)} for source, split in zip((one, one, other, other), SPLITS, strict=True)
    )
    assert not sft & train
    assert not (sft | train) & (test | common)
    assert not test & common
    assert all(len(prompts) == 300 for prompts in (sft, train, test, common))


def test_a_smaller_split_is_the_start_of_a_larger_one() -> None:
    assert Lists(train_problems=50)("train") == Lists(train_problems=200)("train")[:50]
    assert Lists(seed=1)("test") != Lists(seed=2)("test")


def test_the_sources_conformance_and_vocabulary() -> None:
    assert len(set(Lists().vocabulary())) == 25  # and mask, EOS and padding make 28
    assert set(LETTERS) < set(Lists().vocabulary())
    for split in SPLITS:
        check_task_source(Lists(**SMALL), split)


def test_an_unknown_split_or_an_impossible_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="no split 'valid'; it has sft, train, test, common"):
        Lists()("valid")
    with pytest.raises(ValueError, match="train_problems"):
        Lists(train_problems=0)


def test_derivation_wants_every_step() -> None:
    task = Lists()("train")[0]
    assert task.trace is not None
    words = task.trace.split()
    wrong_step = [*words[:1], words[2], words[1], *words[3:]]  # two letters of the first list swapped
    assert wrong_step[-5:] == task.answer.split()
    right = [task.trace, "  " + task.trace.replace(" ", "\n ") + "\n"]
    wrong = [" ".join(wrong_step), f"#### {task.answer}", f"{task.trace} a", " ".join(words[:-1]), task.trace.upper()]
    check_verifier(Derivation(), task, right, wrong)
    # Reading only the answer is fooled by the wrong step.
    assert Derivation()(" ".join(wrong_step), task).answer == task.answer
