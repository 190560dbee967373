"""Canvases: layout, hints, and what is refused."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from igpo_sampling import Canvas

MASK, PAD = 9, 8


def blank(*lengths: int, width: int = 3) -> Canvas:
    return Canvas.blank([torch.arange(length) for length in lengths], width, mask_id=MASK, pad_id=PAD)


def test_prompts_of_unequal_length_are_padded_on_the_left():
    canvas = blank(2, 0, 4)
    assert canvas.tokens.tolist() == [[8, 8, 0, 1, 9, 9, 9], [8, 8, 8, 8, 9, 9, 9], [0, 1, 2, 3, 9, 9, 9]]
    assert canvas.attention.int().tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    assert canvas.given.int().tolist() == [[1, 1, 1, 1, 0, 0, 0]] * 3
    assert len(canvas) == 3
    assert len(blank()) == 0
    lists = Canvas.blank([[0, 1], [], [0, 1, 2, 3]], 3, mask_id=MASK, pad_id=PAD)
    assert torch.equal(lists.tokens, canvas.tokens)
    table = Canvas.blank(torch.arange(4).view(2, 2), 3, mask_id=MASK, pad_id=PAD)
    assert table.tokens[:, :2].tolist() == [[0, 1], [2, 3]]


@given(st.lists(st.integers(-1, 7), min_size=6, max_size=6))
def test_a_hint_is_given_and_nothing_else_changes(cells):
    overlay = torch.tensor(cells).reshape(2, 3)
    before = blank(1, 2)
    after = before.inpaint(overlay)
    hint = overlay >= 0
    assert torch.equal(after.given[:, 2:], hint)
    assert torch.equal(after.completion[hint], overlay[hint])
    assert (after.completion[~hint] == MASK).all()
    assert torch.equal(after.tokens[:, :2], before.tokens[:, :2])
    assert not before.given[:, 2:].any(), "the first canvas is untouched"
    assert torch.equal(after.inpaint(overlay).tokens, after.tokens), "giving the same again is fine"


def test_to_keeps_everything():
    canvas, moved = blank(2, 1), blank(2, 1).to("cpu")
    assert torch.equal(canvas.tokens, moved.tokens)
    assert torch.equal(canvas.attention, moved.attention)
    assert torch.equal(canvas.given, moved.given)
    assert moved.width == canvas.width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "between 1 and the canvas width, 5"),
        ({"width": 6}, "between 1 and the canvas width, 5"),
        ({"tokens": torch.zeros(1, 4, dtype=torch.long)}, r"are \(1, 4\), \(1, 5\) and \(1, 5\)"),
        ({"tokens": torch.zeros(1, 5)}, "must be long, bool and bool"),
        ({"given": torch.zeros(1, 5, dtype=torch.bool)}, "prompt holds blanks"),
        ({"attention": torch.tensor([[True, False, True, True, True]])}, "Pad on the left"),
        ({"attention": torch.tensor([[True, True, True, True, False]])}, "Pad on the left"),
    ],
)
def test_invariants_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        evolve(blank(2), **change)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ([[0, 0]], r"overlay is \(1, 2\), the completion \(1, 3\)"),
        ([[0, -2, 0]], "holds -2"),
        ([[5, -1, -1]], "already given"),
    ],
)
def test_overlays_that_make_no_sense_are_refused(overlay, message):
    canvas = blank(2).inpaint(torch.tensor([[4, -1, -1]]))
    with pytest.raises(ValueError, match=message):
        canvas.inpaint(torch.tensor(overlay))


def test_a_blank_canvas_needs_width():
    with pytest.raises(ValueError, match="width = 0 must be at least 1"):
        blank(2, width=0)
