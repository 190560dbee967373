"""Repetitions and contamination: exact against a slow comparison of all pairs, and what counts as the same words."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_data import GSM8K, Contamination, Math500, Minerva, Task, repeats
from igpo_data.overlap import SHINGLE, runs, words


def task(prompt: str, key: str = "", answer: str = "1", trace: str | None = None) -> Task:
    return Task(key=key or prompt, prompt=prompt, answer=answer, trace=trace)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How many? 1,024 apples!", "how  MANY 1024 apples", True),
        ("Solve $x^2 = 4$.", "Solve x^2=4", True),
        ("a ﬁve", "A five", True),
        ("12\\, m", "12 m", True),
        ("x + 1", "x - 1", False),
        ("add .5", "add 5", False),
        ("1.5", "15", False),
        ("x_1", "x^1", False),
        ("两个苹果", "三个苹果", False),
    ],
)
def test_words(one: str, other: str, same: bool) -> None:
    assert (words(one) == words(other)) == same


def test_the_earliest_of_the_same_words_is_kept_and_contradictions_are_told() -> None:
    tasks = [
        task("A b?", "1"),
        task("a b", "2", answer="2"),
        task("c", "3"),
        task("a  b.", "4", answer="1."),
        task("c!", "5"),
    ]
    kept, found = repeats(tasks)
    assert [each.key for each in kept] == ["1", "3"]
    assert [(one.task.key, one.first.key, one.conflict) for one in found] == [
        ("2", "1", True),
        ("4", "1", False),
        ("5", "3", False),
    ]


texts = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=150)
@given(st.lists(texts, max_size=12), st.sampled_from([0.2, 1 / 3, 0.5, 0.6, 0.75, 1.0]))
def test_similar_prompts_are_those_of_a_slow_comparison(prompts: list[str], near: float) -> None:
    tasks = [task(prompt, str(number)) for number, prompt in enumerate(prompts)]
    kept: list[Task] = []
    for each in dict.fromkeys(prompts):
        mine = runs(words(each), SHINGLE)
        others = [runs(words(other.prompt), SHINGLE) for other in kept]
        if not any(len(mine & other) / len(mine | other) >= near for other in others):
            kept.append(task(each))
    ours, found = repeats(tasks, near)
    assert [each.prompt for each in ours] == [each.prompt for each in kept]
    assert len(ours) + len(found) == len(tasks)
    for one in found:
        mine, other = (runs(words(each.prompt), SHINGLE) for each in (one.task, one.first))
        assert one.similarity == pytest.approx(len(mine & other) / len(mine | other))


@pytest.mark.parametrize("near", [0.0, -1.0, 1.5])
def test_a_similarity_is_a_share(near: float) -> None:
    with pytest.raises(ValueError, match=f"near = {near} must lie above 0"):
        repeats([], near)


@settings(max_examples=100)
@given(st.lists(texts, min_size=1, max_size=6), st.lists(texts, max_size=6), st.integers(1, 4))
def test_overlap_is_that_of_a_slow_count(held_out: list[str], training: list[str], length: int) -> None:
    found = Contamination([task(text) for text in held_out], length).against([task(text) for text in training])
    for text, overlap in zip(held_out, found, strict=True):
        assert overlap.exact == (text in training)
        own = text.split()
        if len(own) < length:
            assert overlap.share == float(overlap.exact)
            continue
        mine = {tuple(own[at : at + length]) for at in range(len(own) - length + 1)}
        theirs = [
            {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}
            for words in (other.split() for other in training)
        ]
        assert overlap.share == pytest.approx(len(mine & set().union(*theirs)) / len(mine))
        assert overlap.nearest_share == pytest.approx(max((len(mine & each) for each in theirs), default=0) / len(mine))


def test_a_trace_that_holds_a_held_out_problem_counts_unless_told_otherwise() -> None:
    held_out = [task("one two three four")]
    training = [task("x", trace="so one two three four"), task("one two", trace="three four")]
    (found,) = Contamination(held_out, 3).against(training)
    assert (found.share, found.nearest, found.exact) == (1.0, "x", False)
    (apart,) = Contamination(held_out, 3).against(training, traces=False)
    assert (apart.share, apart.nearest) == (0.0, None)
    with pytest.raises(ValueError, match="length = 0 must be at least 1 word"):
        Contamination(held_out, 0)


def test_real_sets(real_data: Path) -> None:
    train, test = (GSM8K(path=str(real_data / "gsm8k"))(split) for split in ("train", "test"))
    overlaps = Contamination(test).against(train[:3_000])
    touched = [(one.task.key, round(one.share, 2)) for one in overlaps if one.share]
    print(f"GSM8K test in the first 3,000 of train: {touched}")
    assert sum(one.exact for one in overlaps) == 0
    assert 0 < len(touched) < 5
    problems = Math500(path=str(real_data / "math500"))("test")
    assert all(one.exact and one.share == 1 for one in Contamination(problems).against(problems))
    assert repeats(problems)[1] == []


def test_pairs_of_a_large_set_are_found_by_looking_at_few(real_data: Path) -> None:
    """All pairs of 272 problems, slowly, at one threshold."""
    tasks = Minerva(path=str(real_data / "minerva_math"))("test")
    sets = [runs(words(each.prompt), SHINGLE) for each in tasks]
    close = [
        (i, j) for i, j in combinations(range(len(sets)), 2) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.5
    ]
    assert close
    _, found = repeats(tasks, 0.5)
    assert {one.task.key for one in found} <= {tasks[j].key for _, j in close}
    assert {tasks[j].key for i, j in close if tasks[i] not in [one.task for one in found]} == {
        one.task.key for one in found
    }
