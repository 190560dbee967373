"""The two loops, SFT and RL, and what they need: optimisers, a schedule, checkpoints between steps.

accelerate is the engine. Nothing here draws random numbers: a step is a function of the seeds and the state, so an
interrupted step is repeated exactly and a resumed run is the run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, evolve, field, frozen, validators

from igpo_rl import guards, later
from igpo_rl.checkpoint import Checkpoints, Saved
from igpo_rl.igpo import IGPO, Retrace, identity
from igpo_rl.injections import Memory
from igpo_rl.memory import Room, Work, warn
from igpo_rl.records import Denoiser, Play, Problem, Rollouts
from igpo_rl.seeds import derive, drawn_from, permutation_stream
from igpo_rl.sft import SFT, example_batches, noise, sft_loss
from igpo_rl.shards import load_optimizer, spread, whole
from igpo_rl.views import cut

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor
    from torch.nn import Module, Parameter
else:
    torch = later.load("torch")

Metrics = Mapping[str, float]


def never() -> bool:
    return False


def nothing() -> None:
    return None


@frozen(kw_only=True)
class Optimizer:
    """How the weights move: the rule, its rates and their schedule. All steps are optimiser steps."""

    name: Literal["adamw", "muon"] = field(default="adamw", validator=validators.in_(("adamw", "muon")))
    """adamw, or muon: Muon on the 2-D weights of numbered blocks and AdamW on everything else."""
    lr: float = field(default=5e-7, validator=validators.gt(0.0))
    """Peak rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's two running means."""
    weight_decay: float = field(default=0.1, validator=validators.ge(0.0))
    """Decoupled weight decay."""
    matrix_lr: float = field(default=0.02, validator=validators.gt(0.0))
    """Peak rate of Muon."""
    momentum: float = field(default=0.95, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Momentum of Muon."""
    warmup: int = field(default=50, validator=validators.ge(0))
    """Steps over which the rate rises linearly to its peak."""
    schedule: Literal["constant", "linear", "cosine"] = field(
        default="constant", validator=validators.in_(("constant", "linear", "cosine"))
    )
    """How the rate falls from its peak until the last step."""
    final: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of the peak rate that is left at the last step (linear and cosine)."""
    clip: float = field(default=0.2, validator=validators.ge(0.0))
    """Largest gradient norm; longer gradients are scaled down to it. 0: no clipping."""
    patience: int = field(default=10, validator=validators.ge(0))
    """Updates in a row that may be left out because they are not finite; then training stops. 0: it never does."""

    def build(self, module: Module) -> list[torch.optim.Optimizer]:
        """Optimisers of all trainable weights (AdamW, arXiv 1711.05101; Muon, Jordan et al. 2024)."""
        named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        if not named:
            raise ValueError("the model has no trainable weights; train all of it, or give it adapters")
        coarse = sorted({str(weight.dtype) for weight in named.values() if torch.finfo(weight.dtype).bits < 32})
        if coarse:
            warnings.warn(
                f"trainable weights are {', '.join(coarse)}: small updates are rounded away. "
                "Keep them in float32 and let accelerate compute in lower precision (mixed_precision).",
                stacklevel=2,
            )
        matrices = _block_matrices(module, named) if self.name == "muon" else {}
        if self.name == "muon" and not matrices:
            raise ValueError("muon found no 2-D weights in numbered blocks (`layers.0...`); use name = 'adamw'")
        built: list[torch.optim.Optimizer] = []
        rest = [weight for name, weight in named.items() if name not in matrices]
        if rest:
            built.append(torch.optim.AdamW(rest, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay))
        if matrices:
            built.append(
                torch.optim.Muon(
                    matrices.values(), lr=self.matrix_lr, weight_decay=self.weight_decay, momentum=self.momentum
                )
            )
        return built

    def share(self, step: int, steps: int) -> float:
        """The rate of optimiser step `step` (from 0) of `steps`, as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1, steps - 1 - self.warmup))
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left


def _block_matrices(module: Module, named: Mapping[str, Parameter]) -> dict[str, Parameter]:
    embeddings = {id(inner.weight) for inner in module.modules() if isinstance(inner, torch.nn.Embedding)}
    return {
        name: weight
        for name, weight in named.items()
        if weight.ndim == 2 and id(weight) not in embeddings and any(part.isdecimal() for part in name.split("."))
    }


class Updater:
    """Optimiser steps on one module for a whole run: the moments outlive every rollout phase."""

    def __init__(
        self,
        accelerator: Accelerator,
        module: Module,
        options: Optimizer,
        steps: int,
        say: Callable[[str], None] = warn,
    ) -> None:
        """`module` as `accelerator.prepare_model` returned it; `steps`: all optimiser steps of the run, for the schedule.
        `say` is told of updates that are left out."""
        self.accelerator, self.module, self.options, self.steps, self.say = accelerator, module, options, steps, say
        self.optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in options.build(module)]
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.done = 0
        self.refused = 0
        """Updates left out in a row."""
        self.losses: list[Tensor] = []

    def sync_when(self, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients only in the last backward pass before a step."""
        context: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(self.module)
        return context

    def backward(self, value: Tensor) -> None:
        """Gradients add up over micro-batches and ranks (accelerate means over ranks)."""
        self.losses.append(value.detach())
        self.accelerator.backward(value * self.accelerator.num_processes)

    def restart(self) -> None:
        """Drop the gradients since the last step."""
        self.losses = []
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self, where: str = "", ratio: float = 0.0) -> dict[str, float]:
        """Clip, refuse what is not finite, set the rates, step. The schedule moves on either way.

        A loss or gradient that is not finite on any rank changes neither weights nor moments on all of them. ValueError
        after `patience` such updates in a row; `where` and the largest `ratio` of policy to old policy are for its text.
        """
        share = self.options.share(self.done, self.steps)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
        weights = self._weights()
        values = [
            torch.stack(self.losses).sum() if self.losses else None,
            *(weight.grad for weight in weights.values()),
        ]
        loss_finite, *finite = self._finite(values)  # before clipping, which spreads what is not
        norm = float(self.accelerator.clip_grad_norm_(self.module.parameters(), self.options.clip or math.inf))
        skipped = not (math.isfinite(norm) and loss_finite)
        for optimizer in self.optimizers:
            if not skipped:
                optimizer.step()
            optimizer.zero_grad()
        self.done += 1
        self.losses = []
        self.refused = self.refused + 1 if skipped else 0
        if skipped:
            faulty = [name for name, good in zip(weights, finite, strict=True) if not good]
            where = where or f"update {self.done}"
            self.check(where)
            text = guards.refusal(where, not loss_finite, faulty, len(weights), ratio)
            if self.refused == self.options.patience:
                raise ValueError(
                    f"{text}, like the {self.refused - 1} before it, and weights are as before them. {guards.remedy(ratio)}"
                )
            self.say(text)
        metrics = {"optimizer/lr": self.options.lr * share, "optimizer/skipped": float(skipped)}
        return metrics if skipped else {**metrics, "optimizer/grad_norm": norm}

    def check(self, where: str) -> None:
        """ValueError where a weight is not finite, on any rank: no later update mends it, and it is never saved."""
        weights = self._weights()
        faulty = [name for name, good in zip(weights, self._finite([*weights.values()]), strict=True) if not good]
        if faulty:
            raise ValueError(
                f"{where}: {guards.listed(faulty, len(weights))} are not finite, and are not saved; an update was too "
                "large. Go on from the last checkpoint with a lower --optimizer.lr, or with --optimizer.clip."
            )

    def _weights(self) -> dict[str, Parameter]:
        module: Module = self.accelerator.unwrap_model(self.module)
        return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}

    def _finite(self, values: Sequence[Tensor | None]) -> list[bool]:
        """Of each, whether all of it is finite on every rank."""
        flags = torch.stack([guards.finite(value).to(self.accelerator.device) for value in values])
        found: list[bool] = gather_with(self.accelerator)(flags.float()).amin(0).bool().tolist()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, without shards; every rank calls this, and the main process gets the tensors."""
        state: dict[str, Any] = whole(
            {
                "weights": trainable(self.accelerator.unwrap_model(self.module)),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
            wanted=self.accelerator.is_main_process,
        )
        return {**state, "done": self.done, "refused": self.refused}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, written by any number of processes. ValueError where it fits another model."""
        load_weights(self.accelerator.unwrap_model(self.module), state["weights"])
        if len(state["optimizers"]) != len(self.optimizers):
            raise ValueError(
                f"the checkpoint has {len(state['optimizers'])} optimisers and {self.options.name} makes "
                f"{len(self.optimizers)}; resume with the [optimizer] name that it was written with"
            )
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer(optimizer, saved)
        self.done, self.refused = state["done"], state.get("refused", 0)


