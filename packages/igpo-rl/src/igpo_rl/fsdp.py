"""Policies whose weights are spread over ranks (FSDP2): made, sampled from, and put together again.

A forward of such a module gathers its weights, layer by layer, on all ranks at once. Rollouts are a hundred forwards and
more, so they gather once for all of them where memory allows; where not, ranks must run equally many forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_rl import later
from igpo_rl.shards import whole

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from accelerate import Accelerator
    from torch import Tensor
    from torch.nn import Module
else:
    torch = later.load("torch")


def prepare(accelerator: Accelerator, module: Module) -> Module:
    """`accelerator.prepare_model`, which leaves FSDP2 out. Optimisers are built after this, on the weights that it leaves."""
    if accelerator.distributed_type == "FSDP":
        if not accelerator.is_fsdp2:
            raise ValueError(
                "accelerate is set to the first version of FSDP; set fsdp_version: 2 in the file of its options"
            )
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        with _head_in_root(module):
            spread: Module = fsdp2_prepare_model(accelerator, module)
        return spread
    prepared: Module = accelerator.prepare_model(module)
    return prepared


@contextmanager
def _head_in_root(module: Any) -> Iterator[None]:
    """Embeddings and head stay in the root's unit; accelerate would make units of them.

    A chunk of scores is a call of the head, and a unit exchanges gradients after each: ranks have unequally many chunks.
    """
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(module, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(module, name)


def is_sharded(module: Any) -> bool:
    """Whether ranks hold parts of its weights only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


@frozen(eq=False)
class Rollouts:
    """How a policy is sampled from; of any other than a sharded one nothing changes."""

    module: Any
    gather: Callable[[Tensor], Tensor]
    """(n,) of this rank -> (ranks, n)."""
    once: bool
    """Gather all weights once a phase; otherwise in each forward."""

    @classmethod
    def of(cls, module: Any, gather: Callable[[Tensor], Tensor], once: bool | None = None) -> Rollouts:
        """`once` None: where every rank has room for all weights and as much again. Every rank calls this."""
        if not is_sharded(module):
            return cls(module, gather, once=False)
        fit = has_room(module) if once is None else once
        return cls(module, gather, once=bool(gather(torch.tensor([float(fit)])).min()))

    @contextmanager
    def phase(self) -> Iterator[None]:
        """Around all plays of a rollout phase, or an evaluation."""
        if not (self.once and is_sharded(self.module)):
            yield
            return
        layers = _sharded(self.module)
        self.module.set_reshard_after_forward(False)
        for layer in layers:  # `unshard` is not recursive
            layer.unshard()
        try:
            yield
        finally:
            for layer in layers:
                layer.reshard()
                # As `fully_shard` and accelerate have it: the root's own weights are needed first in the backward pass.
                layer.set_reshard_after_forward(layer is not self.module, recurse=False)

    def within(self, module: Any) -> AbstractContextManager[Any]:
        """Around the forwards of one play: what to call instead of the module."""
        return nullcontext(module) if self.once or not is_sharded(module) else self._in_step(module)

    @contextmanager
    def _in_step(self, module: Any) -> Iterator[InStep]:
        forward = InStep(module, self.gather)
        yield forward
        forward.finish()


@frozen(eq=False)
class InStep:
    """Calls a sharded module; ranks that are done call it on, with nothing to compute, until all are."""

    module: Any
    gather: Callable[[Tensor], Tensor]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        self.gather(torch.ones(1))
        return self.module(*inputs, **named)

    def finish(self) -> None:
        token = torch.zeros((1, 1), dtype=torch.long, device=next(self.module.parameters()).device)
        while bool(self.gather(torch.zeros(1)).any()):
            with torch.no_grad():
                self.module(token, token == 0, token[0])


def has_room(module: Any) -> bool:
    """Whether what gathering takes is free. A CPU is taken to have room."""
    device = next(module.parameters()).device
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return needed(module) < free + cached


def needed(module: Any) -> int:
    """Bytes: all weights and as much again for activations, beside this rank's share of gradients and two moments."""
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    states = 3 * sum(w.to_local().numel() * w.element_size() for w in module.parameters() if w.requires_grad)
    return int(2 * size + states)


def dissolve(module: Module, *, wanted: bool) -> None:
    """A sharded module's weights become whole again, on the CPU, for files; without memory where they are not `wanted`.

    Every rank calls this. The module runs no forward any more.
    """
    found: dict[int, Any] = {}
    for owner in module.modules():
        for name, weight in owner.named_parameters(recurse=False):
            if hasattr(weight, "full_tensor"):
                if id(weight) not in found:
                    full = whole(weight.detach(), wanted=wanted)
                    full = torch.empty(weight.shape, dtype=weight.dtype, device="meta") if full is None else full
                    found[id(weight)] = torch.nn.Parameter(full, requires_grad=weight.requires_grad)
                owner._parameters[name] = found[id(weight)]


def _sharded(module: Any) -> list[Any]:
    return [part for part in module.modules() if is_sharded(part)]
