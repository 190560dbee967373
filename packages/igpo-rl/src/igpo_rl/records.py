"""The records that cross borders: plain tensors with names.

Letters as everywhere: G group size, B rows, P prompt width (left-padded), L completion width, T = P + L, H trace
tokens, U noised inputs, S scorings, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from attrs import Factory, evolve, field, fields, frozen

from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


class Denoiser(Protocol):
    """What igpo-rl needs of a model; `igpo_sampling.denoiser.Denoiser` and any callable of this shape fit."""

    def __call__(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Any] | None = None,
    ) -> Any:
        """tokens (U, T) long, attention (U, T) bool, where (N,) long flat row-major indices -> logits (N, V) of the token at each.

        With `read`, returns `read(head, hidden)` run inside this one forward: hidden (N, d), head: (n, d) -> (n, V).
        """
        ...


@frozen(eq=False, kw_only=True)
class Problem:
    """One tokenised task. Its `key` seeds everything that is drawn for it."""

    key: str
    prompt: Tensor
    """(P,) long, without padding."""
    trace: Tensor | None = None
    """(H,) long reference solution, or None."""
    hintable: Tensor | None = None
    """(H,) bool: True where a trace token may become a hint; False on every token that touches an answer span."""
    breaks: Tensor | None = None
    """(H,) bool: True on the last token of a sentence or line."""
    steps: Tensor | None = None
    """(H,) bool: True on the last token of a line or equation."""
    answer_value: Tensor | None = None
    """(H,) bool: True where the answer's value occurs, inside or outside a span (for `hint/answer_value_seen`)."""
    turn: int = 0
    """How often it was drawn before in this phase, set by `IGPO.collect`: each time it is sampled with other seeds."""


@frozen(eq=False, kw_only=True)
class Rollouts:
    """Rows of verified completions; a group's G rows are adjacent and in sample order."""

    prompt: Tensor
    """(B, P) long, left-padded."""
    prompt_valid: Tensor
    """(B, P) bool: True on prompt tokens, False on left padding."""
    completion: Tensor
    """(B, L) long."""
    valid: Tensor
    """(B, L) bool: True up to and including the first EOS: the positions that are scored."""
    reward: Tensor
    """(B,) float."""
    correct: Tensor
    """(B,) bool: the verifier's word; it alone decides whether a group is stuck."""
    given: Tensor = field(default=Factory(lambda self: torch.zeros_like(self.valid), takes_self=True))
    """(B, L) bool: True on hint tokens; by default none are."""
    verifiable: Tensor = field(default=Factory(lambda self: torch.ones_like(self.correct), takes_self=True))
    """(B,) bool: False where no verdict could be had; a group with such a row never triggers hints."""
    group: Tensor = field(default=Factory(lambda self: self._runs(), takes_self=True))
    """(B,) long: index of the row's problem in this phase, set by `IGPO.collect`; by default that of its run of equal prompts."""
    order: Tensor | None = None
    """(B, L) long: the step at which a token was committed, -1 where given; for estimators that replay it."""
    confidence: Tensor | None = None
    """(B, L) float: how sure the sampler was of each token."""
    forwards: Tensor | None = None
    """(B,) long: model forwards spent on the row (for `sample/forwards`)."""
    attention: Tensor | None = None
    """(B, L) bool: completion positions that are attended; None means all (EOS fill attended, the default)."""
    ended: Tensor | None = None
    """(B,) bool: the completion has an EOS, where the player says so (for `sample/eos`)."""
    derived: Tensor | None = None
    """(B,) float: 1 where the working is right too, 0 where it is not, nan where the verifier does not say."""
    keys: tuple[str, ...] = ()
    """The problem's key, a row each."""
    texts: tuple[str, ...] = ()
    """The decoded completions up to the first EOS, a row each, where the player keeps them."""
    notes: tuple[str, ...] = ()
    """The verdicts' notes, a row each."""
    answers: tuple[str | None, ...] = ()
    """The answer that the verifier read, a row each, where the player keeps it."""
    advantage: Tensor | None = None
    """(B,) float, set by `IGPO.collect`."""
    hinted: Tensor | None = None
    """(B,) bool, set by `IGPO.collect`: rows that came from the inpainting play and replaced an original."""
    stuck: Tensor | None = None
    """(B,) bool, set by `IGPO.collect`: rows of groups that had no correct row before hints."""
    metrics: Mapping[str, float] = field(factory=dict)
    """What `Play` measured beside the rows, and later what `IGPO.collect` did."""

    def __attrs_post_init__(self) -> None:
        """ValueError where a column is not (B, ...), or a mask not bool."""
        masks = ("prompt_valid", "valid", "given", "correct", "verifiable", "attention", "hinted", "stuck", "ended")
        for name, column in self._values():
            if len(column) != len(self) and not (isinstance(column, tuple) and not column):
                raise ValueError(f"rollouts have {len(self)} completions, but {len(column)} rows of `{name}`.")
            if name in masks and column.dtype != torch.bool:
                raise ValueError(
                    f"`{name}` of rollouts is {column.dtype}; it says True or False, so make it torch.bool."
                )

    def __len__(self) -> int:
        return int(self.completion.shape[0])

    def _runs(self) -> Tensor:
        """(B,) long: 0 for the first rows with one prompt, 1 for the next ones, ..."""
        same = (self.prompt[1:] == self.prompt[:-1]) & (self.prompt_valid[1:] == self.prompt_valid[:-1])
        return torch.nn.functional.pad((~same.all(1)).long(), (min(1, len(self)), 0)).cumsum(0)

    def _values(self) -> list[tuple[str, Any]]:
        """The columns that are there, by name."""
        values = ((one.name, getattr(self, one.name)) for one in fields(type(self)) if one.name != "metrics")
        return [(name, value) for name, value in values if value is not None]

    def take(self, rows: Tensor) -> Rollouts:
        """The rows at these indices, in this order."""
        places = rows.tolist()
        chosen: dict[str, Any] = {
            name: tuple(column[row] for row in places) if isinstance(column, tuple) else column[rows]
            for name, column in self.columns().items()
        }
        return evolve(self, **chosen)

    def columns(self) -> dict[str, Any]:
        """Everything that has one entry a row: tensors and tuples, without what is absent."""
        return {name: value for name, value in self._values() if len(value) == len(self)}


