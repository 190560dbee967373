"""IGPO (arXiv 2509.10396): when every sample of a problem fails, show pieces of a reference solution and try again.

`collect` rolls out, inpaints the stuck groups and splices; `learn` turns the batch into losses, one per micro-batch.
Nothing here knows how text is sampled or verified: that is `play`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from attrs import evolve, field, frozen, validators

from igpo_rl import later
from igpo_rl.advantages import advantages, has_signal
from igpo_rl.chunkers import Chunker, RandomLength
from igpo_rl.diagnostics import GradientParts, estimate_variance, hint_divergence
from igpo_rl.estimators.mean_field import MeanField
from igpo_rl.filters import EntropyFilter, TopEntropy
from igpo_rl.guards import check_loss, check_table, naming
from igpo_rl.injections import Injection, Memory, Observer, UniformChunks
from igpo_rl.losses import GRPO, PolicyLoss, needs_whole_groups, row_mean
from igpo_rl.memory import Room, Work
from igpo_rl.overlay import Plan, check_shown, leaked, plan_hints, values_seen
from igpo_rl.passes import Passes, measure
from igpo_rl.ranks import in_order
from igpo_rl.records import Denoiser, Loss, Play, Problem, Rollouts, View
from igpo_rl.seeds import derive, row_seeds
from igpo_rl.splice import find_easy, find_stuck, splice, substitute
from igpo_rl.summary import summarise
from igpo_rl.views import LikelihoodEstimator, same_plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = later.load("torch")

T = TypeVar("T")
Measure = Literal["gradient", "hint-kl"]
TRACE = ("trace", "hintable", "breaks", "steps", "answer_value")
"""The columns of a problem that belong to its trace."""
Retrace: TypeAlias = Callable[[Problem, "Tensor"], "Problem | None"]
"""(problem, tokens (n,) of a correct completion of it) -> the problem with that completion as its trace, all `TRACE`
columns set and hintable False wherever the answer is stated; None where that cannot be told safely."""


def identity(value: T) -> T:
    return value


def alone(values: Tensor) -> Tensor:
    """`gather` of a single process: (n,) -> (1, n), one row a rank."""
    return values[None]


@frozen(kw_only=True)
class IGPO:
    """Inpainting-guided policy optimisation; with `NoInjection` plain GRPO for diffusion models."""

    chunker: Chunker = field(factory=RandomLength)
    """How a trace is cut into hint pieces."""
    injection: Injection = field(factory=UniformChunks)
    """Which pieces are shown to which row of a stuck group."""
    filter: EntropyFilter = field(factory=TopEntropy)
    """Which hint tokens carry gradient."""
    estimator: LikelihoodEstimator = field(factory=MeanField)
    """How log pi(o) is estimated."""
    loss: PolicyLoss = field(factory=GRPO)
    """What is minimised."""
    group: int = field(default=8, validator=validators.ge(1))
    """Samples of each problem (G)."""
    prompts: int = field(default=64, validator=validators.ge(1))
    """Problems of each rollout phase, over all ranks."""
    replace: float = field(default=0.5, validator=[validators.ge(0.0), validators.le(1.0)])
    """Largest share of a stuck group that correct inpainted rows may replace (lambda)."""
    updates: int = field(default=4, validator=validators.ge(1))
    """Optimiser steps on each batch of rollouts (mu)."""
    score_rows: int = field(default=64, validator=validators.ge(1))
    """Noised rows scored at a time, but at least all of one row; changes memory and speed, not results."""
    advantage_std: bool = False
    """Divide advantages by their group's standard deviation."""
    keep_zero_signal: bool = False
    """Keep the KL term of groups whose rewards are all equal; by default they give no gradient at all."""
    hide_value: bool = False
    """Never show the answer's value, even where it occurs in the working before the answer."""
    place: Literal["aligned", "spaced"] = field(default="aligned", validator=validators.in_(("aligned", "spaced")))
    """Where hints stand: trace token i at slot i, or spread out as in the public code of IGPO."""
    hints_from: Literal["trace", "own-success", "either"] = field(
        default="trace", validator=validators.in_(("trace", "own-success", "either"))
    )
    """What hints are pieces of: the worked solution, or (own-success) the problem's newest correct rollout without hints.
    either takes such a rollout where there is one."""
    refills: int = field(default=0, validator=validators.ge(0))
    """How often groups that are correct throughout are replaced by groups of further problems (DAPO, arXiv 2503.14476).
    What is left of them then stays."""
    measure: tuple[Measure, ...] = field(
        default=(), converter=tuple, validator=validators.deep_iterable(validators.in_(("gradient", "hint-kl")))
    )
    """Dear measurements: gradient, hint-kl. Norms of the gradients of hints and of own tokens take two more backward passes,
    how far hints move the policy takes one more forward of two inputs a row."""
    seed: int = 0
    """Seed of everything that is drawn for this run."""

    def __attrs_post_init__(self) -> None:
        if self.estimator.level not in self.loss.levels:
            raise ValueError(
                f"loss {type(self.loss).__name__} needs log-probs per {' or '.join(self.loss.levels)}, but estimator "
                f"{type(self.estimator).__name__} gives them per {self.estimator.level}; choose another loss or estimator"
            )

    def collect(
        self,
        play: Play,
        problems: Iterator[Problem],
        progress: float,
        step: int,
        *,
        memory: Memory | None = None,
        exchange: Callable[[Play], Play] = identity,
        gather: Callable[[Tensor], Tensor] = alone,
        rank: int = 0,
        retrace: Retrace | None = None,
    ) -> Rollouts:
        """One rollout phase (section 3 of the paper): B = this rank's share of `prompts` x group rows, with advantages.

        `problems` is the same on every rank, which takes its share. `play` is called once, and where hints
        are shown to a stuck group of any rank a second time on every rank, with its own such rows, perhaps none. Refills
        are further calls. `exchange` may wrap all but the first play so
        that ranks share its rows. `gather` stacks (n,) of each rank to (ranks, n). `memory` is kept between phases and
        is alike on all ranks. `retrace` is needed where hints come from own successes.
        """
        if iter(problems) is not problems:
            raise ValueError(
                f"problems is a {type(problems).__name__}, which would give its first ones in every phase; pass an iterator "
                "that goes on, such as itertools.cycle(problems)"
            )
        memory = {} if memory is None else memory
        ranks = len(gather(torch.zeros(1)))
        if self.prompts % ranks:
            raise ValueError(
                f"prompts = {self.prompts} cannot be shared by {ranks} processes; use a multiple of {ranks}"
            )
        draw = partial(self._draw, problems, step, memory, Counter[str]())
        drawn = draw(self.prompts)[rank::ranks]
        start = perf_counter()
        first = self._play(play, drawn, None, step, "rollout")
        originals, refilled = self._refill(first, drawn, exchange(play), draw, step, gather, rank)
        middle = perf_counter()
        stuck, width = find_stuck(originals, self.group), originals.completion.shape[1]
        plans = {
            index: self._plan(drawn[index], width, progress, step, memory)
            for index in stuck.nonzero().flatten().tolist()
        }
        hints = {index: plan for index, plan in plans.items() if plan is not None}
        batch, counts = originals, dict.fromkeys(("leak", "seen", "shown", "slots", "inpainted", "spent"), 0.0)
        outcomes: Mapping[int, Tensor] = {}
        if gather(torch.tensor([len(hints)])).sum():
            overlay = torch.cat([torch.empty(0, width, dtype=torch.long), *(plan.overlay for plan in hints.values())])
            inpainted = self._play(exchange(play), [drawn[index] for index in hints], overlay, step, "inpaint")
            counts = self._inspect(inpainted, overlay, list(hints.values()))
            outcomes = dict(zip(hints, inpainted.correct.cpu().view(-1, self.group), strict=True))
            batch = splice(originals, inpainted, list(hints), self.group, self.replace)
        self._observe(hints, outcomes, memory, gather)
        self._keep_successes(originals, drawn, memory, gather, retrace)
        end = perf_counter()
        metrics = {**batch.metrics, **refilled, "time/rollout": middle - start, "time/inpaint": end - middle}
        return evolve(
            batch,
            advantage=advantages(batch.reward, self.group, std=self.advantage_std),
            hinted=torch.zeros_like(batch.correct) if batch.hinted is None else batch.hinted,
            stuck=stuck.repeat_interleave(self.group),
            metrics=metrics | summarise(first, batch, stuck, counts, gather),
        )

    def learn(
        self,
        policy: Module,
        reference: Denoiser | None,
        batch: Rollouts,
        step: int,
        *,
        mask_id: int,
        gather: Callable[[Tensor], Tensor] = alone,
        room: Room | None = None,
    ) -> Iterator[Loss]:
        """One Loss per micro-batch, `updates` times over; step the optimiser after each `last` one.

        The values of an inner update add up to the objective (section 3 of the paper) over micro-batches and ranks.
        Every rank gets the same number of them, unless the caller takes part in halving them where memory does not
        suffice: it passes `room`, runs its backward passes in `room.tried()` and drops gradients at each `first` one.
        `policy` is put into eval mode: dropout would make the first ratio differ from 1. Before the first update the old
        policy and the reference (None: no KL term) score every distinct view once; rows without signal are not scored at all, but stay in
        the denominator.
        """
        for model in (policy, reference):
            if isinstance(model, torch.nn.Module):
                model.eval()
        signal = has_signal(batch.reward, self.group) | self.keep_zero_signal
        rows = batch.take(signal.nonzero().flatten())
        if rows.advantage is None:
            raise ValueError("the batch has no advantages; pass what `collect` returned, or set `advantage`")
        views = self._views(rows, rows.advantage, step, mask_id, gather)
        room = Room(self.score_rows, halves=False) if room is None else room
        work = self._work(len(rows), views, room, gather)
        passes = Passes(batch, rows, work, room)
        distinct = {id(view): view for view in views}
        old = {key: passes.fixed(policy, view) for key, view in distinct.items()}
        ref: dict[int, Tensor] = {}
        if reference is not None and self.loss.beta > 0:
            ref = {key: passes.fixed(reference, view).logp for key, view in distinct.items()}
        # A token that no copy happens to mask adds 0 to an estimate of the whole row, but it is one of its tokens.
        whole = self.estimator.level == "sequence"
        counted = {key: rows.valid if whole else before.scored for key, before in old.items()}
        means = [row_mean(old[id(view)].logp, counted[id(view)]) for view in views]
        phase = estimate_variance(means, gather)
        if "hint-kl" in self.measure:
            phase |= self._hint_kl(policy, batch, rows, work, room, mask_id, gather)
        exact = GradientParts(policy) if "gradient" in self.measure else None
        for update, view in enumerate(views):
            before, reference_logp = old[id(view)], ref.get(id(view))
            hint = rows.given & before.scored
            with naming("filter", self.filter):
                kept = self.filter(before.entropy, before.logp, hint, before.scored)
                kept = check_table("kept", kept, hint.shape) & hint
            mask = counted[id(view)] & ~rows.given | kept
            totals, metrics = measure(len(batch), rows.advantage, before, hint, kept, mask, gather)
            for piece in room.pieces(work, anew=True):
                part = piece.rows
                logp = found = None  # of a graph that did not fit nothing is kept
                if piece.first and exact is not None:
                    exact.sums = {}
                with room.tried():
                    logp = passes.logp(policy, view, part)
                    with naming("loss", self.loss):
                        found = self.loss(
                            logp,
                            # By construction the ratio of the first update is exactly 1, whatever kernels and batch shapes do.
                            logp.detach() if update == 0 else before.logp[part],
                            rows.advantage[part],
                            mask[part],
                            None if reference_logp is None else reference_logp[part],
                            rows.group[part],
                            hint[part],
                            totals,
                        )
                        check_loss(found)
                    if exact is not None:
                        exact.add(found.value, logp, hint[part])
                if not room.fits:
                    continue
                if piece.last:
                    metrics |= phase | ({} if exact is None else exact.norms(gather))
                yield Loss(found.value, {**found.metrics, **(metrics if piece.last else {})}, piece.last, piece.first)

    def _draw(
        self, problems: Iterator[Problem], step: int, memory: Memory, turns: Counter[str], count: int
    ) -> list[Problem]:
        """The next `count` problems over all ranks; how many were drawn so far is kept, so that a run can be resumed.

        `turns` of the phase: one that comes again, where there are fewer problems than groups, is not sampled alike.
        """
        drawn = list(islice(problems, count))
        if len(drawn) < count:
            raise ValueError(
                f"prompts = {self.prompts}, but the problems ended after {len(drawn)}; repeat them endlessly"
            )
        memory["drawn"] = memory.get("drawn", step * self.prompts) + count
        for index, problem in enumerate(drawn):
            drawn[index] = evolve(problem, turn=turns[problem.key])
            turns[problem.key] += 1
        return drawn

    def _play(
        self, play: Play, problems: Sequence[Problem], overlay: Tensor | None, step: int, purpose: str
    ) -> Rollouts:
        """`group` rows of each problem, with seeds of their own."""
        rows = [problem for problem in problems for _ in range(self.group)]
        keys = tuple(problem.key for problem in rows)
        samples = [problem.turn * self.group + sample for problem in problems for sample in range(self.group)]
        seeds = row_seeds(self.seed, step, keys, samples, purpose)
        rollouts = play(rows, overlay, seeds)
        if len(rollouts) != len(rows):
            raise ValueError(f"play returned {len(rollouts)} rows for {len(rows)}; it must keep rows and their order")
        group = torch.arange(len(problems), device=rollouts.completion.device).repeat_interleave(self.group)
        return evolve(rollouts, group=group, keys=keys)

    def _refill(
        self,
        originals: Rollouts,
        drawn: list[Problem],
        play: Play,
        draw: Callable[[int], list[Problem]],
        step: int,
        gather: Callable[[Tensor], Tensor],
        rank: int,
    ) -> tuple[Rollouts, dict[str, float]]:
        """Groups of further problems in the place of those that are correct throughout, in `drawn` too; and metrics."""
        rounds = skipped = 0
        while rounds < self.refills:
            # By index and then rank: counted over all ranks as one process would draw them.
            table = gather(find_easy(originals, self.group).double()).T
            easy, ranks = table.flatten().nonzero().flatten().tolist(), table.shape[1]
            if not easy:
                break
            further = draw(len(easy))
            mine = {at // ranks: each for at, each in zip(easy, further, strict=True) if at % ranks == rank}
            fresh = self._play(play, list(mine.values()), None, step, f"refill {rounds}")
            originals = substitute(originals, fresh, list(mine), self.group)
            for index, problem in mine.items():
                drawn[index] = problem
            rounds, skipped = rounds + 1, skipped + len(easy)
        metrics = {"sample/refills": float(rounds), "sample/skipped": skipped / self.prompts}
        return originals, metrics if self.refills else {}

    def _plan(self, problem: Problem, width: int, progress: float, step: int, memory: Memory) -> Plan | None:
        """Which hints each of the group's inpainted rows is shown; None: no second rollout."""
        if self.hints_from != "trace":
            known = memory.get("successes", {}).get(problem.key)
            if known is not None:
                columns: dict[str, Any] = {name: torch.tensor(column) for name, column in known.items()}
                problem = evolve(problem, **columns)
            elif self.hints_from == "own-success":
                problem = evolve(problem, trace=None, hintable=None)
        if self.hide_value and problem.hintable is not None and problem.answer_value is not None:
            problem = evolve(problem, hintable=problem.hintable & ~problem.answer_value)
        return plan_hints(
            problem,
            self.group,
            width,
            Random(derive(self.seed, step, problem.key, "hint", *range(problem.turn))),
            chunker=self.chunker,
            injection=self.injection,
            spaced=self.place == "spaced",
            progress=progress,
            memory=memory.setdefault("injection", {}),
        )

    def _inspect(self, inpainted: Rollouts, overlay: Tensor, plans: Sequence[Plan]) -> dict[str, float]:
        """What the rows that came back show of the answer."""
        check_shown(inpainted, overlay.to(inpainted.completion))
        rows, given = [plan.problem for plan in plans for _ in range(self.group)], inpainted.given.cpu()
        source = torch.cat([torch.empty(0, given.shape[1], dtype=torch.long), *(plan.source for plan in plans)])
        return {
            "leak": leaked(given, source, rows),
            "seen": values_seen(given, source, rows),
            "shown": float(given.sum()),
            "slots": float(given.numel()),
            "inpainted": len(inpainted),
            "spent": 0.0 if inpainted.forwards is None else float(inpainted.forwards.sum()),
        }

    def _observe(
        self,
        hints: Mapping[int, Plan],
        outcomes: Mapping[int, Tensor],
        memory: Memory,
        gather: Callable[[Tensor], Tensor],
    ) -> None:
        """Tell an injection that learns what its hints led to, on every rank that of all ranks."""
        if isinstance(self.injection, Observer):
            seen = [
                (index, [hints[index].problem.key, hints[index].shown.tolist(), correct.tolist()])
                for index, correct in outcomes.items()
            ]
            for key, shown, correct in in_order(seen, gather):
                self.injection.observe(
                    key, torch.tensor(shown), torch.tensor(correct), memory.setdefault("injection", {})
                )

    def _keep_successes(
        self,
        originals: Rollouts,
        drawn: Sequence[Problem],
        memory: Memory,
        gather: Callable[[Tensor], Tensor],
        retrace: Retrace | None,
    ) -> None:
        """Remember one correct rollout of each problem that has any, as a trace for later hints."""
        if self.hints_from == "trace":
            return
        if retrace is None:
            raise ValueError(
                f"hints_from = {self.hints_from!r} needs `retrace`, which says where a completion states its answer; "
                "pass one to collect, or use hints_from = 'trace'"
            )
        found = []
        for index, correct in enumerate(originals.correct.view(-1, self.group).tolist()):
            if any(correct):
                row = index * self.group + correct.index(True)
                own = retrace(drawn[index], originals.completion[row][originals.valid[row]].cpu())
                if own is not None:
                    found.append((index, [own.key, {name: getattr(own, name).tolist() for name in TRACE}]))
        for key, columns in in_order(found, gather):
            memory.setdefault("successes", {})[key] = columns

    def _views(
        self, rows: Rollouts, advantage: Tensor, step: int, mask_id: int, gather: Callable[[Tensor], Tensor]
    ) -> list[View]:
        """One view an inner update, counted by optimiser steps; views that are equal on every rank are one object."""
        samples = [row % self.group for row in range(len(rows))]
        keys = rows.keys or tuple(map(str, rows.group.tolist()))
        views: list[View] = []
        for update in range(self.updates):
            seeds = row_seeds(self.seed, step, keys, samples, f"view {update}").to(rows.completion.device)
            with naming("estimator", self.estimator):
                view = self.estimator(rows, advantage, seeds, mask_id)
            views.append(next((other for other in views if same_plan(view, other)), view))
        same = torch.tensor([[float(view is other) for other in views] for view in views])
        everywhere = gather(same.flatten()).amin(0).view_as(same)
        objects = [evolve(view) for view in views]  # equal here but not on another rank: scored here as often as there
        return [objects[int(row.argmax())] for row in everywhere]

    def _hint_kl(
        self,
        policy: Denoiser,
        batch: Rollouts,
        rows: Rollouts,
        work: Work,
        room: Room,
        mask_id: int,
        gather: Callable[[Tensor], Tensor],
    ) -> dict[str, float]:
        """This rank's contribution to the mean over all own tokens of rows with hints."""
        total = torch.zeros(2, dtype=torch.float64, device=batch.completion.device)
        for piece in room.pieces(evolve(work, closing=False), anew=False):
            places = torch.arange(piece.rows.start, piece.rows.stop)
            some = (
                rows.take(places)
                if len(places)
                else evolve(batch.take(places.new_zeros(1)), valid=batch.valid[:1] & False)
            )
            with room.tried():
                total += hint_divergence(policy, some, mask_id)
        count = float(gather(total)[:, 1].sum())
        return {"hint/kl": float(total[0]) / count} if count else {}

    def _work(self, rows: int, views: Sequence[View], room: Room, gather: Callable[[Tensor], Tensor]) -> Work:
        """Micro-batches of whole groups where a group fits in one; as many on every rank, the last ones perhaps empty."""
        copies = max((int(view.row.bincount().max()) for view in views if len(view.row)), default=1)

        def size(limit: int) -> int:
            limit = max(1, limit)
            least = self.group if needs_whole_groups(self.loss) else min(limit, self.group)
            return max(limit // self.group * self.group, least)

        needed = gather(torch.tensor([-(-rows // size(room.limit // copies))]))
        return Work(rows, size, copies, max(1, int(needed.max())), closing=room.halves and len(needed) > 1)
