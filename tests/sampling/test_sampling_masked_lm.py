"""Masked language models of transformers as denoisers, against their own classes and a slow BERT written from the paper."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from igpo_sampling import Canvas, LLaDASampler, MaskedLM
from igpo_sampling.models import masked_lm_network
from igpo_sampling.testing import check_denoiser

WORDS = [f"w{number}" for number in range(27)]
PAD, CLS, SEP, UNK, MASK = range(27, 32)
SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
ROPE = {"bos_token_id": CLS, "eos_token_id": SEP, "cls_token_id": CLS, "sep_token_id": SEP}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    # position table: those of padding come first
    "roberta": SMALL | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "modernbert": SMALL | ROPE | {"local_attention": 4, "global_attn_every_n_layers": 2, "embedding_dropout": 0.1},
    "eurobert": SMALL | ROPE | {"num_key_value_heads": 1, "mask_token_id": MASK, "attention_dropout": 0.1},
}


def tokenizer(**special: str | None) -> Any:
    """Words, and what BERT calls its special tokens."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    usual = {name: f"[{name[:4].strip('_').upper()}]" for name in ("pad_token", "cls_token", "sep_token", "unk_token")}
    named = {"mask_token": "[MASK]", **usual, **special}
    return PreTrainedTokenizerFast(tokenizer_object=core, **{name: text for name, text in named.items() if text})


def made(family: str, **changes: Any) -> PreTrainedModel:
    """Random weights of some size, whatever the global generator holds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[family](**(FAMILIES[family] | changes)))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(0.0, 0.3)
                else:
                    weight += 0.1 * torch.randn(weight.shape)
    return model.eval()


def saved(folder: Path, model: PreTrainedModel, words: Any = None) -> Path:
    model.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return saved(tmp_path / "published", made(family))


# Numbers --------------------------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_models_own_class(family: str, folder: Path) -> None:
    own, loaded = made(family), MaskedLM(path=str(folder))()
    tokens = 3 + torch.arange(3 * 11).view(3, 11) * 5 % 23  # none that RoBERTa's own class takes for padding
    with torch.no_grad():
        wanted = own(input_ids=tokens).logits.flatten(0, 1)
        found = loaded.denoiser(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(33))
    assert torch.allclose(found, wanted, rtol=0.0, atol=1e-5)
    assert wanted.std() > 0.1


def test_a_padded_row_is_the_row_alone(family: str, folder: Path) -> None:
    """As many pads as a window of ModernBERT is wide, and tokens that are RoBERTa's padding in the middle of a row."""
    own, loaded = made(family), MaskedLM(path=str(folder))()
    tokens = torch.arange(2 * 20).view(2, 20) * 7 % 27
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[0, :9] = False
    tokens[1, 4] = tokens[0, 15] = own.config.pad_token_id
    with torch.no_grad():
        found = loaded.denoiser(tokens, attention, torch.arange(9, 20))
        first = own.config.pad_token_id + 1 if family == "roberta" else 0
        place = torch.arange(first, first + 11)[None]
        wanted = own(input_ids=tokens[:1, 9:], attention_mask=torch.ones(1, 11), position_ids=place).logits[0]
    assert torch.allclose(found, wanted, rtol=0.0, atol=1e-5)


def test_every_promise_of_a_denoiser(folder: Path) -> None:
    check_denoiser(MaskedLM(path=str(folder))().denoiser, 32, tolerance=1e-4)


