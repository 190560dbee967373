"""The forwards of a step, counted without the model: its own sampler, player and algorithm on a stand-in for the network.

The stand-in knows one word, never ends a row, and writes down what it is asked for; so no count is a formula of its own.
Several processes are as many threads, which meet as processes do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import reduce
from threading import Barrier, BrokenBarrierError
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, fields_dict, frozen

from igpo_cli.assemble import player_of
from igpo_cli.problems import ProblemSet
from igpo_data import Task, Verdict
from igpo_rl import Problem, later
from igpo_rl.cost import Count
from igpo_rl.exchange import Exchange
from igpo_rl.memory import Room
from igpo_rl.seeds import permutation_stream
from igpo_rl.sft import Examples, example_batches, noise
from igpo_sampling import Loaded
from igpo_sampling.cache import trait

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from igpo_cli.config import Config
    from igpo_cli.play import Player
    from igpo_rl import IGPO, Rollouts
    from igpo_rl.records import Play
else:
    torch = later.load("torch")

WORD = "word"
"""What a stand-in for the model reads and writes."""


@define(eq=False)
class Counted:
    """Follows `igpo_sampling.Denoiser`: a denoiser that keeps account of what it is asked for."""

    module: Any
    count: Count = field(factory=Count)
    most: int = 0
    """Inputs of the largest forward."""

    def __call__(
        self, tokens: Tensor, attention: Tensor, where: Tensor, read: Any = None, window: Any = None, **named: Any
    ) -> Any:
        inputs, width = tokens.shape
        columns = width if window is None else window.columns.shape[1]
        self.count += Count(
            inputs=inputs, columns=inputs * columns, pairs=inputs * columns * width, head=int(where.numel())
        )
        self.most = max(self.most, inputs)
        if window is not None:
            named["window"] = window
        return self.module(tokens, attention, where, read, **named)

    def add(self, other: Counted) -> None:
        """What another one was asked for."""
        self.count, self.most = self.count + other.count, max(self.most, other.most)


def stand_in(loaded: Loaded | None) -> Loaded:
    """A model without layers that knows one word and never writes the end; with the abilities of `loaded`."""
    from igpo_sampling.models import tokenizers

    tokenizer = tokenizers.words((WORD,))
    caches, block = ("prefix", "dual"), None
    if loaded is not None:
        caches, block = trait(loaded.denoiser, "caches", ()), trait(loaded.denoiser, "block", None)

    class StandIn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.caches, self.block = caches, block
            self.logits = torch.nn.Parameter(torch.zeros(1, len(tokenizer)))
            with torch.no_grad():
                self.logits[0, tokenizer.eos_token_id] = -1e4

        def forward(
            self,
            tokens: Tensor,  # noqa: ARG002
            attention: Tensor,  # noqa: ARG002
            where: Tensor,
            read: Any = None,
            window: Any = None,  # noqa: ARG002
        ) -> Any:
            hidden = self.logits.new_ones(len(where), 1)
            return self.head(hidden) if read is None else read(self.head, hidden)

        def head(self, hidden: Tensor) -> Tensor:
            return hidden @ self.logits

    return Loaded(
        denoiser=StandIn(),
        tokenizer=tokenizer,
        mask_id=tokenizer.mask_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        linear=(),
        save=lambda folder: None,  # noqa: ARG005
    )


def no_verdict(completion: str, task: Task) -> Verdict:  # noqa: ARG001
    """Rewards are given by `rehearse`."""
    return Verdict(reward=0.0, correct=False, answer=None)


@frozen(kw_only=True)
class Rehearsal:
    """A step's forwards, by kind, and its batch."""

    counts: Mapping[str, Count]
    """rollout, inpainting, old, reference, update."""
    most: Mapping[str, int]
    """Inputs of the largest forward of each."""
    batch: Rollouts

    def beside(self, other: Rehearsal) -> Rehearsal:
        """Both ranks together, with the batch of this one."""
        counts = {name: count + other.counts[name] for name, count in self.counts.items()}
        return evolve(self, counts=counts, most={name: max(most, other.most[name]) for name, most in self.most.items()})


