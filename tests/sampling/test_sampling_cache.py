"""Windows over stored keys and values: the store, and a forward that computes some columns."""

from __future__ import annotations

import torch
from sampling_models import mixing

from igpo_sampling import KeyValues, Window
from igpo_sampling.cache import trait


def test_the_store_keeps_what_is_put_and_knows_which_rows():
    generator = torch.Generator().manual_seed(0)
    whole = torch.zeros(2, 3, 1, 6, 4)
    store = KeyValues(3, 6)
    for rows, starts, width in (([0, 1, 2], [1, 0, 3], 2), ([0, 1, 2], [0, 0, 0], 6), ([2, 0], [4, 1], 1)):
        columns = torch.tensor(starts)[:, None] + torch.arange(width)
        k, v = torch.randn(2, len(rows), 1, width, 4, generator=generator)
        part = store if len(rows) == 3 else store.part(torch.tensor(rows))
        kept = part.put(0, columns, k, v)
        for row, start, *new in zip(rows, starts, k, v, strict=True):
            for pair, values in zip(whole, new, strict=True):
                pair[row, :, start : start + width] = values
        assert torch.equal(torch.stack(kept), whole[:, rows])
    store.take(torch.tensor([2, 0]))
    kept = store.put(0, torch.zeros(2, 1, dtype=torch.long), *whole[:, [2, 0], :, :1])
    assert torch.equal(torch.stack(kept), whole[:, [2, 0]])


def test_where_is_found_in_the_window():
    columns = torch.tensor([[2, 3, 5], [0, 1, 4]])
    where = torch.tensor([7 + 4, 2, 5, 7 + 0])
    assert Window(columns, KeyValues(2, 7)).locate(where, 7).tolist() == [5, 0, 2, 3]


def test_stale_keys_are_those_that_were_stored():
    """A token that changes outside of the window is not seen; inside it is."""
    loaded = mixing(width=16, layers=2, heads=2, dtype=torch.float64)
    tokens = torch.arange(20).view(2, 10)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    columns = torch.arange(3, 7).repeat(2, 1)
    inside = torch.tensor([3, 16])
    with torch.no_grad():
        results = []
        for column in (None, 1, 4):
            store = KeyValues(2, 10)
            whole = Window(torch.arange(10).repeat(2, 1), store)
            loaded.denoiser(tokens, attention, inside, None, whole)
            other = tokens.clone()
            if column is not None:
                other[:, column] = 39
            results.append(loaded.denoiser(other, attention, inside, None, Window(columns, store)))
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-12)
    assert not torch.allclose(results[0], results[2], rtol=0, atol=1e-3)


def test_traits_are_found_behind_a_wrapper():
    class Wrapper(torch.nn.Module):
        """Hides the attributes of its module, as DDP does."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    network = mixing(width=16, layers=1, heads=2).denoiser
    assert trait(Wrapper(Wrapper(network)), "caches", ()) == ("prefix", "dual")
    assert trait(Wrapper(network), "block", None) is None
