"""The decoder families against a slow reference and against the classes of transformers, and their traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sampling_decoders import FAMILIES, VOCAB, WORDS, publish, reference
from sampling_models import mixing
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from igpo_sampling import Bidirectional, Block, Canvas, Dream, KeyValues, LLaDA, LLaDASampler, Loaded, Window
from igpo_sampling.models import tokenizers
from igpo_sampling.testing import check_denoiser

PLUGINS: dict[str, Any] = {
    "dream": (Dream, {"shift": True}),
    "sdar": (Block, {"block": 4}),
    "fast-dllm": (Block, {"block": 4, "shift": True}),
    "a2d": (Bidirectional, {}),
    "moe": (LLaDA, {}),
}


def loaded(folder: Path, family: str, **options: Any) -> Loaded:
    dtype = options.pop("dtype", None)
    return PLUGINS[family][0](path=str(publish(folder, family)), **options)(dtype=dtype)


def inputs() -> tuple[Tensor, Tensor]:
    """Three rows, one with 7 pads, one with 2: neither a multiple of a block."""
    tokens = torch.randint(40, (3, 17), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, :7] = False
    attention[2, :2] = False
    return tokens, attention


def slow(folder: Path, tokens: Tensor, attention: Tensor, **options: Any) -> Tensor:
    """Row after row without its pads; the order of `attention`'s True cells."""
    return torch.cat([reference(folder, row[mask], **options) for row, mask in zip(tokens, attention, strict=True)])


def close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", PLUGINS)
def test_logits_are_those_of_the_slow_reference(tmp_path, family):
    model = loaded(tmp_path, family)
    tokens, attention = inputs()
    where = attention.flatten().nonzero()[:, 0]
    expected = slow(tmp_path, tokens, attention, **PLUGINS[family][1])
    with torch.no_grad():
        assert close(model.denoiser(tokens, attention, where), expected)
        every = torch.ones_like(attention)
        expected = slow(tmp_path, tokens[:1], every[:1], **PLUGINS[family][1])
        assert close(model.denoiser(tokens[:1], every[:1], torch.arange(17)), expected), (
            "nothing hidden: no mask at all"
        )
    causal = slow(tmp_path, tokens[:1], every[:1], block=1)
    assert not close(expected, causal, 1e-2), "the test can fail"


# transformers' classes ------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 41,
    "pad_token_id": 42,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    "mistral": {"sliding_window": 5},
    "gemma2": {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "phi": {},
}


