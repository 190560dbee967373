"""Directories of checkpoints: found, read into any network with strict keys, and written back.

Headers of all files are checked before the first weight is copied, so nothing is ever half-loaded. What a directory
holds beside its weights (tokenizer, generation config, chat template, code) is kept byte for byte and written again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, field, frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from igpo_sampling.denoiser import Loaded

SHARD = 5 * 2**30
"""Bytes of weights in a file at most."""
KEPT = (".json", ".jinja", ".model", ".py", ".txt")
"""Endings of the files that are kept; weights, their index and config.json are written anew."""
VOCABULARY = ("added_tokens", "merges", "special_tokens_map", "tokenizer", "vocab")
"""How the names of a tokenizer's files begin."""
MASKS = ("<|mask|>", "<|MASK|>", "|<MASK>|", "<|mdm_mask|>", "[MASK]", "<mask>")
"""How published vocabularies call the mask token where neither config nor tokenizer point to it."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}

LINEAR = (nn.Linear, Conv1D)
"""Linear layers; GPT-2 calls them convolutions."""

Spread = Callable[[str, Tensor], Mapping[str, Tensor]]
"""From a weight of the network to what files hold of it: names, and views into the weight."""


def whole(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The usual spread: a file holds what the network does."""
    return {name: weight}


@frozen(eq=False, kw_only=True)
class Checkpoint:
    """A directory's config, tokenizer and the files that go back unchanged."""

    folder: Path
    settings: dict[str, Any]
    """config.json as it is."""
    tokenizer: Any
    files: dict[str, bytes] = field(factory=dict)
    """What `write` copies."""
    new_tokenizer: bool = False
    """Whether the tokenizer was made or changed, and is to be written itself."""

    @property
    def family(self) -> str:
        """The published `model_type`."""
        return str(self.settings.get("model_type"))

    def mask_id(self, chosen: int | None = None, remedy: str = "If this is a masked LM, set --model.mask_id.") -> int:
        """The mask token: chosen, or named by the config, the tokenizer or its vocabulary."""
        known = self.tokenizer.get_vocab()
        named = (chosen, self.settings.get("mask_token_id"), self.tokenizer.mask_token_id, *map(known.get, MASKS))
        for token in named:
            if token is not None:
                return int(token)
        raise ValueError(f"model '{self.family}' has no mask token; masked diffusion needs one. {remedy}")

    def expect(self, fixed: Mapping[str, Any]) -> None:
        """Keys that the config may lack, but may not hold with other values: they stand for an architecture."""
        for key, value in fixed.items():
            if key in self.settings and (self.settings[key] or None) != (value or None):
                raise ValueError(
                    f"{self.folder / 'config.json'}: {key} = {self.settings[key]!r} is not supported; "
                    f"this family has {value!r}."
                )

    def ends(self) -> tuple[int, int]:
        """The ids of EOS and padding, of the config or else the tokenizer; what is not padded otherwise is with EOS."""
        pairs = ((self.settings.get(f"{kind}_token_id"), kind) for kind in ("eos", "pad"))
        eos, pad = (getattr(self.tokenizer, f"{kind}_token_id") if value is None else value for value, kind in pairs)
        eos = eos[0] if isinstance(eos, list) else eos
        if eos is None:
            raise ValueError(
                f"{self.folder / 'config.json'}: no eos_token_id. Add the id of the token that ends a text."
            )
        return eos, eos if pad is None else pad


def open_directory(path: str) -> Path:
    """The directory, or the model of that name on the Hugging Face hub, downloaded once; ValueError where there is none."""
    if Path(path).is_dir():
        return Path(path)
    if Path(path).exists():
        raise ValueError(f"model path '{path}' is a file. Point --model.path at the folder that holds it.")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        raise ValueError(
            f"model path '{path}' does not exist, seen from {Path.cwd()}. "
            "Give a saved model's folder, or a name on the Hugging Face hub, USER/NAME."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.safetensors", *(f"*{ending}" for ending in KEPT)]))
    except GatedRepoError as error:
        raise ValueError(
            f"model '{path}' is gated. Accept its terms at its page on the hub, then log in with: hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder '{path}' here and no such model on the hub, or it is private (hf auth login)."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"there is no folder '{path}' here, and the hub cannot be reached to look for a model of that name."
        ) from error
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model '{path}' cannot be downloaded ({reason}).") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.json. Point --model.path at a saved model.")
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}). Copy it again.") from error
    return settings


