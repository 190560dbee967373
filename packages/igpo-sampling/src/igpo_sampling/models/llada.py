"""LLaDA checkpoints from a directory, and back to one that others can load.

Keys are checked on both sides: a weight that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from igpo_sampling.denoiser import Loaded

if TYPE_CHECKING:
    import torch

    from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion


@frozen(kw_only=True)
class LLaDA:
    """LLaDA-8B, LLaDA-1.5 and every model saved by this kit, from a directory or the hub."""

    path: str = "GSAI-ML/LLaDA-8B-Instruct"
    """A directory, or a name on the Hugging Face hub (downloaded once)."""
    mask_id: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The mask token, where the model's config names none."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> Loaded:
        """Load in `dtype`, or as stored. A checkpoint has its own vocabulary and needs no seed."""
        from igpo_sampling.models.llada_network import FIXED, LLaDAConfig

        folder = _directory(self.path)
        file = folder / "config.json"
        if not file.is_file():
            raise ValueError(f"{folder} holds no config.json. Point --model.path at a saved model.")
        settings = json.loads(file.read_text(encoding="utf-8"))
        family = settings.get("model_type")
        mask_id = settings.get("mask_token_id") if self.mask_id is None else self.mask_id
        if mask_id is None:
            raise ValueError(
                f"model '{family}' has no mask token; masked diffusion needs one. "
                "If this is a masked LM, set --model.mask_id."
            )
        if family != "llada":
            raise ValueError(f"{file}: model_type = '{family}' is another family; this plug-in reads 'llada'.")
        for key, value in FIXED.items():
            if (settings.get(key) or None) != (value or None) and key in settings:
                raise ValueError(f"{file}: {key} = {settings[key]!r} is not supported; LLaDA has {value!r}.")
        config = LLaDAConfig(**settings)
        config.mask_token_id = mask_id
        tokenizer = _tokenizer(folder)
        if config.eos_token_id is None:
            config.eos_token_id = tokenizer.eos_token_id
        if config.eos_token_id is None:
            raise ValueError(f"{file}: no eos_token_id. Add the id of the token that ends a text.")
        if config.pad_token_id is None:
            config.pad_token_id = config.eos_token_id
        return ready(read_weights(folder, config, device, dtype), tokenizer)


def ready(network: LLaDAForDiffusion, tokenizer: Any) -> Loaded:
    """The network with what goes with it; special ids are those of its config."""
    from safetensors.torch import save_file
    from torch import nn

    def save(folder: Path) -> None:
        network.config.dtype = network.dtype
        network.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    head = network.get_output_embeddings()
    return Loaded(
        denoiser=network.eval(),
        tokenizer=tokenizer,
        mask_id=network.config.mask_token_id,
        eos_id=network.config.eos_token_id,
        pad_id=network.config.pad_token_id,
        linear=tuple(
            name for name, part in network.named_modules() if isinstance(part, nn.Linear) and part is not head
        ),
        save=save,
    )


def read_weights(folder: Path, config: LLaDAConfig, device: str, dtype: torch.dtype | None) -> LLaDAForDiffusion:
    """The network with the weights of model.safetensors, or of the shards that its index lists, one tensor at a time."""
    import torch
    from safetensors import SafetensorError, safe_open

    from igpo_sampling.models.llada_network import LLaDAForDiffusion

    with torch.device("meta"):
        network = LLaDAForDiffusion(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for file in _shards(folder):
        try:
            with safe_open(file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118
                    shape = tuple(shard.get_slice(name).get_shape())
                    if name not in expected:
                        raise ValueError(
                            f"{file}: unexpected weight {name}. This is not a LLaDA checkpoint of {config.n_layers} layers."
                        )
                    if shape != expected[name]:
                        raise ValueError(f"{file}: {name} is {shape}, but config.json asks for {expected[name]}.")
                    weights[name] = shard.get_tensor(name).to(device=device, dtype=dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} cannot be read ({error}). It may be missing or cut short; copy it again."
            ) from error
    if missing := sorted(expected.keys() - weights.keys()):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}.")
    network.load_state_dict(weights, assign=True)
    return network


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    return [folder / "model.safetensors"]


def _tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json. Copy the tokenizer's files beside the weights.")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _directory(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is neither a directory nor a model that can be downloaded ({error}).") from error