def decoder(folder: Path, base: str, words: Callable[..., Any] = tokenizers.words, **changes: Any) -> Path:
    """An autoregressive model as its own tools save it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[base](**SMALL | DECODERS[base] | changes))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.2)
    model.save_pretrained(folder)
    words(WORDS).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("base", DECODERS)
def test_any_decoder_is_its_class_without_the_causal_mask(tmp_path, base):
    model = Bidirectional(path=str(decoder(tmp_path, base)))()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens, attention = inputs()
    where = attention.flatten().nonzero()[:, 0]
    place = (attention.long().cumsum(1) - 1).clamp(min=0)

    def logits(causal: bool, attention: Tensor, place: Tensor | None) -> Tensor:
        theirs.config.is_causal = causal
        found: Tensor = theirs(tokens, attention_mask=attention.long(), position_ids=place).logits
        return found.flatten(0, 1)[attention.flatten()]

    with torch.no_grad():
        ours = model.denoiser(tokens, attention, where)
        assert close(ours, logits(False, attention, place))
        assert not close(ours, logits(True, attention, place), 1e-2), "the test can fail"
        every = torch.ones_like(attention)
        assert close(model.denoiser(tokens, every, torch.arange(51)), logits(False, every, None))
        every[:, 5] = False  # a hole: what is around it stays where it is
        where = every.flatten().nonzero()[:, 0]
        assert close(model.denoiser(tokens, every, where), logits(False, every, torch.arange(17).repeat(3, 1)))
    assert len(model.denoiser._no_split_modules) == 1
    layer = {"qwen3_moe": 4, "gpt2": 4, "phi": 6}.get(base, 7)
    assert len(model.linear) == 2 * layer, "every linear layer but the head"


@pytest.mark.parametrize("family", ["dream", "sdar", "moe"])
def test_published_directories_are_what_transformers_makes_of_them(tmp_path, family):
    base = {"dream": "qwen2", "sdar": "qwen3", "moe": "qwen3_moe"}[family]
    model = loaded(tmp_path, family)
    known = {key: value for key, value in FAMILIES[family].items() if key not in ("model_type", "auto_map")}
    config = CONFIG_MAPPING[base](**known | {"moe_intermediate_size": 24, "norm_topk_prob": False})
    config.is_causal = False
    theirs, found = type(AutoModelForCausalLM.from_config(config)).from_pretrained(
        tmp_path, config=config, output_loading_info=True
    )
    assert not any(found.values())
    tokens, attention = inputs()
    row, column = attention.nonzero(as_tuple=True)
    place = (attention.long().cumsum(1) - 1).clamp(min=0)
    mask = attention[:, None, None, :].expand(-1, -1, 17, -1)
    if family == "sdar":
        mask = mask & (place[:, None, None, :] // 4 <= place[:, None, :, None] // 4)
    with torch.no_grad():
        logits = theirs.eval()(tokens, attention_mask=mask, position_ids=place).logits
        if family == "dream":
            logits = logits[row, torch.where(place[row, column] > 0, column - 1, column)]
        else:
            logits = logits[row, column]
        assert close(model.denoiser(tokens, attention, row * 17 + column), logits)


def test_a_flag_on_modules_alone_stays_causal(tmp_path):
    """The trap that explicit masks avoid: with padding, `module.is_causal = False` changes nothing."""
    decoder(tmp_path, "llama")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens, attention = inputs()
    with torch.no_grad():
        causal = theirs(tokens, attention_mask=attention.long()).logits[attention]
        for part in theirs.modules():
            if hasattr(part, "is_causal"):
                part.is_causal = False
        assert torch.equal(theirs(tokens, attention_mask=attention.long()).logits[attention], causal)
        place = (attention.long().cumsum(1) - 1).clamp(min=0)
        ours = Bidirectional(path=str(tmp_path))().denoiser(tokens, attention, attention.flatten().nonzero()[:, 0])
        theirs.config.is_causal = False
        assert close(theirs(tokens, attention_mask=attention.long(), position_ids=place).logits[attention], ours)


# what denoisers promise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PLUGINS)
def test_published_families_conform(tmp_path, family):
    check_denoiser(loaded(tmp_path, family).denoiser, VOCAB, tolerance=1e-5)


@pytest.mark.parametrize("base", DECODERS)
def test_any_decoder_conforms(tmp_path, base):
    check_denoiser(Bidirectional(path=str(decoder(tmp_path, base)), shift=True)().denoiser, VOCAB, tolerance=1e-5)


@pytest.mark.parametrize("family", PLUGINS)
def test_sampling(tmp_path, family):
    """Unequal prompts, hints, and each row alone as in the batch."""
    model = loaded(tmp_path, family)
    prompts = [torch.arange(3), torch.arange(9), torch.arange(6)]
    overlay = torch.full((3, 12), -1)
    overlay[0, 4:7] = 5
    overlay[2, 11] = 7
    canvas = Canvas.blank(prompts, 12, mask_id=model.mask_id, pad_id=model.pad_id).inpaint(overlay)
    sampler, seeds = LLaDASampler(steps=6, block=4, temperature=1.0), torch.arange(3)
    sample = sampler(model.denoiser, canvas, seeds, mask_id=model.mask_id, eos_id=None)
    assert torch.equal(sample.completion[overlay >= 0], overlay[overlay >= 0])
    assert not (sample.completion == model.mask_id).any()
    for row in range(3):
        canvas = Canvas.blank(prompts[row : row + 1], 12, mask_id=model.mask_id, pad_id=model.pad_id)
        alone = sampler(
            model.denoiser,
            canvas.inpaint(overlay[row : row + 1]),
            seeds[row : row + 1],
            mask_id=model.mask_id,
            eos_id=None,
        )
        assert torch.equal(alone.completion[0], sample.completion[row])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", ["sdar", "fast-dllm"])
def test_the_prefix_cache_of_a_block_causal_model_is_exact(tmp_path, family, temperature):
    """Unequal prompts, so that blocks of rows lie at different columns; hints behind the block being denoised."""
    model = loaded(tmp_path, family)
    prompts = [torch.arange(3), torch.arange(10), torch.arange(5)]
    overlay = torch.full((3, 14), -1)
    overlay[0, 6:9] = 5
    overlay[2, 13] = 7
    canvas = Canvas.blank(prompts, 14, mask_id=model.mask_id, pad_id=model.pad_id).inpaint(overlay)
    whole, cached = (
        LLaDASampler(steps=14, block=7, temperature=temperature, cache=cache)(
            model.denoiser, canvas, torch.arange(3), mask_id=model.mask_id, eos_id=None
        )
        for cache in ("none", "prefix")
    )
    assert torch.equal(whole.completion, cached.completion)
    assert torch.equal(whole.order, cached.order)
    assert close(whole.confidence, cached.confidence)
    assert (cached.columns < whole.columns).all()
    with pytest.raises(ValueError, match="cannot keep cache = 'dual': it offers prefix"):
        LLaDASampler(steps=14, block=7, cache="dual")(
            model.denoiser, canvas, torch.arange(3), mask_id=model.mask_id, eos_id=None
        )


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("family", ["dream", "a2d", "moe"])
def test_caches_of_full_attention(tmp_path, family, cache):
    """Stale within a block, never wrong about what is given; one block that holds all blanks, prefix: exact."""
    model = loaded(tmp_path, family)
    canvas = Canvas.blank([torch.arange(3), torch.arange(8)], 12, mask_id=model.mask_id, pad_id=model.pad_id)
    for block, steps in ((4, 12), (12, 1)):
        whole, cached = (
            LLaDASampler(steps=steps, block=block, cache=choice)(
                model.denoiser, canvas, torch.arange(2), mask_id=model.mask_id, eos_id=None
            )
            for choice in ("none", cache)
        )
        assert not (cached.completion == model.mask_id).any()
        assert torch.equal(whole.completion, cached.completion) or steps > 1


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_fill_behind_a_completion_may_be_left_out(tmp_path, family):
    model = loaded(tmp_path, family)
    tokens, attention = inputs()
    attention[0, 15:] = False
    expected = reference(tmp_path, tokens[0, :15], **PLUGINS[family][1])
    with torch.no_grad():
        assert close(model.denoiser(tokens[:1], attention[:1], torch.arange(15)), expected)


# shift ----------------------------------------------------------------------------------------------------------


def test_under_a_shift_a_rows_first_token_is_told_by_its_own_state(tmp_path):
    """Shifting whole logits would give a padded row's first token what a pad knows."""
    shifted, plain = (Bidirectional(path=str(decoder(tmp_path, "qwen3")), shift=shift)() for shift in (True, False))
    tokens, attention = inputs()
    where = attention.flatten().nonzero()[:, 0]
    with torch.no_grad():
        ours, states = shifted.denoiser(tokens, attention, where), plain.denoiser(tokens, attention, torch.arange(51))
        faulty = states.view(3, 17, -1).roll(1, 1)[attention]
    assert close(ours[0], states[0])
    assert close(ours[17], states[17 + 7]), "row 1 begins at its eighth column"
    assert close(ours[18:27], states[17 + 7 : 17 + 16])
    assert not close(ours, faulty, 1e-2)


