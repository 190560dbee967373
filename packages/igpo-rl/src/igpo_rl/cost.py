"""What a step costs, in forwards, canvas columns and head positions, and in floating-point operations.

Counts come from the same plans and the same cuts into micro-batches that a step makes, so they are exact; docs/cost.md
has the formula and its numbers for an 8B model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from igpo_rl.advantages import has_signal
from igpo_rl.igpo import IGPO, alone
from igpo_rl.memory import Room, Work
from igpo_rl.views import cut

if TYPE_CHECKING:
    from igpo_rl.records import Rollouts, View


@frozen(kw_only=True)
class Figures:
    """What a model costs to run."""

    body: int
    """N, weights of the matrices that every column passes."""
    head: int
    """H, weights of the output head: hidden size x vocabulary."""
    attention: int
    """Layers x width of all heads of one."""


LLADA_8B = Figures(body=6_979_321_856, head=126_464 * 4096, attention=32 * 4096)
"""LLaDA-8B (arXiv 2502.09992)."""


@frozen(kw_only=True)
class Count:
    """Work of forward passes; counts add up."""

    inputs: int = 0
    """Canvases that went through the body, one forward each."""
    columns: int = 0
    """Their columns."""
    pairs: int = 0
    """Pairs of columns of one canvas, which attention compares."""
    head: int = 0
    """Positions given to the output head."""

    @classmethod
    def of(cls, inputs: int, width: int, head: int) -> Count:
        """`inputs` canvases of `width` columns, `head` positions of them all read."""
        return cls(inputs=inputs, columns=inputs * width, pairs=inputs * width * width, head=head)

    def __add__(self, other: Count) -> Count:
        return Count(
            inputs=self.inputs + other.inputs,
            columns=self.columns + other.columns,
            pairs=self.pairs + other.pairs,
            head=self.head + other.head,
        )

    def flops(self, model: Figures) -> int:
        """2 N columns + 4 layers d pairs + 2 H positions, of forward passes."""
        return 2 * model.body * self.columns + 4 * model.attention * self.pairs + 2 * model.head * self.head

    def training_flops(self, model: Figures, *, frozen: bool, recomputed: bool) -> int:
        """Forward and backward passes, the latter of twice a forward, or of once where the weights are `frozen` and only
        adapters are trained. The head is read again, and the body too where layers are `recomputed`."""
        body, head = evolve(self, head=0).flops(model), evolve(self, columns=0, pairs=0).flops(model)
        once = 1 if frozen else 2
        return (1 + once + recomputed) * body + (2 + once) * head


def learning(algorithm: IGPO, batch: Rollouts, step: int, mask_id: int, *, reference: bool) -> dict[str, Count]:
    """Forwards of `IGPO.learn` in a single process: of the old policy, the reference, and all updates.

    A backward pass costs twice a forward of what is trained, once of what is frozen; the head is read again for it.
    """
    rows = batch.take((has_signal(batch.reward, algorithm.group) | algorithm.keep_zero_signal).nonzero().flatten())
    assert rows.advantage is not None
    views = algorithm._views(rows, rows.advantage, step, mask_id, alone)
    room = Room(algorithm.score_rows, halves=False)
    work = algorithm._work(len(rows), views, room, alone)
    fixed = sum((_pass(view, work, room) for view in {id(view): view for view in views}.values()), Count())
    return {
        "old": fixed,
        "reference": fixed if reference and algorithm.loss.beta > 0 else Count(),
        "update": sum((_pass(view, work, room) for view in views), Count()),
    }


def _pass(view: View, work: Work, room: Room) -> Count:
    total = Count()
    for piece in room.pieces(work, anew=False):
        inside = cut(view, piece.rows.start, piece.rows.stop)
        inputs, width = inside.noised.shape
        read = inside.scored.new_zeros(inputs, inside.scored.shape[1]).long()
        read = read.index_add_(0, inside.source, inside.scored.long()) > 0
        total += Count.of(max(1, inputs), width, int(read.sum()))
    return total
