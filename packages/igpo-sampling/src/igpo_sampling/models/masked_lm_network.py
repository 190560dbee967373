"""Masked language models of transformers as denoisers, whatever their positions and heads.

A denoiser is the model's own class with another `forward`, so parameter names and files stay the published ones. Rows
are turned so that padding stands on the right, where these models were trained to have it: positions count from a
row's first attended token. The head runs at the positions that are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models import checkpoints
from igpo_sampling.models.llada_network import HEAD_ROWS

Result = TypeVar("Result")

HEADS = {
    "bert": ("cls",),
    "camembert": ("lm_head",),
    "eurobert": ("lm_head",),
    "modernbert": ("head", "decoder"),
    "roberta": ("lm_head",),
    "xlm-roberta": ("lm_head",),
}
"""By model_type: the modules that turn a hidden state into logits, one after the other."""
LEFT_OUT = [r"(^|\.)pooler\.", r"^cls\.seq_relationship\.", r"\.(position|token_type)_ids$"]
"""Weights that published directories hold and no masked language model has: other heads, and buffers of old versions."""


@cache
def diffusion(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class of masked language models with the forward of a denoiser."""

    class MaskedLMForDiffusion(kind):  # type: ignore[misc]
        """Follows `igpo_sampling.denoiser.Denoiser`."""

        caches = ()
        _keys_to_ignore_on_load_unexpected = [*(kind._keys_to_ignore_on_load_unexpected or ()), *LEFT_OUT]  # noqa: RUF012

        def forward(
            self,
            tokens: Tensor,
            attention: Tensor,
            where: Tensor,
            read: Callable[[Callable[[Tensor], Tensor], Tensor], Result] | None = None,
            window: None = None,  # noqa: ARG002
        ) -> Tensor | Result:
            """tokens (B, T) long, attention (B, T) bool, where (N,) flat row-major -> logits (N, V), or what `read` returns."""
            T = tokens.shape[1]
            first = first_position(self)
            room = getattr(self.config, "max_position_embeddings", first + T) - first
            if room < T:
                raise ValueError(
                    f"the canvas has {T} columns, but the model has positions for {room} "
                    f"(max_position_embeddings = {self.config.max_position_embeddings}). Use shorter prompts or a smaller width."
                )
            given = {}
            if not attention.all():
                padding = (~attention).sum(1)
                turned = (torch.arange(T, device=tokens.device) + padding[:, None]) % T
                tokens, given["attention_mask"] = tokens.gather(1, turned), attention.gather(1, turned).long()
                where = where - padding[where // T]
            if self.config.model_type not in HEADS:
                logits = kind.forward(self, input_ids=tokens, **given).logits.flatten(0, 1).index_select(0, where)
                return logits if read is None else read(lambda part: part, logits)
            given["position_ids"] = torch.arange(first, first + T, device=tokens.device)[None]
            hidden = self.base_model(input_ids=tokens, **given).last_hidden_state
            hidden = hidden.flatten(0, 1).index_select(0, where)
            return self.logits(hidden) if read is None else read(self.logits, hidden)

        def logits(self, hidden: Tensor) -> Tensor:
            """hidden (n, d) -> logits (n, V); at least `HEAD_ROWS` rows go into the products."""
            rows = F.pad(hidden, (0, 0, 0, max(0, HEAD_ROWS - len(hidden))))
            for name in HEADS[self.config.model_type]:
                rows = self.get_submodule(name)(rows)
            return rows[: len(hidden)]

        def train(self, mode: bool = True) -> PreTrainedModel:
            """Checkpointed layers stay in training mode, as they obey only there; without dropout it means nothing else."""
            super().train(mode)
            for part in self.modules():
                if isinstance(part, GradientCheckpointingLayer):
                    part.training = True
            return self

    return MaskedLMForDiffusion


def first_position(network: PreTrainedModel) -> int:
    """The position of a row's first token: RoBERTa's tables begin with those of padding."""
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.padding_idx + 1
    return 0


def load(
    checkpoint: checkpoints.Checkpoint,
    *,
    device: str,
    dtype: torch.dtype | None,
    special: Mapping[str, int | None],
    compiled: bool,
) -> Loaded:
    """The checkpoint as a denoiser; `special` are ids of mask, eos and pad that go over its own, None where they do not."""
    file = checkpoint.folder / "config.json"
    family, settings = checkpoint.family, checkpoint.settings
    known = family in CONFIG_MAPPING and CONFIG_MAPPING[family] in MODEL_FOR_MASKED_LM_MAPPING
    if not known or settings.get("is_decoder") or CONFIG_MAPPING[family]().is_encoder_decoder:
        raise ValueError(
            f"{file}: model_type = '{family}' is no masked language model. This plug-in reads bert, roberta, modernbert, "
            "eurobert and their relatives; igpo plugins model shows the others."
        )
    mask_id = checkpoint.mask_id(special["mask"])
    checkpoint = evolve(checkpoint, settings=settings | ends(checkpoint, special))
    config = quiet(CONFIG_MAPPING[family].from_dict(checkpoint.settings))
    for name in ("pad", "eos", "bos", "cls", "sep"):
        token = getattr(config, f"{name}_token_id", None)
        if token is not None and not 0 <= token < config.vocab_size:
            raise ValueError(
                f"{file}: {name}_token_id = {token} lies outside of the model's {config.vocab_size} tokens."
            )
    if family not in HEADS:
        warnings.warn(f"'{family}' gives logits at all positions only, which takes more time and memory.", stacklevel=3)
    kind = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    with torch.device("meta"):
        network = diffusion(kind)(config)
    old = any(name.endswith("LayerNorm.gamma") for name in checkpoints.stored_names(checkpoint.folder))
    spread = of_2018 if old else checkpoints.whole
    checkpoints.read_weights(checkpoint.folder, network, device=device, dtype=dtype, spread=spread)
    return checkpoints.ready(network, checkpoint, mask_id=mask_id, spread=spread, compiled=compiled)


def ends(checkpoint: checkpoints.Checkpoint, special: Mapping[str, int | None]) -> dict[str, int]:
    """The ids of EOS and padding by their keys in a config; BERT has no EOS but a separator."""
    tokenizer = checkpoint.tokenizer
    own = {name: checkpoint.settings.get(f"{name}_token_id") for name in ("eos", "pad")}
    eos = next(
        (it for it in (special["eos"], own["eos"], tokenizer.eos_token_id, tokenizer.sep_token_id) if it is not None),
        None,
    )
    if eos is None:
        raise ValueError(
            f"{checkpoint.folder}: neither config nor tokenizer names a token that ends a text. Set --model.eos_id."
        )
    pad = next((it for it in (special["pad"], own["pad"], tokenizer.pad_token_id) if it is not None), eos)
    return {"eos_token_id": eos, "pad_token_id": pad}


def quiet(config: PreTrainedConfig) -> PreTrainedConfig:
    """Without dropout, which would draw from the global generator and part the old policy from the trained one."""
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def of_2018(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The spread of the first BERT checkpoints, whose norms have a gamma and a beta."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return {old: weight}