@pytest.mark.parametrize("family", ["dream", "fast-dllm", "sdar"])
def test_a_window_is_exact_where_nothing_is_stale(tmp_path, family):
    """Its first position too, which a shift reads from outside of the window."""
    model = loaded(tmp_path, family)
    tokens, attention = inputs()
    columns = torch.tensor([[8], [9], [11]]) + torch.arange(6)
    where = (torch.arange(3)[:, None] * 17 + columns).flatten()
    with torch.no_grad():
        store = KeyValues(3, 17)
        model.denoiser(tokens, attention, where, None, Window(torch.arange(17).repeat(3, 1), store))
        found = model.denoiser(tokens, attention, where, None, Window(columns, store))
        assert close(found, model.denoiser(tokens, attention, where))


# blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sdar", "fast-dllm"])
def test_finished_blocks_are_kept_exactly(tmp_path, family):
    """Block after block from stored keys alone: the same logits as whole forwards, whatever comes later."""
    model = loaded(tmp_path, family)
    assert model.block == 4
    tokens = torch.randint(40, (2, 16), generator=torch.Generator().manual_seed(2))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, :4] = False
    store = KeyValues(2, 16)
    with torch.no_grad():
        for start in range(0, 16, 4):
            columns = torch.arange(start, start + 4).repeat(2, 1)
            where = (torch.arange(2)[:, None] * 16 + columns).flatten()
            where = where[attention.flatten()[where]]
            unfinished = tokens.clone()
            unfinished[:, start + 2 :] = model.mask_id
            for shown in (unfinished, tokens):  # while it is denoised, and once more when it is finished
                expected = model.denoiser(shown, attention, where)
                assert close(model.denoiser(shown, attention, where, None, Window(columns, store)), expected)