def read_checkpoint(path: str, *families: str) -> Checkpoint:
    """All but the weights; of another family than these, if any are named, is an error."""
    folder = open_directory(path)
    settings = read_settings(folder)
    if families and (family := settings.get("model_type")) not in families:
        raise ValueError(
            f"{folder / 'config.json'}: model_type = '{family}' is another family; this plug-in reads '{families[0]}'."
        )
    skipped = ("config.json", "model.safetensors.index.json")
    files = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in KEPT and file.name not in skipped
    }
    return Checkpoint(folder=folder, settings=settings, tokenizer=read_tokenizer(folder), files=files)


def read_tokenizer(folder: Path) -> Any:
    """tokenizer.json, or Qwen's vocab.json and merges.txt; never a class that the directory names."""
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer.from_pretrained(folder)
    raise ValueError(f"{folder} holds no tokenizer.json. Copy the tokenizer's files beside the weights.")


def read_weights(
    folder: Path,
    network: PreTrainedModel,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    spread: Spread = whole,
) -> None:
    """Fill a network made on the meta device with model.safetensors or its shards, in `dtype` or as stored.

    A weight that is missing, left over or of another shape is an error that names the file and the key. Of tied
    weights one is enough; where a directory holds both they must be equal.
    """
    aliases = _aliases(network)
    state = {name: tensor for name, tensor in network.state_dict().items() if name not in aliases}
    expected = {part: view for name, tensor in state.items() for part, view in spread(name, tensor).items()}
    places = _places(folder, network, expected, aliases)
    if missing := sorted(expected.keys() - {aliases.get(name, name) for name in places}):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}.")
    stored = {aliases.get(name, name): kind for name, (_, kind) in places.items()}
    filled: dict[str, Tensor] = {}
    views: dict[str, Tensor] = {}
    for name, tensor in state.items():
        kind = stored[next(iter(spread(name, tensor)))]
        kind = dtype if dtype is not None and kind.is_floating_point else kind
        filled[name] = torch.empty(tensor.shape, dtype=kind, device=device)
        views.update(spread(name, filled[name]))
    for file in sorted({file for file, _ in places.values()}):
        with _opened(file) as shard:
            for name in (name for name, (place, _) in places.items() if place == file):
                if name not in aliases or aliases[name] not in places:
                    views[aliases.get(name, name)].copy_(shard.get_tensor(name))
    for twin in aliases.keys() & places.keys():
        name, (file, _) = aliases[twin], places[twin]
        with _opened(file) as shard:
            if not torch.equal(shard.get_tensor(twin).to(views[name]), views[name]):
                raise ValueError(
                    f"{file}: {twin} differs from {name}, but config.json ties them. Set tie_word_embeddings."
                )
    network.load_state_dict(filled, strict=False, assign=True)
    for twin, name in aliases.items():
        owner, _, leaf = twin.rpartition(".")
        setattr(network.get_submodule(owner), leaf, network.get_parameter(name))
    _fill_buffers(network, device)