def test_bert_is_what_its_paper_says(tmp_path: Path) -> None:
    """Devlin et al., 1810.04805: learned positions, norms behind each addition, erf GELU, a tied and biased head."""
    folder = saved(tmp_path, made("bert"))
    weights = {name: weight.double() for name, weight in load_file(folder / "model.safetensors").items()}
    tokens = [3, 1, MASK, 7, 7, MASK]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        spread = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (spread + 1e-12).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    at = "bert.embeddings"
    table = weights[f"{at}.word_embeddings.weight"]
    x = torch.stack(
        [
            table[token]
            + weights[f"{at}.position_embeddings.weight"][place]
            + weights[f"{at}.token_type_embeddings.weight"][0]
            for place, token in enumerate(tokens)
        ]
    )
    x = norm(x, f"{at}.LayerNorm")
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}"
        q, k, v = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for part in (slice(0, 8), slice(8, 16)):
            scores = q[:, part] @ k[:, part].T / math.sqrt(8)
            heads.append(scores.softmax(-1) @ v[:, part])
        x = norm(x + linear(torch.cat(heads, -1), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    at = "cls.predictions"
    wanted = (
        norm(gelu(linear(x, f"{at}.transform.dense")), f"{at}.transform.LayerNorm") @ table.T + weights[f"{at}.bias"]
    )
    every = torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        found = MaskedLM(path=str(folder))().denoiser(torch.tensor([tokens]), every, torch.arange(6))
    assert torch.allclose(found.double(), wanted, rtol=0.0, atol=1e-5)


def test_a_family_without_a_known_head_works_with_full_logits(tmp_path: Path) -> None:
    sizes = {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 32, "pad_token_id": PAD}
    with torch.random.fork_rng():
        model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["distilbert"](**sizes)).eval()
    folder = saved(tmp_path, model)
    with pytest.warns(UserWarning, match="'distilbert' gives logits at all positions only"):
        loaded = MaskedLM(path=str(folder))()
    check_denoiser(loaded.denoiser, 32)
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        found = loaded.denoiser(tokens, tokens >= 0, torch.arange(20))
        assert torch.allclose(found, model(input_ids=tokens).logits.flatten(0, 1), rtol=0.0, atol=1e-5)


# Use ------------------------------------------------------------------------------------------------------------------


def test_samplers_fill_the_canvas_around_hints(folder: Path) -> None:
    loaded = MaskedLM(path=str(folder))(dtype=torch.float64)
    canvas = Canvas.blank(
        [torch.tensor([1, 2, 3]), torch.tensor([5])], 12, mask_id=loaded.mask_id, pad_id=loaded.pad_id
    )
    overlay = torch.full((2, 12), -1)
    overlay[0, 5:8] = torch.tensor([9, 8, 7])
    canvas = canvas.inpaint(overlay)

    def sample(rows: list[int]) -> Tensor:
        part = Canvas(canvas.tokens[rows], canvas.attention[rows], canvas.given[rows], 12)
        sampler = LLaDASampler(steps=5, block=6, temperature=1.0)
        seeds = torch.tensor([3, 4])[rows]
        return sampler(loaded.denoiser, part, seeds, mask_id=loaded.mask_id, eos_id=loaded.eos_id).completion

    both = sample([0, 1])
    assert torch.equal(both[0, 5:8], overlay[0, 5:8])
    assert not (both == loaded.mask_id).any()
    assert torch.equal(torch.cat([sample([0]), sample([1])]), both)
    assert torch.equal(sample([1, 0]), both[[1, 0]])


def test_low_rank_adapters_reach_every_linear_layer_but_the_output(family: str, folder: Path) -> None:
    loaded = MaskedLM(path=str(folder))()
    output = loaded.denoiser.get_output_embeddings()
    linear = {name for name, part in loaded.denoiser.named_modules() if isinstance(part, torch.nn.Linear)}
    assert {loaded.denoiser.get_submodule(name) for name in linear - set(loaded.linear)} == {output}
    assert len(loaded.linear) == {"bert": 13, "roberta": 13, "modernbert": 9, "eurobert": 14}[family]


def test_nothing_is_dropped_out(folder: Path) -> None:
    loaded = MaskedLM(path=str(folder))()
    tokens = torch.arange(24).view(2, 12)
    state = torch.random.get_rng_state()
    found = [loaded.denoiser.train(mode)(tokens, tokens >= 0, torch.arange(24)).detach() for mode in (False, True)]
    assert torch.equal(*found)
    assert torch.equal(state, torch.random.get_rng_state())


def test_gradient_checkpointing_is_obeyed_in_eval_mode_too(folder: Path) -> None:
    denoiser = MaskedLM(path=str(folder))().denoiser
    tokens = torch.arange(24).view(2, 12)
    layers = [part for part in denoiser.modules() if isinstance(part, masked_lm_network.GradientCheckpointingLayer)]
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    inner = next(part for part in layers[0].modules() if isinstance(part, torch.nn.Linear))
    inner.register_forward_pre_hook(count)

    def gradients() -> list[Tensor]:
        denoiser.zero_grad()
        denoiser(tokens, tokens >= 0, torch.arange(24)).logsumexp(1).sum().backward()
        return [weight.grad.clone() for weight in denoiser.parameters() if weight.grad is not None]

    plain, once = gradients(), runs
    denoiser.gradient_checkpointing_enable()
    again = gradients()
    assert runs == 3 * once  # the second time, and its repetition
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(plain, again, strict=True))
    denoiser.gradient_checkpointing_disable()
    gradients()
    assert runs == 4 * once


