"""Any decoder of transformers without its causal mask: published ones, or the start of one's own by SFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models.stored import Stored

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class Bidirectional(Stored):
    """Any decoder of transformers (Llama, Qwen2, Qwen3, Gemma, ...; dllm's a2d models) with full attention.

    An autoregressive model becomes a diffusion model by SFT from here (`add_mask` where it has no mask token).
    """

    shift: bool | None = None
    """Whether logits tell the token after, as in DiffuLLaMA; none: what the model's config says, else no."""
    add_mask: bool = False
    """Add a mask token where there is none, with the mean of all embeddings."""

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
        shift = bool(settings.get("shift", False)) if self.shift is None else self.shift
        settings |= {"is_causal": False, "shift": shift}  # transformers' own class obeys the first
        return decoder_network.load(
            checkpoint,
            checkpoint.family.removeprefix("a2d-"),
            settings,
            device=device,
            dtype=dtype,
            mask_id=self.mask_id,
            shift=shift,
            add_mask=self.add_mask,
            compiled=self.compile,
        )
