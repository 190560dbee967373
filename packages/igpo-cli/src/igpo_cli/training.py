"""SFT, then IGPO, as the configuration says: what `igpo train` and `igpo sft` do.

The algorithm and its loops are igpo-rl's; here a run gets its folder, its model, its data and its witnesses.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from signal import Signals as Sign
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from igpo_cli import errors, launch, runs
from igpo_cli.assemble import (
    algorithm_of,
    device_of,
    load_model,
    player_of,
    problem_set,
    require_hints,
    shows_hints,
    unseen,
)
from igpo_cli.errors import RunError, StopError, UsageError
from igpo_cli.evaluate import evaluate
from igpo_cli.health import Watch
from igpo_cli.lora import adapt, merge, save_adapters, without_adapters
from igpo_cli.pieces import decoder
from igpo_cli.precheck import shared
from igpo_cli.problems import encode_pairs, nothing_to_learn, own_trace
from igpo_cli.resuming import START, Resumption, changes, checkpoints_of, remedy, told_best, write_config
from igpo_cli.screen import Screen, peak_memory
from igpo_cli.signals import Signals
from igpo_cli.tasks import task_name, tasks_of, verifier_of
from igpo_cli.trackers import Trackers
from igpo_cli.trackers import require as require_trackers
from igpo_cli.tracking import Tracker, overall, read_metrics, rollout_rows
from igpo_rl import fsdp, later
from igpo_rl.checkpoint import Saved, aside
from igpo_rl.exchange import Exchange
from igpo_rl.igpo import identity
from igpo_rl.memory import NoRoomError
from igpo_rl.trainer import Routine, gather_with, train, train_sft
from igpo_sampling import Loaded

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from igpo_cli.config import Config
    from igpo_cli.play import Player
    from igpo_cli.problems import ProblemSet
    from igpo_rl import IGPO, Problem, Rollouts
else:
    torch = later.load("torch")


def run(config: Config, *, resume: Path | None = None) -> Path:
    """Train as `config` says and return the run's folder; `resume` is the folder of a run to go on with."""
    require_trackers(config.run.trackers)
    launch.join(device_of(config))
    begun = (made for made in runs.of_job(Path(config.run.folder), launch.restarted()) if not changes(made, config))
    folder = resume or next(begun, None)
    again = Resumption.find(folder, config) if folder is not None else None
    if again is not None and again.finished(config):
        errors.note(f"{folder} is finished: its model is in {again.folder / 'model'}. More --steps would go on.")
        return again.folder
    runs.require_place(Path(config.run.folder))
    # Whole weights may not fit on a device that is to hold a part of them.
    loaded = load_model(config, again.model() if again is not None else None, device="cpu" if sharded() else None)
    try:
        with ExitStack() as stack:
            return Training.prepare(config, loaded, again, stack).run()
    except NoRoomError as error:
        vocabulary = int(loaded.denoiser.get_output_embeddings().weight.shape[0])
        raise errors.out_of_memory(error.what, error.option, error.rows, config.run.width, vocabulary) from error
    except torch.OutOfMemoryError as error:
        raise RunError(f"{str(error).splitlines()[0]} Try --lora.rank 64, or a larger device.") from error


@define
class Alarm:
    """Speaks up, once, after many steps in which no rollout was right: then nothing can be learned."""

    patience: int = 50
    """Steps."""
    silent: int = 0
    shown: float = 0.0
    unended: float = 0.0

    def hear(self, metrics: Mapping[str, float]) -> str | None:
        """One step's metrics -> what to tell the user, or None."""
        if "correct/mean" not in metrics:
            return None  # an evaluation's row
        if metrics["correct/mean"] > 0 or metrics.get("stuck/rescued", 0.0) > 0:
            self.silent, self.shown, self.unended = 0, 0.0, 0.0
            return None
        self.silent += 1
        self.shown += metrics.get("hint/shown", 0.0)
        self.unended += 1.0 - metrics.get("sample/eos", 1.0)
        if self.silent != self.patience:
            return None
        return (
            f"{self.patience} steps without one correct rollout, even with hints (hint share "
            f"{self.shown / self.silent:.2f}). Usual causes: answer format, verifier, L too short "
            f"({self.unended / self.silent:.0%} never end)."
        )


