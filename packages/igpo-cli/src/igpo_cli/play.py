"""`play`: sample rows, decode them up to the first EOS, verify them. What IGPO calls to get rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from igpo_data import Task, Verdict, Verifier, verify
from igpo_rl import Problem, Rollouts, later
from igpo_rl.memory import Room, Work
from igpo_rl.splice import stack
from igpo_sampling import Canvas, Loaded, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


def until_eos(completion: Tensor, eos_id: int) -> Tensor:
    """(B, L) long -> (B, L) bool: True up to and including a row's first EOS."""
    ended = (completion == eos_id).long().cumsum(1)
    return (ended == 0) | ((ended == 1) & (completion == eos_id))


def decode(tokenizer: Any, completion: Tensor, eos_id: int) -> list[str]:
    """The text of each row before its first EOS; what follows is never seen by a verifier."""
    keep = until_eos(completion, eos_id) & (completion != eos_id)
    rows = [row[mask].tolist() for row, mask in zip(completion.cpu(), keep.cpu(), strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True)) if rows else []


@frozen(eq=False)
class EndHidden:
    """A denoiser that does not attend what stands behind a row's first EOS, as soon as that EOS stands there."""

    denoiser: Any
    width: int
    eos_id: int

    def __call__(self, tokens: Tensor, attention: Tensor, where: Tensor, read: Any = None) -> Any:
        """As `igpo_sampling.Denoiser`. It keeps no cache: what is attended changes while a row fills."""
        seen = attention.clone()
        seen[:, -self.width :] &= until_eos(tokens[:, -self.width :], self.eos_id)
        return self.denoiser(tokens, seen, where, read)


@frozen(eq=False)
class Played:
    """Completions that are not judged yet."""

    canvas: Canvas
    sample: Sample
    texts: list[str]


@frozen(eq=False, kw_only=True)
class Player:
    """Follows `igpo_rl.Play`. Holds what a rollout needs: model, sampler, verifier and the tasks by key."""

    loaded: Loaded
    sampler: Any
    verifier: Verifier
    tasks: Mapping[str, Task]
    width: int
    """L, completion tokens."""
    denoiser: Any = None
    """The prepared (wrapped) module; default: the loaded one."""
    attend_eos: bool = True
    """False: what stands behind a row's first EOS is seen neither while sampling nor when it is scored."""
    watch: Callable[[int, Tensor], None] | None = None
    room: Room = field(factory=lambda: Room(256, "sampling", "play_rows"))
    """Completions sampled at a time, halved where they do not fit; those before them are judged meanwhile."""
    within: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    """Around the forwards of one play: is given the module, and says what is called instead."""
    times: dict[str, float] = field(factory=dict)
    """Seconds spent sampling, and then waiting for verdicts, since they were last taken."""
    counts: dict[str, int] = field(factory=dict)
    """Tokens up to the rows' ends, without hints, that were sampled since they were last taken."""

    def __call__(self, problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
        denoiser = self.loaded.denoiser if self.denoiser is None else self.denoiser
        training = denoiser.training
        denoiser.eval()
        parts: list[Played] = []
        verdicts: list[Future[list[Verdict]]] = []
        # One thread is enough: verifiers that take long have processes of their own.
        with ThreadPoolExecutor(1) as background, self.within(denoiser) as forward:
            self.room.halves = not any(hasattr(weight, "full_tensor") for weight in denoiser.parameters())
            for piece in self.room.pieces(Work(len(problems)), anew=False):
                some = piece.rows
                hints = None if overlay is None else overlay[some]
                with self.room.tried():
                    part = self._sample(forward, next(denoiser.parameters()).device, problems[some], hints, seeds[some])
                if not self.room.fits:
                    continue
                parts.append(part)
                pairs = [
                    (text, self.tasks[problem.key]) for text, problem in zip(part.texts, problems[some], strict=True)
                ]
                verdicts.append(background.submit(verify, self.verifier, pairs))
            denoiser.train(training)
            sampled = time.perf_counter()
            judged = [verdict.result() for verdict in verdicts]
        self.times["verify"] = self.times.get("verify", 0.0) + time.perf_counter() - sampled
        rollouts = reduce(stack, [self._rollouts(*each) for each in zip(parts, judged, strict=True)])
        groups: dict[str, int] = {}
        numbers = [groups.setdefault(problem.key, len(groups)) for problem in problems]
        return evolve(
            rollouts,
            group=torch.tensor(numbers, dtype=torch.long, device=rollouts.completion.device),
            keys=tuple(problem.key for problem in problems),
        )

    def _sample(
        self, forward: Any, device: Any, problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor
    ) -> Played:
        """Completions as tokens and as text."""
        started = time.perf_counter()
        canvas = Canvas.blank(
            [problem.prompt.to(device) for problem in problems],
            self.width,
            mask_id=self.loaded.mask_id,
            pad_id=self.loaded.pad_id,
        )
        if overlay is not None:
            canvas = canvas.inpaint(overlay.to(device))
        with torch.no_grad():
            sample = self.sampler(
                forward if self.attend_eos else EndHidden(forward, self.width, self.loaded.eos_id),
                canvas,
                seeds.to(device),
                mask_id=self.loaded.mask_id,
                eos_id=self.loaded.eos_id,
                watch=self.watch,
            )
        texts = decode(self.loaded.tokenizer, sample.completion, self.loaded.eos_id)  # waits for the device
        self.times["sample"] = self.times.get("sample", 0.0) + time.perf_counter() - started
        return Played(canvas, sample, texts)

    def _rollouts(self, part: Played, verdicts: Sequence[Verdict]) -> Rollouts:
        canvas, sample = part.canvas, part.sample
        device, start = sample.completion.device, canvas.tokens.shape[1] - self.width
        given, valid = canvas.given[:, start:], until_eos(sample.completion, self.loaded.eos_id)
        self.counts["tokens"] = self.counts.get("tokens", 0) + int((valid & ~given).sum())
        return Rollouts(
            prompt=canvas.tokens[:, :start],
            prompt_valid=canvas.attention[:, :start],
            completion=sample.completion,
            given=given,
            valid=valid,
            attention=None if self.attend_eos else valid,
            order=sample.order,
            confidence=sample.confidence,
            reward=torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float32, device=device),
            correct=torch.tensor([verdict.correct for verdict in verdicts], dtype=torch.bool, device=device),
            verifiable=torch.tensor([verdict.note != "unverifiable" for verdict in verdicts], device=device).bool(),
            group=torch.zeros(len(verdicts), dtype=torch.long, device=device),
            forwards=sample.forwards,
            ended=(sample.completion == self.loaded.eos_id).any(1),
            derived=torch.tensor(
                [math.nan if verdict.derivation is None else float(verdict.derivation) for verdict in verdicts],
                dtype=torch.float32,
                device=device,
            ),
            texts=tuple(part.texts),
            notes=tuple(verdict.note for verdict in verdicts),
            answers=tuple(verdict.answer for verdict in verdicts),
        )
