"""What the cases on a GPU share: LLaDA-8B's shape with random weights, the device's own rates, clocks that wait for it.

All of it runs on a CPU as well, at sizes for tests.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from attrs import frozen

from benchmarks.counted import Counted
from benchmarks.harness import SkippedError
from igpo_sampling import Canvas
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

LLADA_8B = LLaDAConfig(mlp_hidden_size=12288)
SMALL = LLaDAConfig(d_model=64, n_layers=2, n_heads=4, mlp_hidden_size=96, vocab_size=101)


def at_hand() -> str:
    if not torch.cuda.is_available():
        raise SkippedError("no GPU at hand; nothing was measured and nothing is written")
    return "cuda"


def network(config: LLaDAConfig, device: str, dtype: torch.dtype = torch.bfloat16) -> LLaDAForDiffusion:
    """Random weights, made where they are used."""
    with torch.device("meta"):
        model = LLaDAForDiffusion(config).to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, 0.02, generator=generator)
    return model.eval()


def canvas(vocabulary: int, rows: int, prompt: int, width: int, device: str) -> Canvas:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(vocabulary - 1, (rows, prompt), generator=generator)
    return Canvas.blank(list(prompts), width, mask_id=vocabulary - 1, pad_id=0).to(device)


def timed(function: Callable[[], object], device: str, repeats: int = 3, *, warm: bool = True) -> float:
    """Median seconds, once the device is done, after a first run that does not count."""
    if warm:
        function()
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_mb(function: Callable[[], object], device: str) -> float | None:
    """The device's memory that one run adds to what is held; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    function()
    return float(torch.cuda.max_memory_allocated() - held) / 2**20


@frozen
class Rates:
    """What the device does at its best, measured here: one large matrix product, one large copy."""

    flops: float
    bytes: float

    @classmethod
    def measured(cls, device: str, dtype: torch.dtype = torch.bfloat16) -> Rates:
        size, times = (8192, 10) if device != "cpu" else (256, 1)
        one = torch.randn(size, size, device=device, dtype=dtype)
        large = torch.empty(2**20 if device == "cpu" else 2**30, dtype=torch.uint8, device=device)
        other = torch.empty_like(large)
        products = timed(lambda: [one @ one for _ in range(times)], device)
        copies = timed(lambda: [other.copy_(large) for _ in range(times)], device)
        return cls(times * 2 * size**3 / products, times * 2 * large.nbytes / copies)

    def share(self, counted: Counted, spent: float) -> str:
        """Of the least time that the counted work takes at these rates, and which of them decides."""
        compute, memory = counted.flops / self.flops, counted.bytes / self.bytes
        limit = f"products at {self.flops / 1e12:.0f} TFLOP/s" if compute > memory else f"{self.bytes / 1e9:.0f} GB/s"
        return f"{max(compute, memory) / spent:.0%} of the roofline ({limit})"


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