def trainable(module: Module) -> dict[str, Tensor]:
    """The weights that training changes; frozen ones come from the model's own files."""
    return {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}


def load_weights(module: Module, weights: Mapping[str, Tensor]) -> None:
    """Put `trainable` weights back; ValueError where the module has others."""
    own = trainable(module)
    if own.keys() != weights.keys():
        raise ValueError(
            f"the checkpoint's trainable weights differ from the model's in {len(own.keys() ^ weights.keys())} names, "
            f"for example {min(own.keys() ^ weights.keys())}; resume with the model and adapters that it was written with"
        )
    with torch.no_grad():
        for name, weight in own.items():
            if weight.shape != weights[name].shape:
                raise ValueError(
                    f"the checkpoint's {name} is {tuple(weights[name].shape)} and the model's {tuple(weight.shape)}; "
                    "resume with the model and adapters that it was written with"
                )
            weight.copy_(spread(weights[name], weight))


@frozen(kw_only=True)
class Routine:
    """What happens around the steps of a phase."""

    log: Callable[[int, str, Metrics], None]
    """(steps done, phase, metrics): after every step, and after every evaluation with its metrics alone."""
    evaluate: Callable[[Module], Metrics] | None = None
    """What is measured before the first step, every `evaluate_every` steps and after the last one."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: none at all."""
    checkpoints: Checkpoints | None = None
    """Where to save, every `save_every` steps and after the last one; for the `best` one after every evaluation too."""
    save_every: int = 0
    """Steps between checkpoints; 0: only after the last one."""
    flush: Callable[[], None] = nothing
    """Called before a checkpoint is written: what was logged so far must be on the disk before it."""
    watch: Callable[[int, Rollouts], None] | None = None
    """(steps done, batch): sees every spliced batch."""
    stop: Callable[[], bool] = never
    """Asked between steps; True ends the phase after a checkpoint. The ranks must agree."""
    say: Callable[[str], None] = warn
    """Told what went wrong and was dealt with."""
    rooms: Sequence[Room] = ()
    """Besides the loop's own one: what was halved stays so in checkpoints. Results do not depend on it."""

    def before(self, phase: str, start: int, updater: Updater) -> None:
        """The evaluation that all later ones are compared with."""
        if start == 0:
            self._evaluate(phase, 0, updater)

    def after(self, phase: str, done: int, steps: int, updater: Updater, memory: Memory, room: Room) -> bool:
        """Evaluate and save what is due, in this order: a checkpoint has all its metrics before it. True: stop now."""
        scores: Metrics = {}
        if done == steps or due(done, self.evaluate_every):
            updater.check(f"{phase} step {done}")
            scores = self._evaluate(phase, done, updater)
        over = done == steps or self.stop()
        if self.checkpoints is not None:
            rated = self.checkpoints.best is not None and bool(scores)
            if over or rated or due(done, self.save_every):
                updater.check(f"{phase} step {done}")
                rooms = {each.option: each.state() for each in (room, *self.rooms)}
                state = {**updater.state_dict(), "memory": memory, "rooms": rooms}
                self._save(self.checkpoints, phase, done, state, scores, updater)
        return over

    def _save(
        self,
        checkpoints: Checkpoints,
        phase: str,
        done: int,
        state: Mapping[str, Any],
        scores: Metrics,
        updater: Updater,
    ) -> None:
        """A disk that is full, or gone, does not end the training."""
        if updater.accelerator.is_main_process:
            try:
                self.flush()
                checkpoints.save(phase, done, state, scores)
            except OSError as error:
                self.say(
                    f"NO CHECKPOINT of {phase} step {done} could be written ({error.strerror or error}). Training goes on, "
                    "and the checkpoint before it is whole. Make room on the disk, or lower keep."
                )
        updater.accelerator.wait_for_everyone()

    def _evaluate(self, phase: str, done: int, updater: Updater) -> Metrics:
        if self.evaluate is None or self.evaluate_every == 0:
            return {}
        scores = self.evaluate(updater.module)
        best = self.checkpoints.best if self.checkpoints is not None else None
        if best is not None and best not in scores:
            raise ValueError(f"best = {best!r} is not among what evaluations measure: {', '.join(sorted(scores))}")
        self.log(done, phase, scores)
        return scores


