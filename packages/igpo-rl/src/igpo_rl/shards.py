"""Tensors that are spread over ranks (FSDP2), made whole for a checkpoint and spread again when it is read.

A checkpoint holds whole tensors whatever wrote it, so it can be read by any number of processes, with or without shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def whole(tree: Any, *, wanted: bool = True) -> Any:
    """Mappings and lists of tensors and plain values, with every DTensor whole and on the CPU.

    Every rank calls this, because ranks exchange their shards; one that does not want the result keeps none of it.
    """
    if isinstance(tree, Mapping):
        return {name: whole(each, wanted=wanted) for name, each in tree.items()}
    if isinstance(tree, list):
        return [whole(each, wanted=wanted) for each in tree]
    if not hasattr(tree, "full_tensor"):
        return tree
    full = tree.full_tensor()
    return full.cpu() if wanted else None


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, known to every rank, as this rank's part of it where `like` is a DTensor of the same shape."""
    if not hasattr(like, "full_tensor") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Moments and step counts of a checkpoint; rates and other options stay those that the optimiser was made with."""
    own = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved["param_groups"]]:
        raise ValueError(
            "the checkpoint's optimiser has moments of other weights; resume with the [optimizer] name, the model and the "
            "adapters that it was written with"
        )
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        index: {
            name: spread(value, weights[index]) if hasattr(value, "shape") else value for name, value in each.items()
        }
        for index, each in saved["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": own})
