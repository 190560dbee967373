"""What does not fit is cut smaller and done again: the numbers stay, and no failed backward pass leaves a trace."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from accelerate import debug_launcher
from hypothesis import given
from hypothesis import strategies as st
from rl_tiny import TinyDenoiser
from test_rl_trainer import Run

from igpo_rl.losses import WD1
from igpo_rl.memory import NoRoomError, Room, Work
from igpo_rl.trainer import Updater


class _Grown(torch.autograd.Function):
    """Nothing, until its gradient is asked for."""

    @staticmethod
    def forward(ctx, value, fits):
        ctx.fits = fits
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.fits:
            raise torch.OutOfMemoryError("in the backward pass")
        return gradient, None


class Small(TinyDenoiser):
    """A model on a device where `most` inputs fit; `late`: forward passes fit, and the backward pass fails half-way."""

    most, late, failed = 99, False, 0

    def forward(self, tokens, attention, where, read=None):
        fits = len(tokens) <= self.most or not (torch.is_grad_enabled() or not self.late)
        Small.failed += not fits
        if not fits and not self.late:
            raise torch.OutOfMemoryError("in the forward pass")
        if fits:
            return super().forward(tokens, attention, where, read)
        # The head gets its gradient before the failure below it.
        hook = self.blocks[0]["q"].register_forward_hook(lambda module, inputs, output: _Grown.apply(output, False))
        try:
            return super().forward(tokens, attention, where, read)
        finally:
            hook.remove()


def small(most: int, late: bool = False, score_rows: int = 64, **options) -> Run:
    """A run of both phases on such a device, and what it said."""
    run = Run(double=True, score_rows=score_rows, **options)
    module = run.accelerator.unwrap_model(run.policy)
    module.__class__ = Small
    module.most, module.late = most, late
    return run


def routine(run: Run, said: list[str], *rooms: Room):
    plain = run.routine
    run.routine = lambda **options: plain(say=said.append, rooms=rooms, **options)
    return run


def near(one: Run, other: Run) -> bool:
    return all(torch.allclose(a, b, atol=1e-9, rtol=0) for a, b in zip(one.weights(), other.weights(), strict=True))


@pytest.fixture(scope="module")
def straight():
    run = Run(double=True, score_rows=64)
    run.sft()
    run.rl()
    assert max(abs(metrics.get("policy/loss", 0)) for _, _, metrics in run.log) > 1e-5
    return run


@pytest.mark.parametrize("late", [False, True])
def test_a_device_that_is_too_small_changes_no_number(straight, late):
    said: list[str] = []
    run = routine(small(3, late), said)
    Small.failed = 0
    run.sft()
    plain, run.play = run.play, lambda *inputs: roomy(run.policy, plain, inputs)
    run.rl()
    assert near(run, straight)
    for (_, _, ours), (_, _, theirs) in zip(run.log, straight.log, strict=True):
        names = [name for name in theirs if not name.startswith("time/")]
        assert {name: ours[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, abs=1e-9)
    assert (
        said
        == [  # the batch of 8 at once, then its halves; kept until the end of each phase
            "out of memory in token_scores of 8 rows at a time; from here on score_rows = 4",
            "out of memory in token_scores of 4 rows at a time; from here on score_rows = 2",
            *(text for text in said[2:] if "score_rows" in text),
        ]
    )
    assert 3 <= len(said) <= 6
    assert Small.failed == len(said)


def test_a_run_that_goes_on_knows_what_fitted(tmp_path, straight):
    """Unless another size is asked for, as for a larger device."""
    said: list[str] = []
    playing = Room(16, "sampling", "play_rows")
    playing.limit = 4
    first = routine(small(3, folder=tmp_path, stop_after=2), said, playing)
    assert first.sft() == 2
    assert len(said) == 2
    saved = first.checkpoints.latest()
    assert saved.load()["rooms"] == {"score_rows": [64, 2], "play_rows": [16, 4]}
    playing = Room(16, "sampling", "play_rows")
    again = routine(small(3), said, playing)
    again.sft(saved)
    assert len(said) == 2
    assert playing.limit == 4
    assert [step for step, _, _ in again.log] == [3]
    assert again.log[0][2]["sft/loss"] == pytest.approx(straight.log[2][2]["sft/loss"], abs=1e-9)
    larger = routine(small(99, score_rows=32), said)
    head = larger.accelerator.unwrap_model(larger.policy).inputs
    larger.sft(saved)
    assert head[-1] == 8


def roomy(policy, play, inputs):
    """Rollouts fit."""
    most, policy.most = policy.most, 99
    try:
        return play(*inputs)
    finally:
        policy.most = most


def test_gradients_of_what_failed_would_show(straight, monkeypatch):
    """Faulty: the same, with the gradients that a failed backward pass left."""
    monkeypatch.setattr(Updater, "restart", lambda self: None)
    run = small(3, late=True)
    with pytest.warns(UserWarning, match="out of memory in token_scores of 8 rows"):
        run.sft()
    reference = Run(double=True, score_rows=64)
    reference.sft()
    assert not near(run, reference)


@pytest.mark.parametrize(("options", "rows"), [({}, 1), ({"loss": WD1()}, 4)])
def test_what_cannot_be_halved_ends_the_training(options, rows):
    run = small(0, **options)
    plain, run.play = run.play, lambda *inputs: roomy(run.policy, plain, inputs)
    with pytest.warns(UserWarning, match="from here on"), pytest.raises(NoRoomError) as caught:
        run.rl()
    assert (caught.value.what, caught.value.option, caught.value.rows) == ("token_scores", "score_rows", rows)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_shards_are_never_tried_again():
    room = Room(4, halves=False)
    (piece,) = zip(room.pieces(Work(3), anew=True), range(1), strict=True)
    with pytest.raises(NoRoomError, match="3 rows at a time"), room.tried():
        raise torch.OutOfMemoryError
    assert piece[0].last


@given(
    rows=st.integers(0, 40),
    limit=st.integers(1, 64),
    units=st.integers(1, 5),
    least=st.integers(1, 3),
    pieces=st.integers(1, 6),
    closing=st.booleans(),
    anew=st.booleans(),
    fits=st.integers(3, 40),
)
def test_pieces_cover_the_rows_however_often_they_do_not_fit(rows, limit, units, least, pieces, closing, anew, fits):
    said: list[str] = []
    room = Room(limit, say=said.append)
    work = Work(rows, lambda most: max(least, most // least * least), units, pieces, closing)
    done: list[range] = []
    ended = 0
    for piece in room.pieces(work, anew=anew):
        assert not ended
        if piece.first and anew:
            done = []
        with room.tried():
            if len(piece) > fits:
                raise torch.OutOfMemoryError
            done.append(range(piece.rows.start, piece.rows.stop))
            ended += piece.last
    assert ended == 1
    assert [row for part in done for row in part] == list(range(rows))
    assert len(done) >= pieces
    assert not (closing and done[-1])
    assert all(part or index >= len([each for each in done if each]) for index, part in enumerate(done))
    assert len(said) <= 8


# two processes --------------------------------------------------------------------------------------------------------


def one_small_rank(path: str) -> None:
    """The second rank's device is too small, in the middle of backward passes and later before them."""
    torch.set_num_threads(1)
    said: list[str] = []
    run = routine(small(99, True, score_rows=8), said)
    module = run.accelerator.unwrap_model(run.policy)
    plain, run.play = run.play, lambda *inputs: roomy(module, plain, inputs)
    if run.accelerator.process_index == 1:
        module.most = 3
    run.sft()
    module.late = False
    run.rl()
    torch.save((run.weights(), said), f"{path}/{run.accelerator.process_index}")


def launch(path: str) -> None:
    debug_launcher(one_small_rank, (path,), num_processes=2)


def test_ranks_that_cut_differently_stay_together(tmp_path, straight):
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path),))
    launched.start()
    launched.join(120)
    assert launched.exitcode == 0
    (one, nothing), (other, said) = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    assert nothing == []
    assert said[0] == "out of memory in token_scores of 4 rows at a time; from here on score_rows = 2"
    assert len(said) >= 2
    for weights in (one, other):
        assert all(torch.allclose(a, b, atol=1e-8, rtol=0) for a, b in zip(weights, straight.weights(), strict=True))