def due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


@define
class Meter:
    """Metrics of one step: contributions add up over micro-batches and ranks and are averaged over inner updates."""

    gather: Callable[[Tensor], Tensor]
    parts: dict[str, float] = field(factory=dict)
    updates: list[Metrics] = field(factory=list)
    closed: dict[str, float] = field(factory=dict)
    """`parts` of the inner updates that are over."""

    def add(self, metrics: Metrics) -> None:
        """One micro-batch's contributions; of a name that ends in `_max` the largest counts."""
        for name, value in metrics.items():
            known = self.parts.get(name, 0.0)
            self.parts[name] = max(known, value) if name.endswith("_max") else known + value

    def close(self, metrics: Metrics) -> None:
        """One inner update is over; `metrics` are alike on all ranks."""
        self.updates.append(metrics)
        self.closed = dict(self.parts)

    def restart(self) -> None:
        """Forget the inner update that is not over."""
        self.parts = dict(self.closed)

    def flush(self) -> dict[str, float]:
        """The step's metrics over all ranks; empties the meter."""
        table = self.gather(torch.tensor([self.parts[name] for name in sorted(self.parts)], dtype=torch.float64))
        columns = zip(sorted(self.parts), table.sum(0).tolist(), table.amax(0).tolist(), strict=True)
        count = max(1, len(self.updates))
        metrics = {name: most if name.endswith("_max") else total / count for name, total, most in columns}
        for name in dict.fromkeys(name for update in self.updates for name in update):
            values = [update[name] for update in self.updates if name in update]
            metrics[name] = sum(values) / len(values)
        self.parts, self.closed, self.updates = {}, {}, []
        return metrics