def rehearse(
    algorithm: IGPO,
    stage: Stage,
    problems: Sequence[Problem],
    stuck: Collection[int],
    *,
    step: int = 0,
    steps: int = 1,
    ranks: int = 1,
    spread: bool = False,
) -> Rehearsal:
    """Step `step` of a run over these problems on so many ranks, their weights `spread` or not, with the groups of these
    numbers stuck; the batch is that of rank 0.

    Every other group, and each of them once it is shown hints, has one right row; no row ends before the canvas does.
    """
    loaded, meeting = stage.player.loaded, Meeting.of(ranks)

    def share(rank: int) -> Rehearsal:
        parts = {name: Counted(loaded.denoiser) for name in ("rollout", "inpainting", "old", "reference", "update")}
        order = permutation_stream(len(problems), algorithm.seed, "igpo", start=step * algorithm.prompts)
        everyone = meeting.everyone(rank)

        def gather(values: Tensor) -> Tensor:
            return torch.stack(everyone(values))

        play, exchange = stage.counted(parts), Exchange(everyone, rank)
        batch = algorithm.collect(
            graded(play, algorithm.group, [number // ranks for number in stuck if number % ranks == rank]),
            (problems[index] for index in order),
            progress=step / steps,
            step=step,
            exchange=lambda _: graded(exchange(play), algorithm.group, ()),
            gather=gather,
            rank=rank,
            retrace=lambda problem, completion: None,  # noqa: ARG005
        )
        policy: Any = by_gradient(parts["update"], parts["old"])
        room = Room(algorithm.score_rows, halves=not spread)
        for _ in algorithm.learn(
            policy, parts["reference"], batch, step, mask_id=loaded.mask_id, gather=gather, room=room
        ):
            pass
        return Rehearsal(
            counts={name: part.count for name, part in parts.items()},
            most={name: part.most for name, part in parts.items()},
            batch=batch,
        )

    return reduce(Rehearsal.beside, meeting.hold(share))


@frozen(eq=False)
class Meeting:
    """Ranks that are threads of this process."""

    barrier: Barrier
    said: list[Any]

    @classmethod
    def of(cls, ranks: int) -> Meeting:
        """One for so many."""
        return cls(Barrier(ranks), [None] * ranks)

    def everyone(self, rank: int) -> Callable[[Any], list[Any]]:
        """What this rank says -> what all say, by rank; each waits for the others."""

        def told(value: Any) -> list[Any]:
            self.said[rank] = value
            self.barrier.wait()
            found = list(self.said)
            self.barrier.wait()
            return found

        return told

    def hold(self, share: Callable[[int], Rehearsal]) -> list[Rehearsal]:
        """What each rank does. The error of one ends them all."""

        def attend(rank: int) -> Rehearsal:
            try:
                return share(rank)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(len(self.said)) as pool:
            done = [pool.submit(attend, rank) for rank in range(len(self.said))]
        errors = [error for error in (one.exception() for one in done) if error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error
        return [one.result() for one in done]


def by_gradient(trained: Counted, fixed: Counted) -> Callable[..., Any]:
    """A denoiser that keeps two accounts: of what a backward pass follows, and of all else."""

    def denoiser(*inputs: Any) -> Any:
        return (trained if torch.is_grad_enabled() else fixed)(*inputs)

    return denoiser


def plainly(problems: ProblemSet, loaded: Loaded) -> ProblemSet:
    """The same problems in the one token that the stand-in reads; lengths and what may be shown are theirs."""
    token = int(loaded.tokenizer.get_vocab()[WORD])

    def plain(problem: Problem) -> Problem:
        trace = None if problem.trace is None else torch.full_like(problem.trace, token)
        return evolve(problem, prompt=torch.full_like(problem.prompt, token), trace=trace)

    return evolve(problems, problems=[plain(problem) for problem in problems.problems])


@frozen(eq=False)
class Stage:
    """Plays rows on the stand-in and says what that took; the same rows without hints are played once."""

    player: Player
    known: dict[tuple[int, ...], tuple[Rollouts, Counted]] = field(factory=dict)

    @classmethod
    def of(cls, config: Config, loaded: Loaded, problems: ProblemSet) -> Stage:
        """As the run's own player, but greedy: the stand-in knows one word, and drawing takes most of the time."""
        player = player_of(config, loaded, problems, no_verdict)
        if "temperature" in fields_dict(type(player.sampler)):
            player = evolve(player, sampler=evolve(player.sampler, temperature=0.0))
        return cls(player)

    def play(self, problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> tuple[Rollouts, Counted]:
        """Rows that are neither right nor wrong, and their forwards."""
        key = tuple(seeds.tolist())
        if overlay is None and key in self.known:
            return self.known[key]
        counted = Counted(self.player.loaded.denoiser)
        player = evolve(self.player, within=lambda module: nullcontext(counted))  # noqa: ARG005
        found = player(problems, overlay, seeds), counted
        if overlay is None:
            self.known[key] = found
        return found

    def counted(self, parts: Mapping[str, Counted]) -> Play:
        """`play`, kept account of."""

        def play(problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
            rollouts, counted = self.play(problems, overlay, seeds)
            parts["rollout" if overlay is None else "inpainting"].add(counted)
            return rollouts

        return play


def graded(play: Play, group: int, stuck: Collection[int]) -> Play:
    """What `play` gives, with rows right or wrong as planned."""

    def judged(problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
        rollouts = play(problems, overlay, seeds)
        row = torch.arange(len(rollouts))
        correct = (row % group == 0) & ~torch.isin(row // group, torch.tensor(sorted(stuck), dtype=torch.long))
        return evolve(rollouts, correct=correct, reward=correct.float(), verifiable=torch.ones_like(correct))

    return judged


def fine_tuned(
    config: Config, loaded: Loaded, pairs: Sequence[tuple[Tensor, Tensor]], ranks: int = 1, *, spread: bool = False
) -> Count:
    """Forwards of the first step of SFT on so many ranks; each of several, with whole weights, closes it with an empty one."""
    options, examples = config.section("sft"), first_examples(config, loaded, pairs)
    places = torch.arange(len(examples))
    view = noise(examples, places, options.batch, seed=config.run.seed, step=0, mask_id=loaded.mask_id)
    inputs, width = view.noised.shape
    empty = ranks if ranks > 1 and not spread else 0
    return Count.of(inputs + empty, width, int(view.scored.sum()))


def first_examples(config: Config, loaded: Loaded, pairs: Sequence[tuple[Tensor, Tensor]]) -> Examples:
    """The batch of the first step of SFT."""
    run, ends = config.run, {"eos_id": loaded.eos_id, "pad_id": loaded.pad_id}
    batches = example_batches(
        config.section("sft"), pairs, run.width, run.seed, "sft", attend_eos=run.attend_eos, **ends
    )
    return next(batches)
