"""The one denoising loop.

A step reads the model at the blanks of each row's current block and nowhere else, proposes a token for each, and
commits the surest. A row's current block is that of its first blank, so rows advance on their own; a row without
blanks makes room for the next. Everything stays on the device: the host waits a few times a forward, never once a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from attrs import frozen
from torch import Tensor

from igpo_sampling import noise
from igpo_sampling.cache import Reuse, Window
from igpo_sampling.canvas import Canvas
from igpo_sampling.commit import Confidence, Rule
from igpo_sampling.decoding import Decoding
from igpo_sampling.denoiser import Denoiser

POSITIONS = 128
"""Positions whose logits exist at a time: 65 MB in float32 for 126,464 tokens."""
CACHED = 2**21
"""Logits that are worked on at a time on a CPU: 8 MB stay in its cache, which makes softmaxes 2-3 times faster."""

Head = Callable[[Tensor], Tensor]


@frozen(eq=False)
class Sample:
    """What a sampler returns; rows and columns are those of the canvas's completion."""

    completion: Tensor
    """(B, L) long."""
    order: Tensor
    """(B, L) long: the row's step at which a token was committed, -1 where given."""
    confidence: Tensor
    """(B, L) float32: the confidence with which it was committed, 1 where given."""
    forwards: Tensor
    """(B,) long: model forwards spent on the row; with guidance each is of the row with and without what is given."""
    columns: Tensor
    """(B,) long: canvas columns that these forwards computed; a cache makes them fewer."""


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    seeds: Tensor,
    decoding: Decoding,
    *,
    confidence: Confidence,
    rule: Rule,
    mask_id: int,
    eos_id: int,
    watch: Callable[[int, Tensor], None] | None = None,
    tempered: bool = False,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Sample:
    """Fill every blank; `seeds` (B,) long.

    `tempered` takes confidences after temperature, top-p and top-k instead of from the model's own distribution.
    `observe(drift, rows)` is told before each choice the KL (R, L), in nats, of each blank's distribution to that of the
    row's step before, inf where there was none. `watch(step, tokens (B, T))` is called after each forward.
    """
    B, T, L = len(canvas), canvas.tokens.shape[1], canvas.width
    P, block, ways = T - L, decoding.block or L, 2 if decoding.guidance else 1
    given = canvas.given[:, P:]
    if block > L:
        raise ValueError(f"block = {block} is wider than the completion, width = {L}. Use at most {L}.")
    if seeds.shape != (B,) or seeds.dtype != torch.long:
        raise ValueError(
            f"seeds are {tuple(seeds.shape)} {seeds.dtype}, but the canvas has {B} rows. Give one seed a row, torch.long."
        )
    if (given & (canvas.completion == mask_id)).any():
        raise ValueError(f"a hint holds the mask token, {mask_id}. Leave a cell blank (-1) to have it filled.")
    device = canvas.tokens.device
    seeds = seeds.to(device)
    number = torch.arange(L, device=device) // block
    tokens = torch.where(canvas.given, canvas.tokens, mask_id)
    completion, blank = tokens[:, P:], ~given  # completion is a view: what is written there, the model sees
    order = torch.full((B, L), -1, device=device)
    certainty = torch.ones((B, L), device=device)
    forwards, columns = torch.zeros((2, B), dtype=torch.long, device=device)
    reuse = None if decoding.cache == "none" else Reuse(denoiser, decoding.cache, canvas.attention, ways)
    reader = _Reader(decoding, confidence, tempered, mask_id, eos_id, _Past(B, block, ways) if observe else None)

    def front(rows: Tensor) -> tuple[Tensor, Tensor]:
        """The open cells (R, L) of each row's current block, and the number (R, 1) of that block."""
        here = blank[rows]
        current = number[here.int().argmax(1)][:, None]
        return here & (number == current), current

    def forward(rows: Tensor, window: Window | None = None) -> None:
        """One forward of these rows, and what it commits."""
        here, current = front(rows)
        step, (row, column) = forwards[rows], here.nonzero(as_tuple=True)
        cells = rows[row], column
        inputs = tokens[rows], canvas.attention[rows], row * T + P + column
        if ways == 2:
            inputs = _with_and_without_given(*inputs, canvas.given[rows], mask_id)
        read = reader(cells, step[row], seeds[rows[row]])
        proposed, sure, drift = denoiser(*inputs, read) if window is None else denoiser(*inputs, read, window)
        ranking = torch.full((len(rows), L), -torch.inf, device=device)
        if observe is not None:
            observe((-ranking).index_put((row, column), drift), rows)
        ranking[row, column] = sure.clamp(min=torch.finfo(sure.dtype).min)
        chosen = rule(ranking, rows, step) & here
        surest = ranking.argmax(1, keepdim=True)
        kept = chosen.scatter(1, surest, chosen.gather(1, surest) | ~chosen.any(1, keepdim=True))[row, column]
        completion[cells] = torch.where(kept, proposed, mask_id)
        certainty[cells] = sure
        order[cells] = torch.where(kept, step[row], -1)
        blank[cells] = ~kept
        forwards[rows] += 1
        columns[rows] += ways * (T if window is None else window.columns.shape[1])
        if decoding.stop_at_eos:
            ended = ((completion[rows] == eos_id) | (number != current)).all(1)
            hinted = (given[rows] & (number > current)).any(1)
            stop = ended & ~hinted
            rest, last = rows[stop], step[stop, None]
            completion[rest] = completion[rest].where(~blank[rest], eos_id)
            order[rest] = order[rest].where(~blank[rest], last)
            blank[rest] = False

    waiting = blank.any(1).nonzero()[:, 0]
    live, most, tick = waiting[:0], max(1, decoding.max_rows // ways), 0
    with torch.no_grad():
        while True:
            keep = blank[live].any(1).nonzero()[:, 0]
            new, waiting = waiting.tensor_split([most - len(keep)])
            moved = len(new) > 0 or len(keep) < len(live)
            live = torch.cat([live[keep], new])
            if not len(live):
                break
            if reuse is None:
                forward(live)
            else:
                if moved:
                    reuse.move(keep, len(new))
                here, current = front(live)
                first, last = P + current[:, 0] * block, (P + current[:, 0] * block + block).clamp(max=T) - 1
                blanks = P + here.int().argmax(1), T - 1 - here.flip(1).int().argmax(1)
                for rows, window in reuse.windows(live, *reuse.spans(live, (first, last), blanks)):
                    forward(rows, window)
            if watch is not None:
                watch(tick, tokens.clone())
            tick += 1
    if not certainty.isfinite().all():
        raise ValueError("the model's logits are not finite. Its weights may be damaged, or its dtype too narrow.")
    return Sample(completion.clone(), order, certainty, forwards, columns)


def _with_and_without_given(
    tokens: Tensor, attention: Tensor, where: Tensor, given: Tensor, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, and behind them the same rows with masks for prompt and hints, as in the published code of LLaDA."""
    without = tokens.masked_fill(given, mask_id)
    return torch.cat([tokens, without]), attention.repeat(2, 1), torch.cat([where, where + tokens.numel()])


@frozen(eq=False)
class _Reader:
    """Reads hidden states into proposed tokens and how sure the model is of them, a few positions at a time."""

    decoding: Decoding
    confidence: Confidence
    tempered: bool
    mask_id: int
    eos_id: int
    past: _Past | None

    def __call__(
        self, cells: tuple[Tensor, Tensor], step: Tensor, seeds: Tensor
    ) -> Callable[[Head, Tensor], tuple[Tensor, ...]]:
        """For cells (rows, columns), both (N,) long, a `read` of hidden states: tokens (N,), confidences (N,) float32, drift."""
        u, v = (noise.uniform(seeds, step, cells[1], stream) for stream in (noise.TOKEN, noise.CONFIDENCE))
        early = cells[1] < self.decoding.eos_after

        def read(head: Head, hidden: Tensor) -> tuple[Tensor, ...]:
            N = len(u)
            states = hidden.view(-1, N, *hidden.shape[1:]).transpose(0, 1)  # (N, ways, d)
            before, known = (states[:, :0], early) if self.past is None else self.past.swap(cells, states)
            found: list[tuple[Tensor, ...]] = []
            for now, then, *rest in _parts(POSITIONS, states, before, known, early, u, v):
                logits = self.logits(head, now)
                earlier = self.logits(head, then) if self.past else logits[:, :0]
                rows = max(1, CACHED // logits.shape[1]) if logits.is_cpu else POSITIONS
                found += [self.choose(*few) for few in _parts(rows, logits, earlier, *rest)]
            return tuple(map(torch.cat, zip(*found, strict=True)))

        return read

    def logits(self, head: Head, states: Tensor) -> Tensor:
        """states (n, ways, d) -> (n, V), with guidance as in LLaDA: from without what is given to with it, and beyond."""
        if not self.decoding.guidance:
            return head(states[:, 0])
        given, free = (head(states[:, way]) for way in (0, 1))
        return free + (self.decoding.guidance + 1) * (given - free)

    def choose(
        self, logits: Tensor, before: Tensor, known: Tensor, early: Tensor, u: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        how, scale = self.decoding, self.decoding.temperature or 1.0
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        drift = _kl(logits, before).float().where(known, torch.inf) if self.past else u
        if how.eos_after:  # as though the model did not know it
            logits[:, self.eos_id] = logits[:, self.eos_id].masked_fill(early, -torch.inf)
        mask = logits[:, self.mask_id].clone()
        logits[:, self.mask_id] = -torch.inf  # never sampled ...
        narrow = (how.top_p < 1 or how.top_k is not None) and (how.temperature > 0 or self.tempered)
        drawn = noise.narrowed(logits, scale, how.top_p, how.top_k) if narrow else logits
        if how.temperature == 0:
            tokens = noise.largest(drawn)
        else:
            tokens = noise.draw(drawn, u, 1.0 if narrow else how.temperature)
        logits[:, self.mask_id] = mask  # ... but part of the softmax that confidences are taken from
        judged = (drawn if narrow else logits / scale) if self.tempered else logits
        return tokens, self.confidence(judged, tokens, v).float(), drift


class _Past:
    """Hidden states of each row's step before, at the cells of its block; logits would take V / d times the memory."""

    def __init__(self, rows: int, block: int, ways: int) -> None:
        self.shape = rows, block, ways
        self.states: Tensor | None = None

    def swap(self, cells: tuple[Tensor, Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        """states (N, ways, d) of cells -> those of the step before, and (N,) bool whether there were any."""
        if self.states is None:
            self.states = states.new_zeros(*self.shape[:2], *states.shape[1:])
            self.column = torch.full(self.shape[:2], -1, device=states.device)
        row, column = cells
        place = row, column % self.shape[1]
        before, known = self.states[place], self.column[place] == column
        self.states[place], self.column[place] = states, column
        return before, known


def _kl(logits: Tensor, before: Tensor) -> Tensor:
    """KL divergence (N,) in nats of softmax(logits) from softmax(before), both (N, V); 0 where both forbid a token."""
    logp, other = logits.log_softmax(1), before.to(logits.dtype).log_softmax(1)
    return (logp.exp() * (logp - other)).where(logp > -torch.inf, 0.0).sum(1)


def _parts(rows: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The tensors side by side, so many rows at a time."""
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