def train(
    algorithm: IGPO,
    policy: Module,
    reference: Denoiser | None,
    play: Play,
    problems: Sequence[Problem],
    *,
    accelerator: Accelerator,
    optimizer: Optimizer,
    routine: Routine,
    steps: int,
    mask_id: int,
    resume: Saved | None = None,
    exchange: Callable[[Play], Play] = identity,
    retrace: Retrace | None = None,
    rolling: Callable[[], AbstractContextManager[Any]] = nullcontext,
    phase: str = "igpo",
) -> int:
    """RL for `steps` rollout phases in all; returns how many are done, fewer where `routine.stop` said so.

    `policy` as `accelerator.prepare_model` returned it. Every rank gets the same `problems` and takes its share of their
    order, which depends on the algorithm's seed alone. `rolling` is entered around each rollout phase. A `resume` of an
    earlier phase counts as step 0 of this one.
    """
    gather = gather_with(accelerator)
    updater = Updater(accelerator, policy, optimizer, steps * algorithm.updates, routine.say)
    room = room_of(algorithm.score_rows, updater, routine)
    start, memory = restore(resume, phase, updater, (room, *routine.rooms))
    drawn = memory.get("drawn", start * algorithm.prompts)
    stream = (problems[index] for index in permutation_stream(len(problems), algorithm.seed, phase, start=drawn))
    meter = Meter(gather)
    routine.before(phase, start, updater)
    for step in range(start, steps):
        with rolling():
            batch = algorithm.collect(
                play,
                stream,
                progress=step / steps,
                step=step,
                memory=memory,
                exchange=exchange,
                gather=gather,
                rank=accelerator.process_index,
                retrace=retrace,
            )
        if routine.watch is not None:
            routine.watch(step + 1, batch)
        began = perf_counter()
        for part in algorithm.learn(policy, reference, batch, step, mask_id=mask_id, gather=gather, room=room):
            if part.first:
                updater.restart()
                meter.restart()
            with room.tried():
                updater.backward(part.value)
            meter.add(part.metrics)
            if part.last and room.fits:
                meter.close(updater.step(f"{phase} step {step + 1}", meter.parts.get("policy/ratio_max", 0.0)))
            del part  # and its graph, if it did not fit
        routine.log(step + 1, phase, {**batch.metrics, **meter.flush(), "time/learn": perf_counter() - began})
        if routine.after(phase, step + 1, steps, updater, memory, room):
            return step + 1
    return max(start, steps)


