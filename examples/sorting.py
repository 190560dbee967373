"""A model, a task and a way to sample: what a project has before it meets igpo_rl. Shared by two examples.

The model sorts four letters. The largest letter is the answer, which no hint may show.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from igpo_rl import Problem, Rollouts, uniforms

LETTERS, LENGTH, MASK = 8, 4, 8


class Model(nn.Module):
    """Any module whose forward returns logits at chosen cells, and hands them to `read` where that is given."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(LETTERS + 1, width), nn.Embedding(2 * LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, LETTERS + 1)

    def forward(
        self, tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., Tensor] | None = None
    ) -> Tensor:
        hidden = self.body(self.embed(tokens) + self.place.weight, src_key_padding_mask=~attention)
        hidden = hidden.flatten(0, 1)[where]
        return read(self.head, hidden) if read else self.head(hidden)


def problems() -> Iterator[Problem]:
    """Endless letters to sort; the trace is the sorted list, and all of it but the last letter may be a hint."""
    rng = random.Random(0)
    while True:
        letters = [rng.randrange(LETTERS) for _ in range(LENGTH)]
        yield Problem(
            key="".join(map(str, letters)),
            prompt=torch.tensor(letters),
            trace=torch.tensor(sorted(letters)),
            hintable=torch.arange(LENGTH) < LENGTH - 1,
        )


def player(model: Model) -> Callable[[Sequence[Problem], Tensor | None, Tensor], Rollouts]:
    """Generate and verify: all blanks are drawn at once, each by one uniform number of its row's own seed."""

    @torch.no_grad()
    def play(rows: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
        prompt = torch.stack([row.prompt for row in rows])
        blank = torch.ones_like(prompt, dtype=torch.bool) if overlay is None else overlay < 0
        canvas = torch.cat(
            [prompt, prompt.masked_fill(blank, MASK) if overlay is None else overlay.where(~blank, MASK)], 1
        )
        cells = torch.arange(canvas.numel()).view_as(canvas)[:, LENGTH:]
        attended = torch.ones_like(canvas, dtype=torch.bool)
        logits = model(canvas, attended, cells.flatten())[:, :MASK]
        edges = logits.softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(edges, uniforms(seeds, LENGTH).view(-1, 1) * edges[:, -1:], right=True)
        completion = canvas[:, LENGTH:].where(~blank, drawn.clamp(max=LETTERS - 1).view_as(prompt))
        correct = (completion == prompt.sort(1).values).all(1)
        everywhere = torch.ones_like(blank)
        return Rollouts(
            prompt=prompt,
            prompt_valid=everywhere,
            completion=completion,
            valid=everywhere,
            reward=correct.float(),
            correct=correct,
            given=~blank,
            order=blank.long() - 1,
        )

    return play
