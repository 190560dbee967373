"""Tokenizers of models made from nothing: one token a word of a closed list, one a byte, or a saved tokenizer's own.

Special tokens come last: mask, end of sequence, padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"mask_token": "<mask>", "eos_token": "<eos>", "pad_token": "<pad>"}


def words(vocabulary: Sequence[str]) -> Any:
    """Each word one token; decoding joins them by single spaces. A word outside of the list is an error."""
    broken = [word for word in vocabulary if not word or word.split() != [word] or word in SPECIAL.values()]
    if broken or len(set(vocabulary)) < len(vocabulary):
        raise ValueError(
            f"the vocabulary of {len(vocabulary)} words has repetitions or unusable words {broken[:5]}. "
            f"Words are distinct, hold no spaces and are none of {', '.join(SPECIAL.values())}."
        )
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finished(core)


def utf8() -> Any:
    """256 byte tokens: any text, exactly."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return _finished(core)


def saved(folder: str) -> Any:
    """A directory's tokenizer with the special tokens that it lacks added at the end; ValueError where it holds none."""
    from igpo_sampling.models.checkpoints import read_tokenizer

    tokenizer = read_tokenizer(Path(folder))
    tokenizer.add_special_tokens({kind: text for kind, text in SPECIAL.items() if getattr(tokenizer, kind) is None})
    return tokenizer


def _finished(core: Tokenizer) -> Any:
    core.add_special_tokens(list(SPECIAL.values()))
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **SPECIAL)
