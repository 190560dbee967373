"""What a sampler needs of a model, and what a model plug-in gives.

The denoiser hides everything family-specific: a shift of the logits by one, padding rules, key names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from igpo_sampling.cache import Window


class Denoiser(Protocol):
    """An nn.Module; every use goes through `forward`, so that DDP, FSDP and peft see all of it.

    Two attributes say what it can do beyond this. `caches: tuple[str, ...]` names the caches that a `window` serves,
    of "prefix" and "dual"; without it there are none. `block: int` says that it is block-causal: a position sees its own
    and earlier blocks only, counted from the row's first attended token; there the prefix cache is exact.
    """

    def __call__(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Any] | None = None,
        window: Window | None = None,
    ) -> Any:
        """tokens (B, T) long, attention (B, T) bool (False = padding), where (N,) long flat row-major indices -> (N, V) logits.

        The logits are those of the token AT each index. With `read`, returns `read(head, hidden)` run inside this one
        forward: hidden (N, d) at the indices, head maps (n, d) -> (n, V); so large vocabularies can be read in chunks.
        Logits are fresh memory: they are worked on in place.
        With `window`, only its columns are computed, `where` lies inside them, and each layer puts its keys and values
        into the window's store and attends to all that is there. Passed to a denoiser with `caches` only.
        """
        ...


@frozen(eq=False, kw_only=True)
class Loaded:
    """A model ready to use."""

    denoiser: Any
    """The nn.Module that follows `Denoiser`."""
    tokenizer: Any
    """A Hugging Face fast tokenizer."""
    mask_id: int
    eos_id: int
    pad_id: int
    linear: tuple[str, ...]
    """Full paths of every linear layer but the output head: the LoRA targets."""
    save: Callable[[Path], None]
    """Write weights, config and tokenizer to a directory that the same family loads again."""
    experts: tuple[str, ...] = ()
    """Full paths of the weights that hold all experts' matrices of a mixture, (experts, out, in): no linear layers, but
    low-rank adapters fit them too (`target_parameters` of peft)."""
    block: int | None = None
    """Tokens of a block-causal model's block, None for all others. A hint in a later block cannot be seen there: hints
    reach their own and later blocks only."""


class Model(Protocol):
    """Plug-in kind `model`: a frozen attrs class (options only), apart from the nn.Module that it makes."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Loaded:
        """Load or make the model. `vocabulary` (closed word list of the task, None: bytes) and `seed` matter only to
        a model that is made from nothing."""
        ...