def test_hints_in_later_blocks_cannot_be_seen_and_padding_does_not_move_blocks(tmp_path):
    model = loaded(tmp_path, "sdar")
    tokens, attention = inputs()
    tokens, attention = tokens[1:2], attention[1:2]  # 7 pads, so blocks begin at columns 7, 11, 15
    with torch.no_grad():
        logits = model.denoiser(tokens, attention, torch.arange(7, 17))
        for column, first in ((10, 7), (11, 11), (14, 11), (16, 15)):
            other = tokens.clone()
            other[0, column] = (other[0, column] + 1) % 40
            moved = (model.denoiser(other, attention, torch.arange(7, 17)) - logits).abs().amax(1) > 1e-4
            assert moved.tolist() == [place >= first for place in range(7, 17)]


def test_where_the_size_of_a_block_comes_from(tmp_path):
    folder = publish(tmp_path, "a2d")
    with pytest.raises(
        ValueError, match=r"config\.json: 'a2d-qwen3' names no block size\. Set --model\.block, in tokens"
    ):
        Block(path=str(folder))()
    made = Block(path=str(folder), block=6)()
    assert (made.block, made.denoiser.block, made.denoiser.caches) == (6, 6, ("prefix",))
    made.save(tmp_path / "saved")
    assert Block(path=str(tmp_path / "saved"))().block == 6
    assert Block(path=str(publish(tmp_path / "sdar", "sdar", block_size="absent")))().block == 4
    assert Block(path=str(publish(tmp_path / "fast", "fast-dllm", bd_size="absent")))().block == 32
    assert Bidirectional(path=str(folder))().block is None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("small"), "sdar", num_hidden_layers=2)


@settings(max_examples=12)
@given(st.integers(1, 12), st.booleans(), st.lists(st.integers(0, 8), min_size=1, max_size=3), st.data())
def test_any_block_any_padding_any_window(small, block, shift, pads, data):
    """From one token a block, which is causal, to one block; and a window of any columns where nothing is stale."""
    denoiser = Block(path=str(small), block=block, shift=shift)().denoiser
    tokens = (torch.arange(10 * len(pads)).view(-1, 10) * 13 + 5) % 40
    attention = torch.arange(10) >= torch.tensor(pads)[:, None]
    where = attention.flatten().nonzero()[:, 0]
    width = data.draw(st.integers(1, 10 - max(pads)))
    starts = torch.tensor([data.draw(st.integers(pad, 10 - width)) for pad in pads])
    columns = starts[:, None] + torch.arange(width)
    inside = (torch.arange(len(pads))[:, None] * 10 + columns).flatten()
    with torch.no_grad():
        logits = denoiser(tokens, attention, where)
        assert close(logits, slow(small, tokens, attention, shift=shift, block=block))
        store = KeyValues(len(pads), 10)
        denoiser(tokens, attention, where, None, Window(torch.arange(10).repeat(len(pads), 1), store))
        found = denoiser(tokens, attention, inside, None, Window(columns, store))
        assert close(found, denoiser(tokens, attention, inside))