@define
class Training:
    """One run while it lives."""

    config: Config
    folder: Path
    loaded: Loaded
    again: Resumption | None
    """Where this run goes on from, None for a new one."""
    pairs: list[tuple[Tensor, Tensor]]
    """What SFT learns from; empty without that phase."""
    problems: ProblemSet | None
    """What RL rolls out; None without that phase."""
    player: Player | None
    evaluations: dict[str, tuple[Player, ProblemSet, int]]
    """By name: who plays, what, and how many samples a problem."""
    accelerator: Any
    tracker: Tracker
    signals: Signals
    alarm: Alarm
    watch: Watch
    told: int = 0
    """The signal that some process got, agreed by all; 0: none."""
    rollouts: fsdp.Rollouts = field(init=False)
    """How the policy of the phase is sampled from."""
    resumable: bool = True
    """Whether checkpoints are of use."""

    @classmethod
    def prepare(cls, config: Config, loaded: Loaded, again: Resumption | None, stack: ExitStack) -> Training:
        """Load everything before the folder is made, so that a wrong option leaves nothing behind."""
        from accelerate import Accelerator

        sft = config.section("sft")
        launch.require_shares(shared(config))
        pairs: list[tuple[Tensor, Tensor]] = []
        dropped, trained = 0, set[str]()
        if sft.steps:
            tasks = tasks_of(config, sft.split, "sft", sft.limit)
            pairs, dropped = encode_pairs(tasks, config.section("prompt", "sft"), loaded.tokenizer, config.run.width)
            if not pairs:
                raise nothing_to_learn(tasks, task_name(config, "sft"), config.run.width)
            trained |= {task.prompt for task in tasks}
        problems = player = None
        if config.run.steps:
            problems = problem_set(config, loaded, config.run.split, limit=config.run.limit)
            require_hints(config, problems)
            algorithm_of(config)
            player = player_of(config, loaded, problems, stack.enter_context(verifier_of(config)))
            trained |= {task.prompt for task in problems.tasks.values()}
        evaluations = {}
        for name in config.evals():
            scope, options = f"eval.{name}", config.evaluation(name)
            held_out = problem_set(config, loaded, options.split, scope, options.limit)
            verifier = stack.enter_context(verifier_of(config, scope))
            evaluations[name] = (player_of(config, loaded, held_out, verifier, scope), held_out, options.samples)

        if (best := config.run.best) is not None and not any(best.startswith(f"eval/{name}/") for name in evaluations):
            raise UsageError(
                f"--best {best} is no metric of an evaluation. Take one such as eval/NAME/pass@1; evaluations are "
                f"{', '.join(evaluations) or 'none'}."
            )
        device = device_of(config)
        folder = launch.on_main(lambda: begin(config, again, device, stack))
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if config.run.precision == "bfloat16" else "no",
            project_dir=folder,
        )
        totals = {"sft": sft.steps, "igpo": config.run.steps}
        main = accelerator.is_main_process
        stack.callback(accelerator.end_training)
        screen = stack.enter_context(Screen(sft.steps + config.run.steps)) if main else None
        tracker = Tracker(folder, writes=main, screen=screen, totals=totals)
        if main:
            tracker.trackers = Trackers(tracker.message)
            stack.callback(end_trackers, tracker.trackers)
            first = None if again is None else overall(*again.point, totals) + 1
            with tracker.unless_full("trackers miss what follows"):
                tracker.trackers.start(config.run.trackers, folder, config.values, first)
        for note in config.notes:
            tracker.message(f"note: {note}")
        if dropped:
            tracker.message(
                f"SFT leaves out {dropped} of {dropped + len(pairs)} tasks: no trace, or no room for it to end"
            )
        if problems is not None and (blind := len(problems.problems) - problems.hintable) and shows_hints(config):
            tracker.message(
                f"{blind} of {len(problems.problems)} tasks are used without hints: no trace, or its answer is not located "
                "(igpo data stats)"
            )
        for warning in unseen(config, loaded) if problems is not None else ():
            tracker.message(f"warning: {warning}")
        for name, (_, held_out, _) in evaluations.items():
            if known := sum(task.prompt in trained for task in held_out.tasks.values()):
                tracker.message(
                    f"warning: {known} of the {len(held_out.tasks)} problems of [eval.{name}] are trained on too, so its "
                    f"score is not held out. Give it problems of its own: --eval.{name}.split, --eval.{name}.task.path"
                )
        if again is not None:
            tracker.cut(*again.point)
            tracker.message(str(again))
        alarm, watch = Alarm(), Watch()
        if again is not None and main:  # others have no voice
            recall(folder, alarm, watch)
        signals = Signals(config.run.grace, remedy(folder))
        stack.enter_context(signals.heard())
        return cls(
            config=config,
            folder=folder,
            loaded=loaded,
            again=again,
            pairs=pairs,
            problems=problems,
            player=player,
            evaluations=evaluations,
            accelerator=accelerator,
            tracker=tracker,
            signals=signals,
            alarm=alarm,
            watch=watch,
        )

    def run(self) -> Path:
        """Both phases, and the model at the end."""
        players = [self.player, *(player for player, _, _ in self.evaluations.values())]
        judges: list[Any] = [player.verifier for player in players if player is not None]
        for speaker in (*judges, *(player.room for player in players if player is not None)):
            speaker.say = self._warn
        if self.pairs and (self.again is None or self.again.point[0] == "sft"):
            self.sft()
            if self.problems is not None:
                self._save_start()
                if sharded():  # what was spread and put together again on the main process is of no use to the others
                    if not self.resumable:
                        raise RunError(f"RL cannot start without {self.folder / START}. Make room on the disk.")
                    self.loaded = load_model(self.config, str(self.folder / START), device="cpu")
        if self.problems is not None:
            self.igpo()
        for account in filter(None, (judge.account() for judge in judges)):
            self._warn(account)
        try:
            self._save("model")
        except OSError as error:
            raise RunError(
                f"{self.folder / 'model'} could not be written ({error.strerror}). Make room on the disk, and then: "
                f"{self.signals.remedy}"
            ) from error
        self.tracker.message(f"model saved to {self.folder / 'model'}")
        if self.accelerator.is_main_process:
            with self.tracker.unless_full("environment.json does not say how much memory was used"):
                runs.note_environment(self.folder, peak_memory=peak_memory())
        if (told := told_best(checkpoints_of(self.folder, self.config), self.folder)) is not None:
            self.tracker.message(told)
        return self.folder

    def _save(self, name: str, note: Mapping[str, Any] | None = None) -> None:
        """The model as a directory that loads anywhere and is whole or not there; OSError where the disk is full."""

        def write() -> None:
            with aside(self.folder / name, note) as folder:
                self.loaded.save(folder)

        launch.on_main(write)

    def _save_start(self) -> None:
        """The model that RL starts from; a checkpoint of RL is of no use without it."""
        try:
            self._save(START, {})
        except OSError as error:
            self.resumable = False
            self._warn(
                f"NO CHECKPOINTS will be written from here on: {self.folder / START} could not be ({error.strerror}). "
                "Training goes on; if it is interrupted, RL is repeated from the end of SFT."
            )

    def _heed(self, phase: str, step: int) -> None:
        """End the run where a signal said so."""
        if self.told:
            raise StopError(f"by {Sign(self.told).name} after {phase} step {step}. {self.signals.remedy}", self.told)

    def _stop(self) -> bool:
        """Whether any process was told to stop; all of them ask between steps, and get one answer."""
        self.told = max(number for numbers in launch.gather([self.signals.received]) for number in numbers)
        return self.told != 0

    def _flush(self) -> None:
        """Before a checkpoint: what was logged is on the disk, and changed options are those of the run from here on."""
        self.tracker.flush()
        if self.again is not None and self.again.changes:
            write_config(self.folder, self.config)

    def sft(self) -> None:
        """Masked-diffusion SFT on the traces."""
        policy = self._begin("sft")
        options = self.config.section("sft")
        routine = self._routine(evaluate_every=0 if self.problems is not None else options.steps, log=self.tracker.log)
        done = train_sft(
            options,
            policy,
            self.pairs,
            accelerator=self.accelerator,
            optimizer=self.config.section("optimizer", "sft"),
            routine=routine,
            width=self.config.run.width,
            mask_id=self.loaded.mask_id,
            eos_id=self.loaded.eos_id,
            pad_id=self.loaded.pad_id,
            attend_eos=self.config.run.attend_eos,
            seed=self.config.run.seed,
            resume=self._saved(),
        )
        self._heed("sft", done)
        self._end(policy, "sft")

    def igpo(self) -> None:
        """IGPO, or plain GRPO where the injection is none."""
        assert self.problems is not None
        assert self.player is not None
        algorithm = algorithm_of(self.config)
        frozen = copy.deepcopy(self.loaded.denoiser) if needs_copy(self.config, algorithm) else None
        policy = self._begin("igpo")
        self.player = evolve(self.player, loaded=self.loaded, **self._sampled(policy))
        reference = None if frozen is None else self._alike(frozen)
        if self.config.section("lora").rank:
            reference = without_adapters(policy, self.accelerator.unwrap_model(policy))
        done = train(
            algorithm,
            policy,
            reference,
            self.player,
            self.problems.problems,
            accelerator=self.accelerator,
            optimizer=self.config.section("optimizer"),
            routine=self._routine(
                evaluate_every=self.config.run.evaluate_every or self.config.run.steps,
                log=self._log,
                watch=self._record,
            ),
            steps=self.config.run.steps,
            mask_id=self.loaded.mask_id,
            resume=self._saved(),
            exchange=Exchange(launch.gather, launch.rank()) if launch.ranks() > 1 else identity,
            retrace=self._retrace,
            rolling=self.rollouts.phase,
        )
        self._heed("igpo", done)
        self._end(policy, "igpo")

    def _sampled(self, policy: Module) -> dict[str, Any]:
        """How a player samples from a policy: without DDP, and in step with other ranks where weights are spread."""
        return {"denoiser": self.accelerator.unwrap_model(policy), "within": self.rollouts.within}

    def _saved(self) -> Saved | None:
        return None if self.again is None else self.again.saved

    def _retrace(self, problem: Problem, completion: Tensor) -> Problem | None:
        """A correct completion as a trace for later hints."""
        assert self.problems is not None
        return own_trace(problem, completion, self.problems.tasks[problem.key], self.loaded.tokenizer)

    def _alike(self, frozen: Module) -> Callable[..., Any]:
        """A copy that computes in the same precision as the policy, so that at first they agree."""
        if sharded():
            frozen = fsdp.prepare(self.accelerator, frozen)
        frozen.eval()

        def reference(*inputs: Any, **named: Any) -> Any:
            with self.accelerator.autocast():
                return frozen(*inputs, **named)

        return reference

    def _begin(self, phase: str) -> Module:
        """The module that this phase trains, with fresh adapters where the run has some."""
        lora = self.config.section("lora")
        if self.config.run.gradient_checkpointing:
            recompute_layers(self.loaded.denoiser)
        network, count = adapt(self.loaded, lora, self.config.run.seed)
        experts = f" and {len(self.loaded.experts)} weights of experts" if self.loaded.experts else ""
        where = f" in adapters of {len(self.loaded.linear)} linear layers{experts}" if lora.rank else ""
        self.tracker.message(f"{phase}: {count:,} trainable weights{where}")
        policy = fsdp.prepare(self.accelerator, network)
        self.rollouts = fsdp.Rollouts.of(policy, gather_with(self.accelerator))
        if fsdp.is_sharded(policy):
            when = "once a phase" if self.rollouts.once else "in each forward: they do not fit beside the rest"
            self.tracker.message(
                f"{phase}: weights are spread over {launch.ranks()} processes; rollouts gather them {when}"
            )
        return policy

    def _end(self, policy: Module, phase: str) -> None:
        """What was trained becomes the model: adapters are saved alone, and merged into its weights."""
        network = self.accelerator.unwrap_model(policy, keep_fp32_wrapper=False)
        fsdp.dissolve(network, wanted=self.accelerator.is_main_process)
        if self.config.section("lora").rank and self.accelerator.is_main_process:
            with (
                self.tracker.unless_full("the adapters are not kept"),
                aside(self.folder / "adapters" / phase) as folder,
            ):
                save_adapters(network, folder)
        self.loaded = evolve(self.loaded, denoiser=merge(network))

    def _routine(
        self,
        *,
        evaluate_every: int,
        log: Callable[[int, str, Mapping[str, float]], None],
        watch: Callable[[int, Rollouts], None] | None = None,
    ) -> Routine:
        return Routine(
            log=log,
            evaluate=self._evaluate if self.evaluations else None,
            evaluate_every=evaluate_every,
            checkpoints=checkpoints_of(self.folder, self.config) if self.resumable else None,
            save_every=self.config.run.save_every,
            flush=self._flush,
            watch=watch,
            stop=self._stop,
            say=self._warn,
            rooms=() if self.player is None else (self.player.room,),
        )

    def _evaluate(self, module: Module) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, (player, problems, samples) in self.evaluations.items():
            with self.rollouts.phase():
                player = evolve(player, **self._sampled(module))
                score = evaluate(player, problems, samples=samples, seed=self.config.run.seed)
            if self.accelerator.is_main_process:
                with self.tracker.unless_full(f"the answers of evaluation {name} are not kept"):
                    score.write(self.folder / "eval" / f"{name}.jsonl")
            metrics |= {f"eval/{name}/{metric}": value for metric, value in score.metrics.items()}
        return metrics

    def _log(self, step: int, phase: str, metrics: Mapping[str, float]) -> None:
        """Metrics of an RL step, with the player's own times, and a warning when nothing is ever right."""
        assert self.player is not None
        times = {f"time/{name}": seconds for name, seconds in self.player.times.items()}
        if tokens := self.player.counts.get("tokens"):
            times["time/speed"] = tokens / self.player.times["sample"]
        self.player.times.clear()
        self.player.counts.clear()
        self.tracker.log(step, phase, {**metrics, **times})
        for sign in self.watch.hear(step, phase, metrics):
            self.tracker.message(f"warning: {sign}")
        if (warning := self.alarm.hear(metrics)) is not None:
            self._warn(warning)

    def _warn(self, text: str) -> None:
        self.tracker.message(f"warning: {text}")

    def _record(self, step: int, batch: Rollouts) -> None:
        """Every `rollouts_every`-th batch as text."""
        every = self.config.run.rollouts_every
        if every and (step % every == 0 or step == 1):
            assert self.problems is not None
            rows = rollout_rows(batch, step=step, decode=decoder(self.loaded.tokenizer), tasks=self.problems.tasks)
            self.tracker.rollouts(step, together(rows))


