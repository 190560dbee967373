"""Block-causal models: text is denoised block after block, and no block sees those behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models.stored import Stored

if TYPE_CHECKING:
    import torch

FAMILIES = {"sdar": ("qwen3", 4, False), "sdar_moe": ("qwen3_moe", 4, False), "Fast_dLLM_Qwen": ("qwen2", 32, True)}
"""By published model_type: that of transformers, tokens of a block, whether logits tell the token after."""
SIZES = ("block_size", "bd_size", "block_length")
"""Keys of published configs that hold the tokens of a block."""


@frozen(kw_only=True)
class Block(Stored):
    """Block-causal SDAR and TraDo (Qwen3), Fast-dLLM v2 (Qwen2), or any decoder trained so.

    A hint in a later block cannot be seen: hints reach their own and later blocks only, however they are placed
    (SDAR: 2510.06303, Fast-dLLM v2: 2509.26328).
    """

    block: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Tokens of a block, counted from the prompt's first; no block sees hints in those behind it. None: as in the
    model's config, else as published."""
    shift: bool | None = None
    """Whether logits tell the token after; none: as published, else no."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> Loaded:
        """Load in `dtype`, or as stored. A checkpoint has its own vocabulary and needs no seed."""
        from igpo_sampling.models import checkpoints, decoder_network

        checkpoint = checkpoints.read_checkpoint(self.path)
        settings = checkpoint.settings
        family = checkpoint.family
        base, block, shift = FAMILIES.get(family, (family.removeprefix("a2d-"), None, False))
        block = self.block or next((settings[key] for key in SIZES if settings.get(key)), block)
        if block is None:
            raise ValueError(
                f"{checkpoint.folder / 'config.json'}: '{family}' names no block size. Set --model.block, in tokens."
            )
        shift = settings.get("shift", shift) if self.shift is None else self.shift
        settings |= {"block_size": block, "shift": shift}
        return decoder_network.load(
            checkpoint,
            base,
            settings,
            device=device,
            dtype=dtype,
            mask_id=self.mask_id,
            shift=shift,
            block=block,
            compiled=self.compile,
        )
