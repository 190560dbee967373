"""How fast a model samples and learns here, from a second of its work, as FLOP a second that counts can be divided by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from igpo_cli.problems import ProblemSet
from igpo_cli.rehearsal import Counted, by_gradient, first_examples
from igpo_cli.training import recompute_layers
from igpo_rl import later
from igpo_rl.cost import Count, Figures
from igpo_rl.sft import noise, sft_loss
from igpo_sampling import Canvas, Loaded

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from igpo_cli.config import Config
    from igpo_rl import IGPO, Rollouts
else:
    torch = later.load("torch")

PATIENCE = 1.0
"""Seconds of real forwards after which a measurement of speed ends."""


class EnoughError(Exception):
    """Ends a measurement."""


def now(device: str) -> float:
    """Seconds, once the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product."""
    size = 1024 if device == "cpu" else 8192
    one = torch.ones(size, size, dtype=dtype, device=device)
    one @ one
    start, times = now(device), 0
    while now(device) - start < PATIENCE / 4:
        one @ one
        times += 1
    return float(2 * size**3 * times / (now(device) - start))


@frozen(eq=False)
class Bench:
    """The model at work, for a moment."""

    config: Config
    loaded: Loaded
    policy: Module
    figures: Figures
    device: str

    def igpo(self, algorithm: IGPO, problems: ProblemSet, batch: Rollouts) -> tuple[float, float]:
        """FLOP a second of rollouts and of learning; `batch` is of the stand-in, so its tokens stand for any."""
        rows = min(self.config.run.play_rows, algorithm.prompts * algorithm.group)
        prompts = list(islice(cycle(problem.prompt for problem in problems.problems), rows))
        with self.precision():
            sampling = sampling_rate(self.config, self.loaded, self.policy, self.figures, prompts, self.device)
        least = max(1, algorithm.score_rows // algorithm.group) * algorithm.group
        entries = self.loaded.denoiser.get_input_embeddings().num_embeddings
        some = batch.take(torch.arange(min(len(batch), least)))
        columns: dict[str, Any] = {
            name: one.to(self.device) for name, one in some.columns().items() if isinstance(one, torch.Tensor)
        }
        columns |= {name: columns[name] % entries for name in ("prompt", "completion")}
        some = evolve(some, **columns)
        once = evolve(algorithm, updates=1, measure=())

        def work(policy: Any) -> Iterator[Tensor]:
            with self.precision():
                for part in once.learn(policy, None, some, 0, mask_id=self.loaded.mask_id):
                    yield part.value

        return sampling, self._training(work)

    def fine_tuning(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        """FLOP a second of SFT."""
        options = self.config.section("sft")
        examples = first_examples(self.config, self.loaded, pairs).part(
            slice(0, options.score_rows), torch.device(self.device)
        )
        view = noise(examples, torch.arange(len(examples)), len(examples), seed=0, step=0, mask_id=self.loaded.mask_id)

        def work(policy: Any) -> Iterator[Tensor]:
            with self.precision():
                yield sft_loss(policy, view, examples.target, rows=len(examples), masked=1).value

        return self._training(work)

    def _training(self, work: Callable[[Any], Iterator[Tensor]]) -> float:
        if self.config.run.gradient_checkpointing:
            recompute_layers(self.loaded.denoiser)

        def cost(count: Count) -> int:
            return training_cost(self.config, self.figures, count)

        rate = training_rate(work, self.policy, self.figures, cost, self.device)
        if self.config.run.gradient_checkpointing:
            denoiser = self.loaded.denoiser
            (getattr(denoiser, "activation_checkpointing_disable", None) or denoiser.gradient_checkpointing_disable)()
        return rate

    def precision(self) -> AbstractContextManager[Any]:
        """What its forwards run in."""
        mixed = self.config.run.precision == "bfloat16"
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16) if mixed else nullcontext()


def training_cost(config: Config, figures: Figures, count: Count) -> int:
    """FLOP of forward and backward passes."""
    lora = config.section("lora").rank > 0
    return count.training_flops(figures, frozen=lora, recomputed=config.run.gradient_checkpointing)


def sampling_rate(
    config: Config, loaded: Loaded, policy: Module, figures: Figures, prompts: Sequence[Tensor], device: str
) -> float:
    """FLOP a second of the sampler on so many rows, until it is done or `PATIENCE` is over."""
    sampler, counted = config.plugin("sampler"), Counted(policy)
    canvas = Canvas.blank(
        [prompt.to(device) for prompt in prompts], config.run.width, mask_id=loaded.mask_id, pad_id=loaded.pad_id
    )
    seeds = torch.arange(len(canvas), device=device)
    begun = now(device)

    def watch(step: int, tokens: Tensor) -> None:  # noqa: ARG001
        nonlocal begun
        if step == 0:  # the first forward finds nothing prepared
            begun, counted.count = now(device), Count()
        elif now(device) - begun > PATIENCE:
            raise EnoughError

    def sample(watch: Callable[[int, Tensor], None] | None) -> None:
        sampler(counted, canvas, seeds, mask_id=loaded.mask_id, eos_id=loaded.eos_id, watch=watch)

    with suppress(EnoughError):
        sample(watch)
    if not counted.count.inputs:  # that first forward was all
        begun = now(device)
        sample(None)
    return counted.count.flops(figures) / (now(device) - begun)


def training_rate(
    work: Callable[[Any], Iterator[Tensor]], policy: Module, figures: Figures, cost: Callable[[Count], int], device: str
) -> float:
    """FLOP a second of the losses of `work` and their backward passes; the second time, if the first did not take long."""
    for _ in range(2):
        begun, trained, fixed = now(device), Counted(policy), Counted(policy)
        for value in work(by_gradient(trained, fixed)):
            value.backward()  # type: ignore[no-untyped-call]
        seconds = now(device) - begun
        policy.zero_grad()
        if seconds > PATIENCE:
            break
    return (cost(trained.count) + fixed.count.flops(figures)) / seconds