def needs_copy(config: Config, algorithm: IGPO) -> bool:
    """Whether the reference is a second model; with adapters it is the model without them."""
    return algorithm.loss.beta > 0 and not config.section("lora").rank


def recompute_layers(denoiser: Any) -> None:
    """Switch a model's gradient checkpointing on; UsageError where it has none."""
    if not getattr(denoiser, "supports_gradient_checkpointing", False):
        raise UsageError(
            f"gradient_checkpointing = true, but {type(denoiser).__name__} cannot compute its layers again. "
            "Leave it out, or lower --score-rows to save memory."
        )
    # The name it had in earlier versions of transformers.
    enable = getattr(denoiser, "activation_checkpointing_enable", None) or denoiser.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def sharded() -> bool:
    """Whether accelerate was told to spread weights over the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranks, groups numbered and sorted as a single process would have them."""
    ranks, rank = launch.ranks(), launch.rank()
    numbered = [{**row, "group": row["group"] * ranks + rank} for row in rows]
    return sorted(chain.from_iterable(launch.gather(numbered)), key=lambda row: row["group"])


def begin(config: Config, again: Resumption | None, device: str, stack: ExitStack) -> Path:
    """The run's folder, held for the `stack`'s life before anything is written: it may be another one's that still trains."""
    folder = new_folder(config) if again is None else again.folder
    stack.enter_context(runs.holding(folder))
    if again is None:
        write_config(folder, config)
    runs.write_json(folder / "environment.json", runs.environment(device) | {"job": launch.job()})
    return folder


def new_folder(config: Config) -> Path:
    """A folder of the run's own; its name is numbered unless the user chose it."""
    origin = config.origins.get("name", "default")
    chosen = config.run.name is not None and origin != "default" and not origin.startswith("preset")
    return runs.claim(Path(config.run.folder), config.run.name or "run", explicit=chosen)


def recall(folder: Path, alarm: Alarm, watch: Watch) -> None:
    """Let them know what a run that goes on has told, and counted, already."""
    rows = [row for row in read_metrics(folder) if row["phase"] == "igpo"]
    for row in rows:
        alarm.hear({name: value for name, value in row.items() if value is not None})
    watch.recall(rows)


def end_trackers(trackers: Trackers) -> None:
    """What they could not write they have said before."""
    with suppress(OSError):
        trackers.finish()
