from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.problems import problem_from_text, value_spans

TEXT = "Half of 48 is 24. So 48 + 24 = 72\n#### 72"


def words(text: str) -> list[tuple[int, int]]:
    """Offsets of a tokenizer that leaves white space to no token."""
    spans, start = [], None
    for index, character in enumerate(text + " "):
        if character.isspace():
            if start is not None:
                spans.append((start, index))
            start = None
        elif start is None:
            start = index
    return spans


def shown(text: str, offsets, mask) -> list[str]:
    return [text[start:end] for (start, end), flag in zip(offsets, mask.tolist(), strict=True) if flag]


def make(text: str, offsets, spans, answer: str = ""):
    return problem_from_text("key", [1, 2], list(range(len(offsets))), offsets, text, spans, answer)


def test_the_answer_span_is_not_hintable_and_its_value_is_marked_everywhere():
    offsets = words(TEXT)
    problem = make(TEXT, offsets, [(TEXT.index("####"), len(TEXT))], "72")
    assert shown(TEXT, offsets, ~problem.hintable) == ["####", "72"]
    assert shown(TEXT, offsets, problem.answer_value) == ["72", "72"]
    assert shown(TEXT, offsets, problem.breaks) == ["24.", "72", "72"]
    assert shown(TEXT, offsets, problem.steps) == ["72", "72"]


def test_a_token_that_touches_the_span_by_one_character_is_not_hintable():
    text = "x=7."
    offsets = [(0, 1), (1, 3), (3, 4)]  # "=7" holds more than the answer "7"
    assert make(text, offsets, [(2, 3)]).hintable.tolist() == [True, False, True]


def test_a_faulty_rule_that_asks_for_containment_would_leak():
    text, offsets, span = "x=7.", [(0, 1), (1, 3), (3, 4)], (2, 3)
    faulty = [not (span[0] <= start and end <= span[1]) for start, end in offsets]
    leaks = [
        flag for flag, (start, end) in zip(faulty, offsets, strict=True) if flag and start < span[1] and span[0] < end
    ]
    assert leaks  # the variant shows "=7"; ours does not:
    assert not make(text, offsets, [span]).hintable[1]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_no_hintable_token_ever_holds_a_character_of_the_answer(lengths, data):
    text = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"[: sum(lengths)]
    offsets, start = [], 0
    for length in lengths:
        offsets.append((start, start + length))
        start += length
    low = data.draw(st.integers(0, len(text) - 1))
    span = (low, data.draw(st.integers(low + 1, len(text))))
    problem = make(text, offsets, [span])
    visible = {
        character
        for (start, end), flag in zip(offsets, problem.hintable.tolist(), strict=True)
        if flag
        for character in range(start, end)
    }
    assert not visible & set(range(*span))
    assert len(visible) == sum(end - start for start, end in offsets if max(start, span[0]) >= min(end, span[1]))


def test_sentences_and_steps_end_where_a_reader_would_say():
    text = "He has 3.5 kg; she 2.\nSum: 3.5+2=<<3.5+2=5.5>>5.5 kg. So $$ x =\n5.5 $$ holds: \\[ a \\] end\n#### 5.5"
    offsets = [(index, index + 1) for index in range(len(text))]
    problem = make(text, offsets, [(text.index("####"), len(text))])
    for flags, ends in (
        (problem.breaks, ["kg;", "2.\n", "5.5 kg.", "x =\n", "end\n", "#### 5.5"]),
        (problem.steps, ["2.\n", ">>", "$$ x =\n5.5 $$", "\\[ a \\]", "end\n", "#### 5.5"]),
    ):
        found = [index + 1 for index, flag in enumerate(flags.tolist()) if flag]
        assert len(found) == len(ends)
        assert all(text[:stop].endswith(end) for stop, end in zip(found, ends, strict=True))


def test_special_tokens_and_traces_without_a_known_answer_give_no_hints():
    offsets = [*words(TEXT), (0, 0)]
    with_eos = make(TEXT, offsets, [(TEXT.index("####"), len(TEXT))])
    assert not with_eos.hintable[-1]
    assert not with_eos.breaks[-1]
    assert not make(TEXT, offsets, []).hintable.any()
    assert problem_from_text("key", [1, 2]).hintable is None


def test_offsets_and_tokens_must_match():
    with pytest.raises(ValueError, match="3 offsets for 2 trace tokens"):
        problem_from_text("key", [1], [4, 5], [(0, 1), (1, 2), (2, 3)], "abc", [(2, 3)], "c")


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("10 then 100, then 1,000", "1000", ["1,000"]),
        ("72.5 or 72, not 172", "72", ["72"]),
        ("e d  c then d c", "d c", ["d  c", "d c"]),
        ("nothing", "", []),
    ],
)
def test_values_are_found_as_words(text, answer, found):
    assert [text[start:end] for start, end in value_spans(text, answer)] == found
