"""Plain values of all ranks, over the one `gather` of small tensors that IGPO is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


def gather_values(values: Sequence[Any], gather: Callable[[Tensor], Tensor]) -> list[list[Any]]:
    """This rank's values (what JSON can hold) -> those of every rank, a list a rank. Every rank calls it."""
    text = torch.tensor(list(json.dumps(list(values)).encode()), dtype=torch.long)
    width = int(gather(torch.tensor([len(text)])).max())
    table = gather(torch.nn.functional.pad(text, (0, width - len(text)), value=ord(" ")))
    return [json.loads(bytes(row)) for row in table.tolist()]


def in_order(values: Sequence[tuple[int, Any]], gather: Callable[[Tensor], Tensor]) -> list[Any]:
    """(index on this rank, value) pairs -> the values of all ranks, by index and then rank: alike for any number of ranks."""
    table = gather_values(values, gather)
    placed = [(index, rank, value) for rank, row in enumerate(table) for index, value in row]
    return [value for _, _, value in sorted(placed, key=lambda each: each[:2])]