def test_numbers_may_be_of_another_kind(folder: Path) -> None:
    loaded = MaskedLM(path=str(folder))(dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.denoiser.parameters()} == {torch.bfloat16}
    tokens = torch.arange(24).view(2, 12)
    assert loaded.denoiser(tokens, tokens > 0, torch.tensor([5])).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_layers_give_the_same_logits_under_the_same_names(family: str, folder: Path) -> None:
    plain, compiled = (MaskedLM(path=str(folder), compile=choice)() for choice in (False, True))
    layers = [part for part in compiled.denoiser.modules() if part._compiled_call_impl is not None]
    assert len(layers) >= 2
    assert plain.denoiser.state_dict().keys() == compiled.denoiser.state_dict().keys()
    tokens = torch.arange(24).view(2, 12)
    attention = torch.arange(12) >= torch.tensor([[0], [4]])
    with torch.no_grad():
        wanted, found = (each.denoiser(tokens, attention, torch.arange(4, 12)) for each in (plain, compiled))
    assert torch.allclose(found, wanted, rtol=0.0, atol=1e-5)


# Files ----------------------------------------------------------------------------------------------------------------


def test_what_is_saved_loads_here_and_with_transformers(family: str, folder: Path, tmp_path: Path) -> None:
    loaded = MaskedLM(path=str(folder))()
    loaded.save(tmp_path / "again")
    before, after = (load_file(part / "model.safetensors") for part in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    own, notes = AutoModelForMaskedLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(notes.values())
    assert own.config.model_type == family
    settings = json.loads((tmp_path / "again" / "config.json").read_text())
    assert [value for name, value in settings.items() if "dropout" in name and value] != []  # the file keeps its own
    again = MaskedLM(path=str(tmp_path / "again"))()
    assert (again.mask_id, again.eos_id, again.pad_id) == (loaded.mask_id, loaded.eos_id, loaded.pad_id)


def test_the_first_berts_have_other_names_and_more_heads(tmp_path: Path) -> None:
    folder = saved(tmp_path / "old", made("bert"))
    weights = load_file(folder / "model.safetensors")

    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    more = {"bert.pooler.dense.weight": torch.ones(16, 16), "cls.seq_relationship.bias": torch.ones(2)}
    more |= {"bert.embeddings.position_ids": torch.arange(48)[None]}
    save_file({old(name): weight for name, weight in weights.items()} | more, folder / "model.safetensors")
    loaded = MaskedLM(path=str(folder))()
    for name, weight in loaded.denoiser.state_dict().items():
        if name in weights:
            assert torch.equal(weight, weights[name])
    loaded.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == {old(name) for name in weights}


# Special tokens, and what is refused -----------------------------------------------------------------------------------


def test_special_tokens_are_the_configs_or_the_tokenizers_or_chosen(tmp_path: Path) -> None:
    path = str(saved(tmp_path, made("bert")))
    loaded = MaskedLM(path=path)()
    assert (loaded.mask_id, loaded.eos_id, loaded.pad_id) == (MASK, SEP, PAD)
    chosen = MaskedLM(path=path, mask_id=4, eos_id=5, pad_id=6)()
    assert (chosen.mask_id, chosen.eos_id, chosen.pad_id) == (4, 5, 6)


def set_config(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def without_mask(folder: Path) -> None:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="w0"))
    for file in folder.glob("*token*"):
        file.unlink()
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w1", sep_token="w2").save_pretrained(folder)


def with_one_more(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"bert.encoder.layer.2.x": torch.zeros(1)}
    save_file(weights, folder / "model.safetensors")


def without_one(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["cls.predictions.transform.dense.bias"]
    save_file(weights, folder / "model.safetensors")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (set_config(model_type="gpt2"), r"config\.json: model_type = 'gpt2' is no masked language model"),
        (set_config(model_type="bart"), r"config\.json: model_type = 'bart' is no masked language model"),
        (set_config(is_decoder=True), r"config\.json: model_type = 'bert' is no masked language model"),
        (set_config(pad_token_id=32), r"config\.json: pad_token_id = 32 lies outside of the model's 32 tokens"),
        (without_mask, "model 'bert' has no mask token; masked diffusion needs one.*--model.mask_id"),
        (cut_short, r"model\.safetensors cannot be read.*cut short"),
        (with_one_more, r"model\.safetensors: unexpected weight bert\.encoder\.layer\.2\.x"),
        (without_one, "1 weights are missing, the first is cls.predictions.transform.dense.bias"),
    ],
)
def test_what_is_refused(breakage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, made("bert"))
    breakage(folder)
    with pytest.raises(ValueError, match=message):
        MaskedLM(path=str(folder))()


def test_a_canvas_longer_than_the_positions_says_so(tmp_path: Path) -> None:
    for family, room in (("bert", 48), ("roberta", 46)):
        denoiser = MaskedLM(path=str(saved(tmp_path / family, made(family))))().denoiser
        tokens = torch.zeros(1, room + 1, dtype=torch.long)
        denoiser(tokens[:, 1:], tokens[:, 1:] == 0, torch.tensor([0]))
        with pytest.raises(
            ValueError, match=rf"has {room + 1} columns, but the model has positions for {room} \(.* = 48\)"
        ):
            denoiser(tokens, tokens == 0, torch.tensor([0]))