def train_sft(
    options: SFT,
    policy: Module,
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    accelerator: Accelerator,
    optimizer: Optimizer,
    routine: Routine,
    width: int,
    mask_id: int,
    eos_id: int,
    pad_id: int,
    attend_eos: bool = True,
    seed: int = 0,
    resume: Saved | None = None,
    phase: str = "sft",
) -> int:
    """SFT on (prompt (P_i,), completion (H_i,)) pairs for `options.steps` steps in all; returns how many are done.

    Completions are filled with EOS, up to `width` or the longest of a batch; it is learned and attended, or with
    `attend_eos` false only the first one is. Examples are never packed into one row: attention has no direction, so
    each would see the others.
    """
    gather = gather_with(accelerator)
    updater = Updater(accelerator, policy, optimizer, options.steps, routine.say)
    room = room_of(options.score_rows, updater, routine)
    start, memory = restore(resume, phase, updater, (room, *routine.rooms))
    batches = example_batches(
        options, pairs, width, seed, phase, eos_id=eos_id, pad_id=pad_id, attend_eos=attend_eos, start=start
    )
    mine = rank_slice(options.batch, accelerator)
    meter = Meter(gather)
    routine.before(phase, start, updater)
    for step in range(start, options.steps):
        began = perf_counter()
        examples = next(batches).part(mine, accelerator.device)
        places = torch.arange(mine.start, mine.stop)
        view = noise(examples, places, options.batch, seed=seed, step=step, mask_id=mask_id)
        masked = int(gather(view.scored.sum()[None]).sum())
        policy.train()
        with drawn_from(derive(seed, phase, step, "dropout", accelerator.process_index), accelerator.device):
            work = Work(len(examples), closing=room.halves and accelerator.num_processes > 1)
            for piece in room.pieces(work, anew=True):
                if piece.first:
                    updater.restart()
                    meter.restart()
                loss = None  # of a graph that did not fit nothing is kept
                with room.tried():
                    inside, target = cut(view, piece.rows.start, piece.rows.stop), examples.target[piece.rows]
                    if not len(piece):  # one input of which nothing is scored
                        inside, target = cut(view, 0, 1), examples.target[:1]
                        inside = evolve(inside, scored=torch.zeros_like(inside.scored))
                    loss = sft_loss(policy, inside, target, rows=options.batch, masked=masked)
                    updater.backward(loss.value)
                    meter.add(loss.metrics)
        meter.close(updater.step(f"{phase} step {step + 1}"))
        routine.log(step + 1, phase, {**meter.flush(), "time/learn": perf_counter() - began})
        if routine.after(phase, step + 1, options.steps, updater, memory, room):
            return step + 1
    return max(start, options.steps)


def restore(resume: Saved | None, phase: str, updater: Updater, rooms: Sequence[Room]) -> tuple[int, Memory]:
    """Steps done and the injection's memory, with weights and optimisers put back; (0, {}) for a phase not begun."""
    if resume is None or resume.phase != phase:
        return 0, {}
    state = resume.load()
    updater.load_state_dict(state)
    for room in rooms:
        room.recall(state.get("rooms", {}).get(room.option, ()))
    return resume.step, state["memory"]


def room_of(limit: int, updater: Updater, routine: Routine) -> Room:
    """Room for micro-batches, halved where each rank has all weights."""
    sharded = any(hasattr(weight, "full_tensor") for weight in updater.module.parameters())
    halves = not sharded and updater.accelerator.distributed_type != "DEEPSPEED"
    return Room(limit, say=routine.say, halves=halves, around=updater.sync_when)


def rank_slice(rows: int, accelerator: Accelerator) -> slice:
    share, rest = divmod(rows, accelerator.num_processes)
    if rest:
        raise ValueError(
            f"batch = {rows} cannot be shared by {accelerator.num_processes} processes; use a multiple of it"
        )
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def gather_with(accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    """(n,) of this rank -> (ranks, n)."""

    def gather(values: Tensor) -> Tensor:
        gathered: Tensor = accelerator.gather(values[None].to(accelerator.device))
        return gathered

    return gather
