"""The text of single tokens, and its display: model output is hostile, so what is shown never controls a terminal or a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls but tab and newline: ESC and CSI begin terminal commands
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # direction overrides and invisible characters
    "\u2028\u2029\ud800-\udfff]"  # separators that break lines elsewhere, lone surrogates
)


def visible(text: str) -> str:
    """The text with every control, direction and invisible character replaced by a picture of it; tab and newline stay."""

    def picture(found: re.Match[str]) -> str:
        code = ord(found.group())
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"

    return _UNPRINTABLE.sub(picture, text)


def decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Ids -> text as a Hugging Face tokenizer has it, special tokens and spaces kept."""

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return decode


def pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: the pieces joined are `decode(ids)`.

    A token that ends inside a character adds nothing; the one that completes it adds the character.
    """
    texts: list[str] = []
    start = read = 0  # decode from the last piece on: what a piece looks like may depend on the one before it
    for end in range(1, len(ids) + 1):
        before, after = decode(list(ids[start:read])), decode(list(ids[start:end]))
        if after.endswith("\ufffd") and end < len(ids) and end - read < 4:  # UTF-8 takes four bytes at most
            texts.append("")
            continue
        texts.append(after[len(before) :])
        start, read = read, end
    return texts
