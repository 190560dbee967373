"""Dream and its relatives: Qwen2 weights with full attention, whose logits tell the token after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models.stored import Stored

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class Dream(Stored):
    """Dream-v0, Dream-Coder and DiffuCoder (Qwen2, full attention, logits shifted by one)."""

    path: str = "Dream-org/Dream-v0-Instruct-7B"
    """A directory, or a name on the Hugging Face hub (downloaded once)."""

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

        checkpoint = checkpoints.read_checkpoint(self.path, "Dream")
        return decoder_network.load(
            checkpoint,
            "qwen2",
            checkpoint.settings,
            device=device,
            dtype=dtype,
            mask_id=self.mask_id,
            shift=True,
            compiled=self.compile,
        )
