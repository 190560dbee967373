"""Work on many rows, as many at a time as fit into memory: what does not fit is halved and tried again.

Rows add up however they are cut, so a smaller cut changes memory and speed, not results. A failed backward pass leaves
parts of gradients behind; so what has gradients is begun anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field, frozen

from igpo_rl import later

if TYPE_CHECKING:
    import torch
else:
    torch = later.load("torch")


def warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


class NoRoomError(RuntimeError):
    """Out of memory with as few rows as can be."""

    def __init__(self, what: str, option: str, rows: int) -> None:
        super().__init__(f"out of memory in {what} of {rows} rows at a time ({option}), and that cannot be halved")
        self.what, self.option, self.rows = what, option, rows


@frozen
class Work:
    """Rows to be cut into pieces."""

    rows: int
    size: Callable[[int], int] = lambda limit: max(1, limit)
    """Rows of a piece, from how many units fit at a time."""
    units: int = 1
    """What a row counts: its noised copies."""
    pieces: int = 1
    """At least so many, the last ones empty: sharded models want as many forwards on every rank."""
    closing: bool = False
    """Whether an empty piece comes last. Ranks exchange gradients in their last backward pass; where that is of nothing, it
    fits, and each rank may have cut, and begun anew, what came before it as it had to."""


@frozen
class Piece:
    """Some of the rows."""

    rows: slice
    first: bool
    """True also where all pieces so far were in vain."""
    last: bool

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


@define
class Room:
    """How much fits at a time. It only ever shrinks, and keeps its size from step to step."""

    limit: int
    """Units: rows, or their noised copies."""
    what: str = "token_scores"
    option: str = "score_rows"
    """Where the limit was set."""
    say: Callable[[str], None] = warn
    halves: bool = True
    """Whether what does not fit is halved. Not with weights in shards: a rank that fails leaves the others waiting."""
    around: Callable[[bool], AbstractContextManager[Any]] = lambda last: nullcontext()  # noqa: ARG005
    """What each piece is worked on in, given whether it is the last one: ranks exchange gradients in that one only, which
    DDP wants to know before the forward pass."""
    asked: int = field(init=False, default=Factory(lambda room: room.limit, takes_self=True))
    """The limit that it began with."""
    fits: bool = field(default=True, init=False)
    """False behind a `tried()` that ended early."""
    last: bool = field(default=True, init=False)
    trying: tuple[int, int, int] = field(default=(0, 0, 0), init=False)
    """Rows that are worked on, what each counts, and rows of the smallest piece."""

    def state(self) -> list[int]:
        """What a checkpoint keeps."""
        return [self.asked, self.limit]

    def recall(self, state: Sequence[int]) -> None:
        """Take up a checkpoint's limit, unless another one is asked for now."""
        if state and state[0] == self.asked:
            self.limit = state[1]

    def pieces(self, work: Work, *, anew: bool) -> Iterator[Piece]:
        """Pieces that cover the rows, for work done inside `tried()`. One that did not fit is cut smaller; `anew`: with
        all that came before it."""
        done = count = 0
        first = True
        while True:
            self.fits = True
            stop = min(work.rows, done + work.size(self.limit // work.units))
            count += 1
            last = done == stop and count >= work.pieces if work.closing else stop == work.rows and count >= work.pieces
            self.last, self.trying = last, (stop - done, work.units, work.size(0))
            yield Piece(slice(done, stop), first, last)
            if not self.fits:
                done, first, count = (0, True, 0) if anew else (done, first, count - 1)
            elif last:
                return
            else:
                done, first = stop, False

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Ends early where memory does not suffice; then the limit is half of what was tried. NoRoomError at the end."""
        rows, units, least = self.trying
        try:
            with self.around(self.last):
                yield
            return
        except torch.OutOfMemoryError as error:
            if not self.halves or rows <= least:
                raise NoRoomError(self.what, self.option, rows) from error
        self.limit, self.fits = rows * units // 2, False
        self.say(f"out of memory in {self.what} of {rows} rows at a time; from here on {self.option} = {self.limit}")
