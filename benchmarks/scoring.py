"""Log-probs and entropies of one group of 8 rows (mean-field, prompt not masked), against the plain published way.

The published loop runs every row through the model, keeps the full-vocabulary logits of all positions, and takes
softmax and log(p + 1e-8) of them; with mu inner updates it does so mu times for the old policy and for the reference.
Ours runs one input a group, reads each position once and in chunks, and scores each distinct view once. Both sides
share one model in one process; the head dominates in the first rows, the body in the last ones. How memory grows with
G, L and V stands under Scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.harness import Row, compare
from igpo_rl.estimators import MeanField
from igpo_rl.records import Rollouts, View
from igpo_rl.scores import Scores, token_scores

NAME = "Scoring"
ROWS, PROMPT, WIDTH, UPDATES = 8, 64, 128, (1, 4)


class Body(nn.Module):
    """A plain transformer that follows igpo_rl's Denoiser protocol."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(
        self, tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., object] | None = None
    ) -> object:
        hidden = self.blocks(self.tokens(tokens), src_key_padding_mask=~attention).flatten(0, 1)[where]
        return self.head(hidden) if read is None else read(self.head, hidden)


def group(vocabulary: int, rows: int = ROWS, width: int = WIDTH, prompt: int = PROMPT) -> Rollouts:
    """Completions of one prompt."""
    generator = torch.Generator().manual_seed(0)
    every = torch.ones(rows, width, dtype=torch.bool)
    return Rollouts(
        prompt=torch.randint(vocabulary - 1, (1, prompt), generator=generator).expand(rows, -1),
        prompt_valid=torch.ones(rows, prompt, dtype=torch.bool),
        completion=torch.randint(vocabulary - 1, (rows, width), generator=generator),
        given=~every,
        valid=every,
        order=torch.zeros(rows, width, dtype=torch.long),
        confidence=torch.ones(rows, width),
        reward=torch.zeros(rows),
        correct=torch.zeros(rows, dtype=torch.bool),
        verifiable=torch.ones(rows, dtype=torch.bool),
        group=torch.zeros(rows, dtype=torch.long),
        forwards=torch.ones(rows, dtype=torch.long),
    )


def plan(rollouts: Rollouts, mask_id: int) -> View:
    return MeanField()(rollouts, rollouts.reward, torch.arange(len(rollouts.reward)), mask_id)


def published(model: nn.Module, rollouts: Rollouts, mask_id: int) -> tuple[Tensor, Tensor]:
    """Every row on its own, all logits at once."""
    asked = rollouts.completion
    noised = torch.cat([rollouts.prompt, torch.full_like(asked, mask_id)], 1)
    everywhere = torch.arange(noised.numel(), device=noised.device)
    logits = model(noised, torch.ones_like(noised, dtype=torch.bool), everywhere)
    logits = logits.view(*noised.shape, -1)[:, -asked.shape[1] :]
    logp = -cross_entropy(logits.flatten(0, 1), asked.flatten(), reduction="none").view_as(asked)
    with torch.no_grad():
        chance = logits.softmax(-1)
        entropy = -(chance * (chance + 1e-8).log()).sum(-1)
    return logp, entropy


def cases(
    model: Body, rollouts: Rollouts, mask_id: int
) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    def ours() -> Scores:
        return token_scores(model, plan(rollouts, mask_id), rollouts.completion, entropy=True)

    def without_gradient(function: Callable[[], object], times: int) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                for _ in range(times):
                    function()

        return run

    def with_gradient(logp: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            logp().sum().backward()

        return run

    def theirs() -> tuple[Tensor, Tensor]:
        return published(model, rollouts, mask_id)

    yield "forward", without_gradient(ours, 1), without_gradient(theirs, 1)
    yield "forward and backward", with_gradient(lambda: ours().logp), with_gradient(lambda: theirs()[0])
    for updates in UPDATES:
        yield f"old and reference, mu = {updates}", without_gradient(ours, 2), without_gradient(theirs, 2 * updates)


@torch.no_grad()
def error(model: Body, rollouts: Rollouts, mask_id: int) -> float:
    """Largest difference of our log-probs and entropies from float64 on the same hidden states."""
    view = plan(rollouts, mask_id)
    scores = token_scores(model, view, rollouts.completion, entropy=True)
    where = PROMPT + torch.arange(WIDTH)
    worst = 0.0
    for position, logits in zip(range(WIDTH), model(view.noised, view.attention, where), strict=True):
        full = logits.double().log_softmax(-1)
        worst = max(
            worst,
            float((scores.logp[:, position] - full[rollouts.completion[:, position]]).abs().max()),
            float((scores.entropy[:, position] + (full.exp() * full).sum()).abs().max()),
        )
    return worst


def run(quick: bool) -> list[Row]:
    sizes = [(4096, 64, 2)] if quick else [(126_464, 256, 4), (32_000, 256, 4), (32_000, 512, 8)]
    rows: list[Row] = []
    for vocabulary, width, layers in sizes:
        model = Body(vocabulary, width, layers).eval()
        rollouts, mask_id = group(vocabulary), vocabulary - 1
        off = f"largest error {error(model, rollouts, mask_id):.1e}"
        gradients = sum(weight.nbytes for weight in model.parameters()) / 2**20
        for name, ours, theirs in cases(model, rollouts, mask_id):
            case = f"V {vocabulary:,}, d {width}, {layers} layers: {name}"
            long = name.startswith("old")
            note = off + (f"; gradients of the weights are {gradients:.0f} MB of both" if "backward" in name else "")
            if not long:  # what is set up once is no peak of either side
                for side in (ours, theirs):
                    side()
                    model.zero_grad()
            short = (ours, ours) if long else None  # the published forwards have been warmed up
            repeats = 1 if long or quick else 3
            rows.append(compare(case, ours, theirs, repeats=repeats, memory=not long, small=short, note=note))
    return rows
