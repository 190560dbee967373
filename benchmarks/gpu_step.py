"""One denoising step of LLaDA-8B's shape on a GPU: 768 columns, the 32 blanks of a block read, bfloat16, random weights.

First the step beside the forward and head that it makes, which says what sampling adds. Then what each way to run the
layers brings over torch's own choice at batch 8: one kernel of attention after the other, the layers as one CUDA graph,
torch.compile, and both. The roofline is that of the rollouts on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.counted import Counted
from benchmarks.device import LLADA_8B, Rates, at_hand, canvas, network, peak_mb, timed
from benchmarks.harness import Row
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion, rotation_of

NAME = "A denoising step on a GPU"
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "plain products": SDPBackend.MATH,
}


class Graphed:
    """A denoiser of one shape, without padding: its layers are one graph, and the head, whose rows change, is not."""

    def __init__(self, model: LLaDAForDiffusion, tokens: Tensor) -> None:
        self.model, self.tokens = model, tokens.clone()
        self.replay = replayed(self.layers, tokens.device.type)

    @torch.no_grad()
    def layers(self) -> None:
        part: Any = self.model.model["transformer"]
        x = part.wte(self.tokens)
        rotation = rotation_of(self.tokens.shape[1], self.model.config, x)
        for block in part.blocks:
            x = block(x, rotation, None)
        self.hidden = part.ln_f(x)

    def __call__(self, tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., Any]) -> Any:  # noqa: ARG002
        self.tokens.copy_(tokens)
        self.replay()
        return read(self.model.head, self.hidden.flatten(0, 1).index_select(0, where))


def replayed(function: Callable[[], None], device: str) -> Callable[[], None]:
    """The function as a CUDA graph; on a CPU itself."""
    if device == "cpu":
        return function
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is set up at a first run must not be captured
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def step(denoiser: Any, blank: Canvas, temperature: float) -> Tensor:
    sampler = LLaDASampler(steps=1, block=blank.width, temperature=temperature)
    seeds = torch.arange(len(blank), device=blank.tokens.device)
    return sampler(denoiser, blank, seeds, mask_id=int(blank.completion[0, 0]), eos_id=0).completion


@torch.no_grad()
def forward(model: LLaDAForDiffusion, blank: Canvas) -> Tensor:
    """What a step asks of the model."""
    where = blank.given.logical_not().flatten().nonzero()[:, 0]
    return model(blank.tokens, blank.attention, where)


def beside(case: str, ours: float, baseline: float, memory: float | None = None, note: str = "") -> Row:
    return Row(
        case=case,
        ours_s=ours,
        baseline_s=baseline,
        ratio=baseline / ours,
        ours_mb=memory,
        baseline_mb=None,
        note=note,
    )


def alone(model: LLaDAForDiffusion, blank: Canvas, rates: Rates, device: str) -> Iterator[Row]:
    """A step beside the forward in it."""
    inside = timed(partial(forward, model, blank), device)
    for temperature in (0.0, 1.2):
        run, counted = partial(step, model, blank, temperature), Counted(model)
        step(counted, blank, temperature)
        spent = timed(run, device)
        note = f"sampling adds {spent / inside - 1:.1%}; {rates.share(counted, spent)}"
        case = f"batch {len(blank)}, T {temperature:g}: a step beside its forward alone"
        yield beside(case, spent, inside, peak_mb(run, device), note)


def ways(model: LLaDAForDiffusion, blank: Canvas, device: str, compiler: str) -> Iterator[Row]:
    """A step at temperature 0 in other ways beside the plain one."""
    plain = partial(step, model, blank, 0.0)
    expected, inside = plain(), timed(plain, device)

    def row(way: str, made: Callable[[], Any]) -> Row:
        case = f"batch {len(blank)}, T 0: {way}"
        try:
            run = partial(step, made(), blank, 0.0)
            equal = (run() == expected).float().mean()
        except RuntimeError as error:  # not every device has every kernel, and not every machine a compiler
            note = f"not here: {str(error).splitlines()[0][:80]}"
            return Row(case=case, ours_s=None, baseline_s=inside, ratio=None, ours_mb=None, baseline_mb=None, note=note)
        return beside(case, timed(run, device), inside, note=f"{equal:.1%} of tokens equal")

    for name, kernel in KERNELS.items():
        with sdpa_kernel(kernel):
            yield row(f"attention by {name}", lambda: model)
    yield row("layers in a CUDA graph", lambda: Graphed(model, blank.tokens))
    for layer in model.model["transformer"].blocks:
        layer.compile(backend=compiler)
    yield row("torch.compile", lambda: model)
    yield row("torch.compile in a CUDA graph", lambda: Graphed(model, blank.tokens))


def rows(
    device: str,
    config: LLaDAConfig,
    sizes: tuple[int, ...] = (8, 32),
    columns: int = 768,
    block: int = 32,
    compiler: str = "inductor",
) -> list[Row]:
    model, rates = network(config, device), Rates.measured(device)
    blanks = [canvas(config.vocab_size, many, columns - block, block, device) for many in sizes]
    steps = [row for blank in blanks for row in alone(model, blank, rates, device)]
    return [*steps, *ways(model, blanks[0], device, compiler)]


def run(quick: bool) -> list[Row]:
    device = at_hand()
    config = LLaDAConfig(d_model=256, n_layers=2, n_heads=4, mlp_hidden_size=768) if quick else LLADA_8B
    return rows(device, config)
