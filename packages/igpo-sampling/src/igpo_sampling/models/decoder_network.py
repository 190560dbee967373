"""The causal language models of transformers as denoisers: full or block-causal attention, with or without a shift.

One adapter takes a model's body and head as its own children, so parameter names stay the published ones. It hands
every mask and position to the body itself; the head runs at the positions that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from igpo_sampling.cache import Window
from igpo_sampling.denoiser import Loaded
from igpo_sampling.models import checkpoints
from igpo_sampling.models.llada_network import HEAD_ROWS, uncompiled

Result = TypeVar("Result")

NEW_MASK = "<|mask|>"
"""What a mask token is called that is added to a vocabulary without one."""
OUR_OWN = {
    "architectures",
    "auto_map",
    "dtype",
    "is_causal",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Keys of config.json that say nothing of the architecture."""


class DiffusionDecoder(PreTrainedModel):  # type: ignore[misc]
    """A causal language model without its causal mask; follows `igpo_sampling.denoiser.Denoiser`.

    With `shift` the hidden state at a position tells the token after it (Dream, 2508.15487), so that of the position
    before is read; a row's first attended position reads its own. With `block` attention is block-causal (2510.06303,
    2509.26328): a position sees its own and earlier blocks, counted from the row's first attended token.
    """

    config_class = PreTrainedConfig
    compiled = False
    """Whether the layers are."""
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, causal: PreTrainedModel, *, shift: bool = False, block: int | None = None) -> None:
        super().__init__(causal.config)
        self.config.is_causal = False
        self.base_model_prefix = causal.base_model_prefix
        self._tied_weights_keys = causal._tied_weights_keys
        self.ends = tuple(_path(causal, part()) for part in (causal.get_input_embeddings, causal.get_output_embeddings))
        for name, child in causal.named_children():
            self.add_module(name, child)
        for part in self.modules():
            if hasattr(part, "is_causal"):
                part.is_causal = False  # what attention goes by where it is given no mask
        self.shift = shift
        self.caches = ("prefix", "dual") if block is None else ("prefix",)
        if block is not None:
            self.block = block
        self.post_init()

    def forward(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Result] | None = None,
        window: Window | None = None,
    ) -> Tensor | Result:
        """tokens (B, T) long, attention (B, T) bool, where (N,) flat row-major -> logits (N, V), or what `read` returns."""
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        position = (columns - attention.int().argmax(1, keepdim=True)).clamp(min=0)
        if self.shift:
            where = where - (position.flatten()[where] > 0).long()
        place = position if window is None else position.gather(1, window.columns)
        with uncompiled(self.compiled and window is not None):
            hidden = self.base_model(
                input_ids=tokens if window is None else tokens.gather(1, window.columns),
                attention_mask=self._masks(attention, position, place),
                position_ids=place,
                past_key_values=None if window is None else Kept(window),
                use_cache=False,
            ).last_hidden_state
        if window is not None and self.shift:
            # the position before a window's first is outside of it: hidden states are kept as a layer's keys are
            hidden = window.store.put(-1, window.columns, hidden[:, None], hidden[:, None, :, :0])[0][:, 0]
        elif window is not None:
            where = window.locate(where, tokens.shape[1])
        hidden = hidden.flatten(0, 1).index_select(0, where)
        return self.head(hidden) if read is None else read(self.head, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (n, d) -> logits (n, V); at least `HEAD_ROWS` rows go into the product."""
        padded = F.pad(hidden, (0, 0, 0, max(0, HEAD_ROWS - len(hidden))))
        logits: Tensor = self.get_output_embeddings()(padded)[: len(hidden)]
        if (factor := getattr(self.config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * factor
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _masks(self, attention: Tensor, position: Tensor, place: Tensor) -> Any:
        """What each of the places (B, W) sees of the canvas: (B, 1, W or 1, T), one a kind of layer; None = everything."""
        visible: Tensor | None = None if attention.all() else attention[:, None, None, :]
        first, second = place[:, None, :, None], position[:, None, None, :]
        if (block := getattr(self, "block", None)) is not None:
            earlier = second // block <= first // block
            visible = earlier if visible is None else earlier & visible
        kinds = set(getattr(self.config, "layer_types", None) or ())
        width = getattr(self.config, "sliding_window", None)
        if width is None or kinds == {"full_attention"}:
            return self._mask(visible, place)
        near = (first - second).abs() <= width
        masks = {"full_attention": visible, "sliding_attention": near if visible is None else near & visible}
        if not kinds:
            return self._mask(masks["sliding_attention"], place)
        return {kind: self._mask(mask, place) for kind, mask in masks.items()}

    def _mask(self, visible: Tensor | None, place: Tensor) -> Tensor | None:
        """In the form of the model's attention: bool, or for the plain one what is added to its scores."""
        if visible is None:
            return None
        visible = visible.expand(-1, -1, place.shape[1], -1)
        if self.config._attn_implementation != "eager":
            return visible
        low = torch.finfo(self.dtype).min
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill(~visible, low)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.get_submodule(self.ends[0])  # type: ignore[no-any-return]

    def get_output_embeddings(self) -> nn.Linear:
        return self.get_submodule(self.ends[1])  # type: ignore[no-any-return]

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = recompute, every_n_layers: int = 1
    ) -> None:
        """Obeyed in eval mode too, in which policies are trained; layers by themselves ask for training mode."""
        layers = [part for part in self.modules() if isinstance(part, GradientCheckpointingLayer)]
        for number, layer in enumerate(layers):
            layer.__dict__.pop("forward", None)
            if enable and number % every_n_layers == 0:
                layer.forward = partial(_recomputed, gradient_checkpointing_func, layer.forward)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """The body's class was asked already."""
        return True

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: weights come from a file."""


@frozen(eq=False)
class Kept:
    """A window's store, as the layers of transformers speak to a cache."""

    window: Window

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self.window.store.put(layer, self.window.columns, k, v)