def write(folder: Path, network: PreTrainedModel, checkpoint: Checkpoint, *, spread: Spread = whole) -> None:
    """A directory of the same form: config with the weights' dtype, the kept files or the tokenizer, sharded weights."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "torch_dtype" if "torch_dtype" in checkpoint.settings else "dtype"
    settings = checkpoint.settings | {dtype: str(network.dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for name, content in checkpoint.files.items():
        (folder / name).write_bytes(content)
    if checkpoint.new_tokenizer:
        checkpoint.tokenizer.save_pretrained(folder)
    aliases = _aliases(network)
    state = network.state_dict()
    parts = {part: view for name in state.keys() - aliases.keys() for part, view in spread(name, state[name]).items()}
    shards: list[list[str]] = [[]]
    room = SHARD
    for name in sorted(parts):
        room -= (size := parts[name].nbytes)
        if room < 0 and shards[-1]:
            shards.append([])
            room = SHARD - size
        shards[-1].append(name)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        # views of one weight share its memory, which a file cannot
        weights = {name: parts[name].detach().to("cpu", copy=True).contiguous() for name in names}
        try:
            save_file(weights, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, which is an error of the system
            cause = re.search(r"os error (\d+)", str(error))
            if cause is None:
                raise
            raise OSError(int(cause[1]), os.strerror(int(cause[1])), str(folder / file)) from error
        # safetensors makes a file that its owner alone may read; a model is as readable as what stands beside it
        (folder / file).chmod((folder / "config.json").stat().st_mode)
        index |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(part.nbytes for part in parts.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def ready(
    network: PreTrainedModel,
    checkpoint: Checkpoint,
    *,
    mask_id: int,
    spread: Spread = whole,
    block: int | None = None,
    compiled: bool = False,
) -> Loaded:
    """The network with what goes with it; what it saves names the mask token in its config.

    Compiled are the layers, each in place and with dynamic shapes: names stay, and one layer's code serves all.
    """
    entries = network.get_input_embeddings().num_embeddings
    if not 0 <= mask_id < entries:
        raise ValueError(f"mask_id = {mask_id} lies outside of the model's {entries} tokens. Set --model.mask_id.")
    checkpoint = evolve(checkpoint, settings=checkpoint.settings | {"mask_token_id": mask_id})
    eos_id, pad_id = checkpoint.ends()
    if compiled:
        network.compiled = True
        for part in network.modules():
            if type(part).__name__ in network._no_split_modules:
                part.compile(dynamic=True)
    head = network.get_output_embeddings()
    linear = (name for name, part in network.named_modules() if isinstance(part, LINEAR) and part is not head)
    return Loaded(
        denoiser=network.eval(),
        tokenizer=checkpoint.tokenizer,
        mask_id=mask_id,
        eos_id=eos_id,
        pad_id=pad_id,
        linear=tuple(linear),
        experts=tuple(name for name, weight in network.named_parameters() if weight.ndim == 3),
        save=lambda folder: write(Path(folder), network, checkpoint, spread=spread),
        block=block,
    )


def _places(
    folder: Path, network: PreTrainedModel, expected: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> dict[str, tuple[Path, torch.dtype]]:
    """Where each weight lies and its stored dtype, from the headers of all files."""
    config = network.config
    ignored = re.compile("|".join(getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ["(?!)"]))
    places: dict[str, tuple[Path, torch.dtype]] = {}
    for file in _shards(folder):
        with _opened(file) as shard:
            for name in shard.keys():  # noqa: SIM118
                piece = shard.get_slice(name)
                wanted = expected.get(aliases.get(name, name))
                if wanted is None and ignored.search(name):
                    continue
                if wanted is None:
                    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "n_layers", "its")
                    raise ValueError(
                        f"{file}: unexpected weight {name}. A '{config.model_type}' model of {layers} layers, "
                        "which config.json asks for, has none of that name."
                    )
                if tuple(piece.get_shape()) != tuple(wanted.shape):
                    raise ValueError(
                        f"{file}: {name} is {tuple(piece.get_shape())}, but config.json asks for {tuple(wanted.shape)}."
                    )
                if piece.get_dtype() not in DTYPES:
                    raise ValueError(
                        f"{file}: {name} is stored as {piece.get_dtype()}. Take a checkpoint that is not quantised."
                    )
                places[name] = file, DTYPES[piece.get_dtype()]
    return places


def stored_names(folder: Path) -> set[str]:
    """The names of all weights in a directory, from the headers of its files."""
    names: set[str] = set()
    for file in _shards(folder):
        with _opened(file) as shard:
            names.update(shard.keys())
    return names


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError) as error:
        raise ValueError(f"{index} is not an index of weights ({error!r}). Copy it again.") from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        shard = safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}). It may be missing or cut short; copy it again.") from error
    with shard:
        yield shard


def _aliases(network: PreTrainedModel) -> dict[str, str]:
    """Names of weights that are another name's weight, and that name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(weight), name) for name, weight in network.state_dict(keep_vars=True).items()}
    return {name: other for name, other in names.items() if name != other}


def _fill_buffers(network: PreTrainedModel, device: str) -> None:
    """Buffers that no file holds (rotary frequencies), as the family's own class computes them."""
    for module in network.modules():
        module.__dict__.pop("_is_hf_initialized", None)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.empty_like(buffer, device=device))
    for weight in network.state_dict(keep_vars=True).values():
        weight._is_hf_initialized = True
    network.initialize_weights()
