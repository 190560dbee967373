"""Exact rollouts against the published loop: one model, one process, the same schedule, hints in half of the rows.

The published loop reads the model at every position, takes a float64 softmax and float64 Gumbel noise over the whole
vocabulary there, and chooses each row's tokens by a top-k on the host (LLaDA's own loop: a float32 softmax). Ours
reads the blanks of the block. The last rows compare the sampler with its own forwards: what sampling itself costs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.loop import POSITIONS
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

NAME = "Rollout"
ROWS, PROMPT, WIDTH, BLOCK = 8, 64, 128, 32


def network(vocabulary: int, width: int, layers: int) -> LLaDAForDiffusion:
    """Random weights, large enough in the head that tokens differ in probability; the mask is the last token."""
    config = LLaDAConfig(d_model=width, n_layers=layers, n_heads=width // 64, vocab_size=vocabulary, mlp_ratio=3)
    made = LLaDAForDiffusion(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, 2 * width**-0.5, generator=generator)
    return made.eval()


def canvas(vocabulary: int, rows: int = ROWS, prompt: int = PROMPT, width: int = WIDTH) -> Canvas:
    """Random prompts; every second row has a quarter of its completion given."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(vocabulary - 1, (rows, prompt), generator=generator)
    overlay = torch.randint(vocabulary - 1, (rows, width), generator=generator)
    overlay[torch.rand(rows, width, generator=generator) > 0.25] = -1
    overlay[::2] = -1
    return Canvas.blank(list(prompts), width, mask_id=vocabulary - 1, pad_id=0).inpaint(overlay)


@torch.no_grad()
def published(model: LLaDAForDiffusion, canvas: Canvas, steps: int, temperature: float, softmax: torch.dtype) -> Tensor:
    """The published loop, plainly: all positions, the whole vocabulary, a loop over rows."""
    mask_id = model.config.vocab_size - 1
    x = torch.where(canvas.given, canvas.tokens, mask_id)
    (B, T), P = x.shape, x.shape[1] - canvas.width
    everywhere = torch.arange(B * T)
    generator = torch.Generator().manual_seed(2)
    blocks = canvas.width // BLOCK
    share = steps // blocks
    for block in range(blocks):
        start, end = P + block * BLOCK, P + (block + 1) * BLOCK
        total = (x[:, start:end] == mask_id).sum(1)
        for step in range(share):
            mask = x == mask_id
            logits = model(x, canvas.attention, everywhere).view(B, T, -1)
            if temperature > 0:
                uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator)
                noised = logits.double().exp() / (-uniform.log()) ** temperature
            else:
                noised = logits
            proposed = torch.where(mask, noised.argmax(-1), x)
            shares = logits.to(softmax).softmax(-1)
            confidence = shares.gather(-1, proposed[:, :, None])[:, :, 0]
            confidence[:, end:] = -torch.inf
            confidence = confidence.masked_fill(~mask, -torch.inf)
            for row in range(B):
                count = int(total[row]) // share + (step < int(total[row]) % share)
                chosen = confidence[row].topk(count).indices
                x[row, chosen] = proposed[row, chosen]
    return x[:, P:]


def rollout(model: LLaDAForDiffusion, canvas: Canvas, steps: int, temperature: float) -> Tensor:
    sampler = LLaDASampler(steps=steps, block=BLOCK, temperature=temperature)
    seeds = torch.arange(len(canvas))
    return sampler(model, canvas, seeds, mask_id=model.config.vocab_size - 1, eos_id=0).completion


def versus_published(vocabulary: int, temperature: float, softmax: torch.dtype, steps: int) -> Row:
    model, blank = network(vocabulary, 256, 4), canvas(vocabulary)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = rollout(model, blank, steps, temperature)

    def theirs() -> None:
        results["theirs"] = published(model, blank, steps, temperature, softmax)

    name = "published" if softmax == torch.float64 else "LLaDA's own"
    row = compare(
        f"V {vocabulary:,}, T {temperature:g}, {name} loop", ours, theirs, repeats=1 if vocabulary > 100_000 else 3
    )
    row["note"] = f"{steps} steps, d 256 x 4"
    if temperature == 0:
        same = (results["ours"] == results["theirs"]).float().mean()
        row["note"] += f"; {float(same):.1%} of tokens equal"
    return row


def overhead(temperature: float, rows: int, quick: bool) -> Row:
    """The sampler against nothing but the forwards that it makes, their head included."""
    vocabulary, prompt, width, steps = (32_000, 32, 32, 4) if not quick else (1_000, 8, 32, 4)
    model = network(vocabulary, 768, 12) if not quick else network(vocabulary, 64, 2)
    blank = canvas(vocabulary, rows, prompt, width)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def recording(tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., object]) -> object:
        seen.append((tokens, attention, where))
        return model(tokens, attention, where, read)

    sampler = LLaDASampler(steps=steps, block=width, temperature=temperature, max_rows=rows)
    settings = {"mask_id": vocabulary - 1, "eos_id": 0}
    sampler(recording, blank, torch.arange(rows), **settings)

    def heads(head: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
        for part in hidden.split(POSITIONS):
            head(part)

    @torch.no_grad()
    def forwards() -> None:
        for tokens, attention, where in seen:
            model(tokens, attention, where, heads)

    case = f"V {vocabulary:,}, T {temperature:g}, batch {rows}, forwards alone"
    row = compare(
        case,
        lambda: sampler(model, blank, torch.arange(rows), **settings),
        forwards,
        repeats=3,
        memory=False,
    )
    parameters = sum(weight.numel() for weight in model.parameters())
    row["note"] = f"{parameters / 1e6:.0f} M parameters; sampling adds {1 / row['ratio'] - 1:.1%}"
    return row


def run(quick: bool) -> list[Row]:
    sizes = (1_000,) if quick else (32_000, 126_464)
    steps = 4 if quick else 16
    rows = [
        versus_published(vocabulary, temperature, torch.float64, steps)
        for vocabulary in sizes
        for temperature in (0.0, 1.2)
    ]
    rows.append(versus_published(sizes[-1], 0.0, torch.float32, steps))
    return rows + [overhead(temperature, 16, quick) for temperature in (0.0, 1.2)]