def load(
    checkpoint: checkpoints.Checkpoint,
    base: str,
    settings: Mapping[str, Any],
    *,
    device: str,
    dtype: torch.dtype | None,
    mask_id: int | None,
    shift: bool = False,
    block: int | None = None,
    add_mask: bool = False,
    compiled: bool = False,
) -> Loaded:
    """The checkpoint as a denoiser; `base` and `settings` are the model_type and config of transformers that it equals."""
    file = checkpoint.folder / "config.json"
    kind = CONFIG_MAPPING[base] if base in CONFIG_MAPPING else None  # noqa: SIM401 - `get` finds nothing there
    if kind is None or kind not in MODEL_FOR_CAUSAL_LM_MAPPING or kind in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(f"{file}: model_type = '{checkpoint.family}' is no decoder that transformers knows.")
    try:
        config = kind(**{key: value for key, value in settings.items() if key not in OUR_OWN})
    except StrictDataclassError as error:
        raise ValueError(f"{file} is not the config of a '{base}' model ({error}).") from error
    if odd := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"{file}: layers of kind '{odd.pop()}' cannot look ahead. Take a model of attention layers only."
        )
    if add_mask:
        checkpoint = with_mask(checkpoint)
    mask_id = checkpoint.mask_id(mask_id, "Set --model.mask_id; model 'bidirectional' can also add one (add_mask).")
    network_class = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    config._attn_implementation = "sdpa" if network_class._supports_sdpa else "eager"
    with torch.device("meta"):
        causal = network_class(config)
        network = DiffusionDecoder(causal, shift=shift, block=block)
    checkpoints.read_weights(checkpoint.folder, network, device=device, dtype=dtype, spread=experts)
    if checkpoint.new_tokenizer:
        grow(network, mask_id)
        checkpoint.settings["vocab_size"] = network.get_input_embeddings().num_embeddings
    if network.dtype == torch.float64:
        config._experts_implementation = "eager"  # grouped products know no float64
    check_head(network, causal, file)
    return checkpoints.ready(network, checkpoint, mask_id=mask_id, spread=experts, block=block, compiled=compiled)


def with_mask(checkpoint: checkpoints.Checkpoint) -> checkpoints.Checkpoint:
    """The checkpoint with a mask token in its vocabulary, a new one if there is none."""
    try:
        checkpoint.mask_id()
    except ValueError:
        checkpoint.tokenizer.add_special_tokens({"mask_token": NEW_MASK})
        kept = {
            name: content for name, content in checkpoint.files.items() if not name.startswith(checkpoints.VOCABULARY)
        }
        return evolve(checkpoint, files=kept, new_tokenizer=True)
    return checkpoint


def grow(network: DiffusionDecoder, mask_id: int) -> None:
    """Give the mask token, new or in a row that nothing used, the mean of all embeddings; the head gets a row too."""
    weights: dict[int, nn.Parameter] = {}
    ends: tuple[Any, ...] = network.get_input_embeddings(), network.get_output_embeddings()
    for part in ends:
        old = part.weight
        if id(old) not in weights:
            new = torch.cat([old.detach(), old.new_zeros(max(0, mask_id + 1 - len(old)), old.shape[1])])
            new[mask_id] = old.detach().float().mean(0).to(old.dtype)
            weights[id(old)] = nn.Parameter(new)
        part.weight = weights[id(old)]
        if getattr(part, "bias", None) is not None:
            part.bias = nn.Parameter(F.pad(part.bias.detach(), (0, len(part.weight) - len(part.bias))))
        setattr(part, "num_embeddings" if isinstance(part, nn.Embedding) else "out_features", len(part.weight))
    network.config.vocab_size = len(network.get_input_embeddings().weight)


@torch.no_grad()
def check_head(network: DiffusionDecoder, causal: PreTrainedModel, file: Any) -> None:
    """That the class computes nothing between hidden states and logits but what `head` does: on a few tokens."""
    tokens = torch.arange(3, device=network.device)[None]
    masks = network._masks(torch.ones_like(tokens, dtype=torch.bool), tokens, tokens)
    theirs = (
        causal.eval()(input_ids=tokens, attention_mask=masks, position_ids=tokens, use_cache=False).logits[0].float()
    )
    asked, told = torch.tensor([0, 2], device=network.device), [0, 1] if network.shift else [0, 2]
    ours = network.eval()(tokens, torch.ones_like(tokens, dtype=torch.bool), asked).float()
    if not torch.allclose(ours, theirs[told], rtol=0.05, atol=0.05 * float(theirs.abs().max())):
        raise ValueError(f"{file}: '{network.config.model_type}' computes its logits in a way that is not supported.")


def experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The spread of mixtures: files hold three matrices an expert, the network all experts' in two weights."""
    stem, _, leaf = name.rpartition(".")
    if not stem.endswith(".experts") or leaf not in ("gate_up_proj", "down_proj"):
        return {name: weight}
    parts: dict[str, Tensor] = {}
    for number, matrix in enumerate(weight):
        leaves = (
            zip(("gate_proj", "up_proj"), matrix.chunk(2), strict=True) if leaf == "gate_up_proj" else [(leaf, matrix)]
        )
        parts |= {f"{stem}.{number}.{each}.weight": part for each, part in leaves}
    return parts


def _path(module: nn.Module, part: nn.Module) -> str:
    names: dict[nn.Module, str] = {other: name for name, other in module.named_modules()}
    return names[part]


def _recomputed(run: Callable[..., Any], forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    return run(partial(forward, **named), *inputs) if torch.is_grad_enabled() else forward(*inputs, **named)
