"""Small real models whose tokens see each other from the start, and the samplers that are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from igpo_sampling import Loaded, Tiny, Window

WORDS = [f"w{number}" for number in range(40)]


def mixing(*, vocabulary: Sequence[str] | None = WORDS, dtype: Any = None, seed: int = 0, **options: int) -> Loaded:
    """A model of the given size with random matrices everywhere; Tiny's own blocks begin as the identity."""
    loaded = Tiny(**options)(vocabulary=vocabulary, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in loaded.denoiser.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.3, generator=generator)
    return loaded


class BlockCausal(nn.Module):
    """Two layers of attention in float64 in which a position sees its own and earlier blocks; follows `Denoiser`."""

    caches = ("prefix",)

    def __init__(self, vocab: int, block: int, *, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.block = block
        generator = torch.Generator().manual_seed(seed)
        weights = [torch.randn(size, width, dtype=torch.float64, generator=generator) for size in (vocab, vocab, 64)]
        self.tokens, self.out, self.places = map(nn.Parameter, weights)
        layers = torch.randn(2, 3, width, width, dtype=torch.float64, generator=generator) * width**-0.5
        self.layers = nn.Parameter(layers)

    def forward(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[..., Any] | None = None,
        window: Window | None = None,
    ) -> Any:
        (B, T), place = tokens.shape, torch.arange(tokens.shape[1])
        number = (place - attention.int().argmax(1, keepdim=True)) // self.block
        columns = place.repeat(B, 1) if window is None else window.columns
        visible = (number[:, None] <= number.gather(1, columns)[:, :, None]) & attention[:, None]
        x = self.tokens[tokens.gather(1, columns)] + self.places[T - 1 - columns]
        for layer, (query, key, value) in enumerate(self.layers):
            k, v = x @ key, x @ value
            if window is not None:
                k, v = (part[:, 0] for part in window.store.put(layer, columns, k[:, None], v[:, None]))
            shares = (x @ query @ k.transpose(1, 2)).masked_fill(~visible, -1e9).softmax(2)
            x = x + (shares @ v).tanh()
        where = where if window is None else window.locate(where, T)
        hidden = x.flatten(0, 1)[where]
        return self.head(hidden) if read is None else read(self.head, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.out.T


def catalogue() -> dict[str, Any]:
    """Every installed sampler by its name, the example package's among them."""
    found: dict[str, str] = {}
    for entry in entry_points(group="igpo"):
        found |= getattr(entry.load(), "igpo_samplers", dict)()
    return {name: resolve_name(target) for name, target in found.items()}