@frozen(eq=False, kw_only=True)
class View:
    """Noised copies of a batch and what to score in them (a mask plan). U < S where rows share an input."""

    noised: Tensor
    """(U, T) long: prompt and completion with some tokens replaced by the mask token."""
    attention: Tensor
    """(U, T) bool."""
    source: Tensor
    """(S,) long: which noised input a scoring reads."""
    row: Tensor
    """(S,) long: which row of the batch it scores; sorted."""
    scored: Tensor
    """(S, L) bool: the completion positions that are scored."""
    weight: Tensor
    """(S, L) float: what each scored log-prob counts in its row."""
    reduce: Callable[[View, Tensor, int], Tensor] | None = None
    """(view, logp (S, L), B) -> (B, L); default: the weighted sum by row. The view may be a part, cut between rows."""
    extra: Tensor | None = None
    """(S, ...) what `reduce` needs to know of each scoring besides its weights."""


@frozen(eq=False)
class Loss:
    """A differentiable value and what was measured beside it."""

    value: Tensor
    metrics: Mapping[str, float] = field(factory=dict)
    last: bool = True
    """True on the last micro-batch of an inner update: step the optimiser after it."""
    first: bool = False
    """True on the first one, and where one did not fit into memory and all are cut anew: gradients so far are void."""


@frozen(kw_only=True)
class Totals:
    """Counts over all ranks and micro-batches of one inner update, so that the parts' values add up to the batch's."""

    rows: int
    """Rows of all groups, those without signal included."""
    tokens: int
    """Completion tokens that keep their gradient."""
    hints: int = 0
    """Those of them that are hints."""


Play: TypeAlias = Callable[[Sequence[Problem], "Tensor | None", "Tensor"], Rollouts]
"""(problems, one a row; overlay (B, L) long with -1 = leave blank, or None; seeds (B,) long) -> generated and verified rows.
It is called equally often on every rank, with no rows where only other ranks have some."""
