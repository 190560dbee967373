"""Tiny checkpoints of the published decoder families, and a slow forward of them written from their papers.

Neither knows of transformers' classes: weights are drawn by published name and shape, the forward goes row by row and
head by head over what the files hold.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from igpo_sampling.models import tokenizers

WORDS = [f"w{number}" for number in range(40)]
SPECIAL = {"mask_token_id": 40, "eos_token_id": 41, "pad_token_id": 42}
VOCAB = 45
BODY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    **SPECIAL,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "dream": BODY
    | {"model_type": "Dream", "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.X"}},
    "sdar": BODY | {"model_type": "sdar", "head_dim": 16, "attention_bias": False, "block_size": 4},
    "fast-dllm": BODY | {"model_type": "Fast_dLLM_Qwen", "bd_size": 4, "tie_word_embeddings": True},
    "a2d": BODY | {"model_type": "a2d-qwen3", "head_dim": 16, "attention_bias": False, "tie_word_embeddings": True},
    "moe": {key: value for key, value in BODY.items() if key not in ("intermediate_size", "mask_token_id")}
    | {
        "model_type": "llada",
        "architectures": ["LLaDAMoEModelLM"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000,
        "num_key_value_heads": 4,
        "qk_layernorm": True,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "expert_intermediate_size": 24,
        "dense_intermediate_size": 64,
        "shared_expert_intermediate_size": None,
        "moe_layer_freq": [1, 1, 1],
        "norm_topk_prob": None,
        "routed_scaling_factor": 1,
        "partial_rotary_factor": 1,
    },
}


def publish(folder: Path, family: str, **changes: Any) -> Path:
    """A directory as the family publishes it, with random weights; `changes` are of its config."""
    settings = {key: value for key, value in (FAMILIES[family] | changes).items() if value != "absent"}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers.words(WORDS).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text('{"steps": 7}')
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: (len(shape) == 1 and "norm" in name) + torch.randn(shape, generator=generator) * 0.2
        for name, shape in shapes(settings).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def shapes(s: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published names and shapes."""
    d, heads, groups = s["hidden_size"], s["num_attention_heads"], s["num_key_value_heads"]
    width = s.get("head_dim", d // heads)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (s["vocab_size"], d), "model.norm.weight": (d,)}
    if not s["tie_word_embeddings"]:
        found["lm_head.weight"] = (s["vocab_size"], d)
    for layer in range(s["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for part, rows in (("q", heads), ("k", groups), ("v", groups)):
            found[f"{at}.self_attn.{part}_proj.weight"] = (rows * width, d)
            if s["model_type"] in ("Dream", "Fast_dLLM_Qwen"):
                found[f"{at}.self_attn.{part}_proj.bias"] = (rows * width,)
        found[f"{at}.self_attn.o_proj.weight"] = (d, heads * width)
        if s["model_type"] in ("sdar", "a2d-qwen3") or "num_experts" in s:
            found |= {f"{at}.self_attn.{part}_norm.weight": (width,) for part in "qk"}
        found |= {f"{at}.{part}_layernorm.weight": (d,) for part in ("input", "post_attention")}
        inner, places = s.get("expert_intermediate_size", s.get("intermediate_size")), [f"{at}.mlp"]
        if "num_experts" in s:
            found[f"{at}.mlp.gate.weight"] = (s["num_experts"], d)
            places = [f"{at}.mlp.experts.{expert}" for expert in range(s["num_experts"])]
        for place in places:
            found |= {f"{place}.{part}_proj.weight": (inner, d) for part in ("gate", "up")}
            found[f"{place}.down_proj.weight"] = (d, inner)
    return found


def reference(folder: Path, tokens: Tensor, *, shift: bool = False, block: int | None = None) -> Tensor:
    """Logits (n, V) float64 of the token AT each position of one row (n,) without padding."""
    s = json.loads((folder / "config.json").read_text())
    w = {name: weight.double() for name, weight in load_file(folder / "model.safetensors").items()}
    n, heads = len(tokens), s["num_attention_heads"]
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(s["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        h = norm(x, w[f"{at}.input_layernorm.weight"], s)
        q, k, v = (project(h, w, f"{at}.self_attn.{part}_proj") for part in "qkv")
        width = len(q[0]) // heads
        shared = heads // (len(k[0]) // width)
        mixed = torch.zeros_like(q)
        for head in range(heads):
            mine, theirs = slice(head * width, head * width + width), head // shared * width
            query, key, value = q[:, mine], k[:, theirs : theirs + width], v[:, theirs : theirs + width]
            if f"{at}.self_attn.q_norm.weight" in w:
                query = norm(query, w[f"{at}.self_attn.q_norm.weight"], s)
                key = norm(key, w[f"{at}.self_attn.k_norm.weight"], s)
            query, key = (rotate(each, s["rope_theta"]) for each in (query, key))
            for i in range(n):
                seen = [j for j in range(n) if block is None or j // block <= i // block]
                share = (key[seen] @ query[i] / math.sqrt(width)).softmax(0)
                mixed[i, mine] = share @ value[seen]
        x = x + mixed @ w[f"{at}.self_attn.o_proj.weight"].T
        h = norm(x, w[f"{at}.post_attention_layernorm.weight"], s)
        x = x + (mixture(h, w, f"{at}.mlp", s) if "num_experts" in s else feed(h, w, f"{at}.mlp"))
    x = norm(x, w["model.norm.weight"], s)
    logits = x @ w["model.embed_tokens.weight" if s["tie_word_embeddings"] else "lm_head.weight"].T
    return torch.cat([logits[:1], logits[:-1]]) if shift else logits


def norm(x: Tensor, weight: Tensor, s: dict[str, Any]) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + s["rms_norm_eps"]).sqrt() * weight


def project(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))


def rotate(x: Tensor, theta: float) -> Tensor:
    """Dimension i turns with dimension i + width / 2, by position / theta^(2 i / width)."""
    half = x.shape[1] // 2
    angle = torch.tensor(
        [[position * theta ** (-i / half) for i in range(half)] for position in range(len(x))]
    ).double()
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1)


def feed(x: Tensor, w: dict[str, Tensor], at: str) -> Tensor:
    gate, up = (x @ w[f"{at}.{part}_proj.weight"].T for part in ("gate", "up"))
    return (gate * gate.sigmoid() * up) @ w[f"{at}.down_proj.weight"].T


def mixture(x: Tensor, w: dict[str, Tensor], at: str, s: dict[str, Any]) -> Tensor:
    """Each token goes to the experts that the softmax over all ranks first, weighted by it as it is."""
    share = (x @ w[f"{at}.gate.weight"].T).softmax(1)
    y = torch.zeros_like(x)
    for row in range(len(x)):
        for expert in share[row].argsort(descending=True)[: s["num_experts_per_tok"]].tolist():
            y[row] += share[row, expert] * feed(x[row][None], w, f"{at}.experts.{expert}")[0]
    return y