# training -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("family", ["dream", "moe"])
def test_checkpointing_changes_memory_only(tmp_path, mode, family):
    """In eval mode too, in which policies are trained and where layers by themselves ignore it; not without gradients."""
    model = loaded(tmp_path, family)
    tokens, attention = inputs()
    gradients, computed = [], []
    for checkpointing in (False, True, False):
        network = getattr(deepcopy(model.denoiser), mode)()
        calls: list[int] = []
        norm = network.get_submodule("model.layers.0.input_layernorm")
        norm.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            network.gradient_checkpointing_enable()
            network = deepcopy(network)  # a copy recomputes its own layers
            with torch.no_grad():
                network(tokens, attention, torch.arange(50))
            assert calls.pop()
        network(tokens, attention, torch.arange(50)).square().mean().backward()
        gradients.append([weight.grad for weight in network.parameters()])
        computed.append(len(calls))
    assert computed == [1, 2, 1]
    for first, second in ((gradients[0], gradients[1]), (gradients[0], gradients[2])):
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", PLUGINS)
def test_lora_finds_every_linear_layer_by_its_published_path(tmp_path, family):
    model = loaded(tmp_path, family)
    kinds = ("q", "k", "v", "o") if family == "moe" else ("q", "k", "v", "o", "gate", "up", "down")
    assert len(model.linear) == 3 * len(kinds)
    assert {name + ".weight" for name in model.linear} <= load_file(tmp_path / "model.safetensors").keys()
    tokens, attention = inputs()
    before = model.denoiser(tokens, attention, torch.arange(9))
    assert len(model.experts) == (6 if family == "moe" else 0), "two weights a layer hold all experts' matrices"
    options = LoraConfig(r=2, target_modules=list(model.linear), target_parameters=list(model.experts) or None)
    network = get_peft_model(model.denoiser, options)
    found = [name for name, _ in network.named_modules() if name.endswith(".lora_A.default")]
    assert len(found) == len(model.linear) + len(model.experts)
    assert torch.equal(network(tokens, attention, torch.arange(9)), before)
    network(tokens, attention, torch.arange(9)).sum().backward()
    assert all(weight.grad is not None for weight in network.parameters() if weight.requires_grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", ["tiny", "dream", "sdar"])
def test_compiled_layers_give_the_same_under_the_same_names(tmp_path, family):
    """Few graphs for all layers and widths; windows, which are not compiled, and recomputed layers too."""
    if family == "tiny":
        mixing(vocabulary=WORDS).save(tmp_path)
        plain, fast = (LLaDA(path=str(tmp_path), compile=choice)().denoiser for choice in (False, True))
    else:
        plain, fast = (loaded(tmp_path, family, compile=choice).denoiser for choice in (False, True))
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    tokens, attention = inputs()
    with torch.no_grad():
        for rows in (3, 2):
            where = attention[:rows].flatten().nonzero()[:, 0]
            first, second = (each(tokens[:rows], attention[:rows], where) for each in (plain, fast))
            assert close(first, second, 1e-4)
        stores = [KeyValues(3, 17), KeyValues(3, 17)]
        for columns in (torch.arange(17).repeat(3, 1), torch.arange(8, 12).repeat(3, 1)):
            where = (torch.arange(3)[:, None] * 17 + torch.arange(8, 12)).flatten()
            first, second = (
                each(tokens, attention, where, None, Window(columns, store))
                for each, store in zip((plain, fast), stores, strict=True)
            )
            assert close(first, second, 1e-4)
    fast.gradient_checkpointing_enable()
    for each in (plain, fast):
        each(tokens, attention, torch.arange(17)).square().mean().backward()
    assert all(close(one.grad, two.grad, 1e-4) for one, two in zip(plain.parameters(), fast.parameters(), strict=True))
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert 1 <= counts["stats"]["unique_graphs"] <= 3
    assert not counts["graph_break"]


# saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PLUGINS)
def test_what_is_saved_is_the_familys_own_directory(tmp_path, family):
    model = loaded(tmp_path / "theirs", family)
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    model.save(tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in weights)
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert FAMILIES[family].items() <= settings.items(), "model_type and every other key as they were"
    assert settings["mask_token_id"] == 40
    assert (tmp_path / "ours" / "generation_config.json").read_text() == '{"steps": 7}'
    again = PLUGINS[family][0](path=str(tmp_path / "ours"))(dtype=torch.bfloat16)
    assert again.denoiser.dtype == torch.bfloat16
    assert (again.mask_id, again.eos_id, again.pad_id) == (40, 41, 42)
    again.save(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert PLUGINS[family][0](path=str(tmp_path / "ours"))().denoiser.dtype == torch.bfloat16


def test_transformers_loads_a_bidirectional_model_as_one(tmp_path):
    """`is_causal` in the config does it."""
    model = Bidirectional(path=str(decoder(tmp_path / "theirs", "llama")))()
    model.save(tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens, attention = inputs()
    with torch.no_grad():
        ours = model.denoiser(tokens, attention, torch.arange(17))
        assert close(theirs(tokens[:1]).logits[0], ours)


# from an autoregressive model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "grown"), [(42, 43), (50, 50)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_mask_token_can_be_added(tmp_path, rows, grown, tied):
    """With a row of the embeddings that nothing used, or a new one; and saved with the rest."""
    folder = decoder(
        tmp_path / "theirs", "qwen2", plain, vocab_size=rows, tie_word_embeddings=tied, eos_token_id=40, pad_token_id=41
    )
    with pytest.raises(ValueError, match=r"^model 'qwen2' has no mask token; .* can also add one"):
        Bidirectional(path=str(folder))()
    before = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    state = torch.random.get_rng_state()
    model = Bidirectional(path=str(folder), add_mask=True)()
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.mask_id == model.tokenizer.mask_token_id == 42
    weight = model.denoiser.get_input_embeddings().weight
    assert weight.shape == (grown, 32)
    assert (model.denoiser.get_output_embeddings().weight is weight) == tied
    assert torch.equal(weight[:42], before[:42])
    assert close(weight[42], before.mean(0))
    tokens, attention = inputs()
    assert model.denoiser(tokens, attention, torch.arange(9)).shape == (9, grown)
    model.save(tmp_path / "ours")
    for add_mask in (False, True):
        again = Bidirectional(path=str(tmp_path / "ours"), add_mask=add_mask)()
        assert again.mask_id == again.tokenizer.mask_token_id == 42
        assert torch.equal(again.denoiser.get_input_embeddings().weight, weight)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").config.vocab_size == grown


def plain(words: list[str]) -> Any:
    """A tokenizer as autoregressive models have it: 42 tokens, no mask."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate([*words, "<eos>", "<pad>"])}))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")


def test_the_shift_is_kept_with_the_model(tmp_path):
    folder = decoder(tmp_path / "theirs", "llama")
    for shift in (True, False):
        Bidirectional(path=str(folder), shift=shift)().save(tmp_path / "ours")
        assert Bidirectional(path=str(tmp_path / "ours"))().denoiser.shift == shift


# errors ---------------------------------------------------------------------------------------------------------


def test_directories_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model_type = 'sdar' is another family; this plug-in reads 'Dream'"):
        Dream(path=str(publish(tmp_path / "1", "sdar")))()
    with pytest.raises(
        ValueError, match=r"config\.json: model_type = 'a2d-none' is no decoder that transformers knows"
    ):
        Bidirectional(path=str(publish(tmp_path / "2", "a2d", model_type="a2d-none")))()
    with pytest.raises(ValueError, match="model_type = 'bert' is no decoder"):
        Block(path=str(publish(tmp_path / "3", "a2d", model_type="bert", block_size=4)))()
    with pytest.raises(ValueError, match="layers of kind 'linear_attention' cannot look ahead"):
        Bidirectional(path=str(publish(tmp_path / "4", "a2d", model_type="qwen3_next")))()
    with pytest.raises(
        ValueError, match="moe_router_score_function = 'sigmoid' is not supported; this family has 'softmax'"
    ):
        LLaDA(path=str(publish(tmp_path / "5", "moe", moe_router_score_function="sigmoid")))()
    with pytest.raises(ValueError, match=r"moe_layer_freq = \[0, 1, 1\] is not supported"):
        LLaDA(path=str(publish(tmp_path / "6", "moe", moe_layer_freq=[0, 1, 1])))()


def test_a_missing_expert_is_named(tmp_path):
    folder = publish(tmp_path, "moe")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 weights are missing, the first is {name}"):
        LLaDA(path=str(folder))()


def test_logits_that_are_made_in_an_unknown_way_are_refused(tmp_path, monkeypatch):
    """Whatever a class does after its head that ours does not: found when the model is loaded."""
    folder = decoder(tmp_path, "llama")
    theirs = LlamaForCausalLM.forward

    def halved(*inputs: Any, **named: Any) -> Any:
        found = theirs(*inputs, **named)
        found.logits = found.logits / 2
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", halved)
    with pytest.raises(ValueError, match="'llama' computes its logits in a way that is not supported"):
        Bidirectional(path=str(folder))()
