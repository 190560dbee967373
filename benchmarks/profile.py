"""Where the time of our IGPO step goes, by part of the work and by phase: shares of the whole step, by torch.profiler.

The step is that of the table on whole steps, on two models. The tiny one has the sizes of the tiny preset: 16 prompts of 8 rows,
25 tokens in one block, 13 steps, random-mask, where each operation is over in microseconds. "Between operations" is time
in no operation of torch: Python, and what the profiler adds to it. Work of a backward pass is told apart for matrix
products, attention and the head alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import harness, rollout, step
from igpo_rl import RandomMask
from igpo_sampling.models import llada_network
from igpo_sampling.models.llada_network import LLaDAForDiffusion, LLaDANorm
from igpo_sampling.models.tiny import Tiny

NAME = "Where the time goes"
PART = "part: "
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm"}
BETWEEN, BODY, HEAD, ATTENTION = "between operations", "matrix products of the body", "the head", "attention"
REST = {"model": "rest of the model", "read": "sampling; log-probs and entropies", "head": HEAD}


def labelled(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any, **named: Any) -> Any:
        with record_function(PART + part):
            return function(*inputs, **named)

    return run


@contextmanager
def labels(model: LLaDAForDiffusion) -> Iterator[None]:
    """Parts of the model's forward have names that the profiler sees."""

    def forward(tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., Any], *window: Any) -> Any:
        return plain(tokens, attention, where, labelled("read", read), *window)

    plain = model.forward
    inner: list[tuple[str, nn.Module]] = [("norms", part) for part in model.modules() if isinstance(part, LLaDANorm)]
    inner += [("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(model, "forward", labelled("model", forward)))
        stack.enter_context(mock.patch.object(llada_network, "rotate", labelled("rotation", llada_network.rotate)))
        for part, module in inner:
            stack.enter_context(mock.patch.object(module, "forward", labelled(part, module.forward)))
        yield


def place(event: FunctionEvent, vocabulary: int) -> tuple[str, str]:
    """The phase and the part that the event's own time belongs to."""
    chain = [event]
    while (parent := chain[-1].cpu_parent) is not None:
        chain.append(parent)
    names = [each.name for each in chain]
    phase = next((name.removeprefix(step.PHASE) for name in names if name.startswith(step.PHASE)), "")
    parts = [name.removeprefix(PART) for name in names if name.startswith(PART)]
    backward = any(name.startswith("autograd::engine") for name in names)
    if event.name.startswith((PART, step.PHASE)):
        return phase, BETWEEN
    if event.name in PRODUCTS:
        # In the backward pass the head is read again under its name, and its two products behind that are not.
        return phase, HEAD if "head" in parts or any(
            vocabulary in shape for shape in event.input_shapes if shape
        ) else BODY
    if "scaled_dot_product" in event.name:
        return phase, ATTENTION
    if any("Optimizer" in name or "clip_grad_norm" in name for name in names):
        return phase, "optimizer"
    if parts:
        return phase, REST.get(parts[0], parts[0])
    return phase, "rest of the backward pass" if backward else "rest of the step"


def shares(model: LLaDAForDiffusion, run: Callable[[], object]) -> str:
    """A table of one step."""
    run()
    with labels(model), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        run()
    spent: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(step.PHASES, 0.0))
    for event in seen.events() or []:
        phase, part = place(event, model.config.vocab_size)
        if phase:
            spent[part][phase] += event.self_cpu_time_total / 1e6
    total = {phase: sum(each[phase] for each in spent.values()) for phase in step.PHASES}
    whole = sum(total.values())
    lines = [("part", *step.PHASES, "the step")]
    for part, by in sorted(spent.items(), key=lambda item: -sum(item[1].values())):
        lines.append((part, *(f"{each / whole:.1%}" for each in (*by.values(), sum(by.values())))))
    lines.append(("all of it", *(f"{each / whole:.1%}, {each:.3g} s" for each in (*total.values(), whole))))
    return harness.grid(lines)


def run(quick: bool) -> str:
    vocabulary = [chr(97 + index) for index in range(26)]
    tiny = Tiny()(vocabulary=vocabulary).denoiser
    some = step.tasks(2 if quick else 16, tiny.config.vocab_size, 12, 25)
    small = {"steps": 13, "group": 8, "block": 25, "estimator": RandomMask()}
    parts = {"The tiny preset's sizes": (tiny, lambda: step.ours(tiny, some, **small))}
    if not quick:
        large = rollout.network(32_000, 768, 12)
        few = step.tasks(2, 32_000)
        parts["141 M parameters, V = 32,000"] = large, lambda: step.ours(large, few, 8)
    return "\n\n".join(f"{name}:\n\n{shares(*part)}" for name, part in parts.items())
