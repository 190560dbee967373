"""Conformance checks for samplers, models and denoisers, for this package's own and for third parties'.

They raise AssertionError naming the broken promise; call them in a test: `check_sampler(MySampler(steps=8))`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from attrs import evolve
from torch import Tensor, nn

from igpo_sampling.cache import KeyValues, Window, trait
from igpo_sampling.canvas import Canvas
from igpo_sampling.denoiser import Denoiser, Loaded, Model
from igpo_sampling.loop import Sample
from igpo_sampling.samplers import Sampler

Result = TypeVar("Result")


class TableDenoiser(nn.Module):
    """Logits looked up by a hash of all that is seen: full context, and bit-equal rows, as nothing is multiplied.

    Positions count from the right end, so left padding changes nothing. What a token adds to the hash is kept as its key.
    """

    table: Tensor

    def __init__(
        self, vocab: int, *, states: int = 257, scale: float = 3.0, seed: int = 0, block: int | None = None
    ) -> None:
        """With `block`, a position sees its own and earlier blocks only."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("table", scale * torch.randn(states, vocab, generator=generator))
        self.caches = ("prefix", "dual") if block is None else ("prefix",)
        if block is not None:
            self.block = block

    def forward(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Result] | None = None,
        window: Window | None = None,
    ) -> Tensor | Result:
        T = tokens.shape[1]
        place = torch.arange(T, 0, -1, device=tokens.device)
        keys = (tokens + 1) * (31 * place * place + 17)
        if window is not None:
            computed = keys.gather(1, window.columns)[:, None, :, None]
            keys = window.store.put(0, window.columns, computed, computed)[0][:, 0, :, 0]
        if (block := trait(self, "block", None)) is None:
            context = (keys * attention).sum(1, keepdim=True)
        else:
            number = (T - place - attention.int().argmax(1, keepdim=True)) // block
            context = ((keys * attention)[:, None, :] * (number[:, None, :] <= number[:, :, None])).sum(2)
        state = (context + 7919 * place) % len(self.table)
        if window is not None:
            state, where = state.gather(1, window.columns), window.locate(where, T)
        hidden = state.flatten()[where][:, None]
        return self.head(hidden) if read is None else read(self.head, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        return self.table[hidden[:, 0]]


def check_sampler(sampler: Sampler, *, width: int = 40) -> None:
    """Everything that `Sampler` promises, on canvases with unequal prompts and unequal hints."""
    vocab, mask_id, eos_id = 19, 18, 17
    denoiser = TableDenoiser(vocab)
    lengths, hints = (3, 7, 0, 7, 5), (0, width // 2, width - 1, width, 1)
    rows = [torch.arange(length) for length in lengths]
    overlay = torch.full((len(rows), width), -1)
    generator = torch.Generator().manual_seed(0)
    for row, count in enumerate(hints):
        overlay[row, torch.randperm(width, generator=generator)[:count]] = row
    seeds = torch.arange(len(rows)) * 1000 - 2000
    state = torch.random.get_rng_state()

    def sample(chosen: list[int]) -> Sample:
        blank = Canvas.blank([rows[row] for row in chosen], width, mask_id=mask_id, pad_id=eos_id)
        canvas = blank.inpaint(overlay[chosen])
        before = canvas.tokens.clone(), canvas.given.clone()
        result = sampler(denoiser, canvas, seeds[chosen], mask_id=mask_id, eos_id=eos_id)
        _hold(
            torch.equal(before[0], canvas.tokens) and torch.equal(before[1], canvas.given), "the canvas is not changed"
        )
        return result

    everyone = list(range(len(rows)))
    whole = sample(everyone)
    given = overlay >= 0
    _hold(whole.completion.shape == overlay.shape, "the completion is (B, L)")
    _hold(torch.equal(whole.completion[given], overlay[given]), "given tokens never change")
    _hold(not (whole.completion == mask_id).any(), "no mask is left or sampled")
    _hold(bool(((whole.completion >= 0) & (whole.completion < vocab)).all()), "tokens are of the vocabulary")
    _hold(torch.equal(whole.order == -1, given), "order is -1 on given tokens and nowhere else")
    _hold(bool(whole.confidence.isfinite().all()), "confidences are finite")
    steps = torch.tensor([len(set(order[order >= 0].tolist())) for order in whole.order])
    _hold(torch.equal(steps, whole.forwards), "each forward of a row commits something, and is counted")
    for chosen in (everyone, everyone[::-1], *([row] for row in everyone)):
        part = sample(chosen)
        for name in ("completion", "order", "confidence", "forwards"):
            same = torch.equal(getattr(part, name), getattr(whole, name)[chosen])
            _hold(same, f"a row's {name} is the same again, alone and in any order of rows")
    _hold(sample([]).completion.shape == (0, width), "no rows are fine")
    _hold(torch.equal(state, torch.random.get_rng_state()), "global random state is not touched")


def check_denoiser(denoiser: Denoiser, vocab: int, *, tolerance: float = 1e-4) -> None:
    """Everything that `Denoiser` promises, its `caches` and `block` too, up to `tolerance` in logits.

    Tokens 0 to vocab - 1 are fed to it.
    """
    B, T = 3, 12
    tokens = torch.arange(B * T).reshape(B, T) * 7 % vocab
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, :4] = False
    where = attention.flatten().nonzero()[:, 0]
    state = torch.random.get_rng_state()

    def close(first: Tensor, second: Tensor) -> bool:
        return torch.allclose(first, second, rtol=0.0, atol=tolerance)

    with torch.no_grad():
        logits = denoiser(tokens, attention, where)
        _hold(
            logits.shape == (len(where), vocab), f"logits are (N, V) = {(len(where), vocab)}, not {tuple(logits.shape)}"
        )
        some = torch.arange(len(where) - 1, -1, -5)
        _hold(close(denoiser(tokens, attention, where[some]), logits[some]), "logits follow `where`, in its order")
        result = denoiser(tokens, attention, where[some], lambda head, hidden: (head(hidden[1:]), hidden))
        _hold(isinstance(result, tuple) and len(result[1]) == len(some), "what `read` returns is returned")
        _hold(close(result[0], logits[some[1:]]), "read(head, hidden) gives the same logits, also in parts")
        other = tokens.clone()
        other[0] = (other[0] + 1) % vocab
        _hold(close(denoiser(other, attention, where)[where >= T], logits[where >= T]), "rows do not see each other")
        other = torch.where(attention, tokens, (tokens + 1) % vocab)
        _hold(close(denoiser(other, attention, where), logits), "padding is never attended")
        second = denoiser(tokens[1:2, 4:], attention[1:2, 4:], torch.arange(T - 4))
        _hold(close(second, logits[where // T == 1]), "left padding changes nothing")
        place = torch.arange(T)
        block = trait(denoiser, "block", T)
        number = (place - attention.int().argmax(1, keepdim=True)) // block
        for column in (T - 2, T - 1):  # one of them is not the first of its block
            other = tokens.clone()
            other[:, column] = (other[:, column] + 1) % vocab
            seen = torch.zeros(B * T)
            seen[where] = (denoiser(other, attention, where) - logits).abs().amax(1).float()
            earlier = (number == number[:, column, None]) & (place < column) & attention
            changed = seen.view(B, T)[earlier]
            _hold(
                not len(changed) or float(changed.max()) > 0.0, "positions see later ones of a block (no causal mask)"
            )
            hidden = seen.view(B, T)[number < number[:, column, None]]
            _hold(not len(hidden) or float(hidden.max()) <= tolerance, "no position sees later blocks")
        if trait(denoiser, "caches", ()):
            store = KeyValues(B, T)
            every = denoiser(tokens, attention, where, None, Window(place.repeat(B, 1), store))
            _hold(close(every, logits), "a window of all columns gives the same logits")
            columns = torch.arange(4, 4 + B)[:, None] + torch.arange(5)
            inside = torch.isin(where, columns + T * torch.arange(B)[:, None])
            outside = torch.ones_like(attention).scatter(1, columns, False)
            other = torch.where(outside, (tokens + 1) % vocab, tokens)
            some = denoiser(other, attention, where[inside], None, Window(columns, store))
            _hold(close(some, logits[inside]), "outside of its window only the store is read")
            rows = torch.tensor([2, 1])
            inside = (where >= T) & (where < 2 * T) & inside  # row 1, now the second of two
            some = denoiser(tokens[rows], attention[rows], where[inside], None, Window(columns[rows], store.part(rows)))
            _hold(close(some, logits[inside]), "a window may be of some rows of a store")
    _hold(torch.equal(state, torch.random.get_rng_state()), "global random state is not touched")


def check_model(model: Model, vocabulary: Sequence[str] | None = None, *, tolerance: float = 1e-4) -> None:
    """What `Model` promises, and `check_denoiser` of what it loads; where it has an option `path`, what it saves loads again.

    `vocabulary`: the words for a model that is made from nothing, None for bytes. The model is loaded three times.
    """
    state = torch.random.get_rng_state()
    loaded, again = (model(dtype=torch.float32, vocabulary=vocabulary, seed=1) for _ in range(2))
    _hold(torch.equal(state, torch.random.get_rng_state()), "global random state is not touched")
    network = loaded.denoiser
    _hold(not network.training, "the network comes in eval mode")
    _hold(_same_weights(loaded, again), "the same seed gives the same weights")
    entries = int(network.get_output_embeddings().weight.shape[0])
    special = (loaded.mask_id, loaded.eos_id, loaded.pad_id)
    _hold(
        all(0 <= token < entries for token in special), f"mask, EOS and padding {special} are of the {entries} tokens"
    )
    _hold(loaded.mask_id not in (loaded.eos_id, loaded.pad_id), "the mask token is neither EOS nor padding")
    _hold(len(loaded.tokenizer) <= entries, "the tokenizer has no token that the network lacks")
    layers = dict(network.named_modules())
    _hold(set(loaded.linear) <= layers.keys(), "`linear` names modules of the network")
    head = network.get_output_embeddings()
    found = {name for name, layer in layers.items() if isinstance(layer, nn.Linear) and layer is not head}
    _hold(found <= set(loaded.linear), "`linear` names every linear layer but the output head")
    stirred, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for (
            weight
        ) in stirred.parameters():  # a new model's blocks may begin as the identity, which sees nothing around it
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    check_denoiser(stirred, entries, tolerance=tolerance)
    plugin: Any = model
    if hasattr(plugin, "path"):
        with tempfile.TemporaryDirectory() as folder:
            loaded.save(Path(folder))
            saved = evolve(plugin, path=folder)(dtype=torch.float32)
        _hold(_same_weights(loaded, saved), "what is saved loads again from `path`")
        ids = (saved.mask_id, saved.eos_id, saved.pad_id)
        _hold(ids == special, f"special tokens stay the same when saved: {special}, not {ids}")


def _same_weights(one: Loaded, other: Loaded) -> bool:
    first, second = one.denoiser.state_dict(), other.denoiser.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _hold(truth: bool, promise: str) -> None:
    if not truth:
        raise AssertionError(f"broken promise: {promise}")
