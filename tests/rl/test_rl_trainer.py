from __future__ import annotations

import copy
import math
import multiprocessing
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from attrs import evolve
from rl_tiny import EOS, LETTERS, MASK, PAD, Player, TinyDenoiser, problems

from igpo_rl.adaptive import Adaptive
from igpo_rl.checkpoint import Checkpoints
from igpo_rl.chunkers import RandomLength
from igpo_rl.estimators import RandomMask
from igpo_rl.igpo import IGPO
from igpo_rl.injections import Full
from igpo_rl.losses import GRPO
from igpo_rl.seeds import derive
from igpo_rl.sft import SFT
from igpo_rl.testing import global_generators_untouched
from igpo_rl.trainer import Meter, Optimizer, Routine, Updater, train, train_sft

WIDTH, SFT_STEPS, STEPS = 12, 3, 4


def judge(one, text) -> bool:
    wanted = "".join(LETTERS[token] for token in one.trace.tolist())
    return sum(a == b for a, b in zip(wanted, text, strict=False)) >= 6


EASY = {one.key for one in problems(8)[::3]}
RICH = {
    "injection": Adaptive(),
    "hints_from": "either",
    "refills": 2,
    "measure": ("gradient", "hint-kl"),
}
"""All that remembers (what hints led to, own successes, how many problems were used up), and all that is measured."""


def judge_easy(one, text) -> bool:
    """Some problems are right throughout."""
    return one.key in EASY or judge(one, text)


def retrace(one, tokens):
    """A completion as a trace: its last two letters are the answer."""
    none = torch.zeros(len(tokens), dtype=torch.bool)
    hintable = torch.arange(len(tokens)) < len(tokens) - 2
    return evolve(one, trace=tokens, hintable=hintable, breaks=none, steps=none, answer_value=none)


class Run:
    """A small run of both phases, in one process."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        stop_after: int | None = None,
        score_rows: int = 5,
        double: bool = False,
        verdict=judge,
        **algorithm,
    ):
        self.accelerator = Accelerator(cpu=True)
        policy = TinyDenoiser().double() if double else TinyDenoiser()
        self.play, self.algorithm = Player(policy, WIDTH, verdict), algorithm
        self.policy = self.accelerator.prepare_model(policy)
        self.reference = TinyDenoiser(seed=1).double() if double else TinyDenoiser(seed=1)
        self.log: list[tuple[int, str, dict]] = []
        self.stop_after, self.score_rows = stop_after, score_rows
        self.checkpoints = Checkpoints(folder=folder) if folder else None

    def routine(self, **options) -> Routine:
        return Routine(
            log=lambda step, phase, metrics: self.log.append((step, phase, dict(metrics))),
            checkpoints=self.checkpoints,
            save_every=1,
            stop=lambda: self.stop_after is not None and len(self.log) >= self.stop_after,
            **options,
        )

    def sft(self, resume=None) -> int:
        pairs = [(one.prompt, one.trace) for one in problems(8)]
        return train_sft(
            SFT(steps=SFT_STEPS, batch=8, score_rows=self.score_rows),
            self.policy,
            pairs,
            accelerator=self.accelerator,
            optimizer=Optimizer(name="muon", lr=1e-2, matrix_lr=0.01, warmup=1, schedule="cosine", clip=1.0),
            routine=self.routine(),
            width=WIDTH,
            mask_id=MASK,
            eos_id=EOS,
            pad_id=PAD,
            resume=resume,
        )

    def rl(self, resume=None, optimizer=None, **options) -> int:
        return train(
            IGPO(
                group=4,
                prompts=4,
                updates=2,
                score_rows=self.score_rows,
                **{
                    "chunker": RandomLength(low=2, high=3),
                    "estimator": RandomMask(low=0.2),
                    "loss": GRPO(beta=0.05),
                    **self.algorithm,
                },
            ),
            self.policy,
            self.reference,
            self.play,
            problems(8),
            accelerator=self.accelerator,
            optimizer=optimizer or Optimizer(lr=3e-3, warmup=2, schedule="linear", clip=1.0),
            routine=self.routine(**options),
            steps=STEPS,
            mask_id=MASK,
            resume=resume,
            retrace=retrace,
        )

    def weights(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self.accelerator.unwrap_model(self.policy).parameters()]

    def measured(self) -> list[tuple]:
        return [
            (step, phase, {name: value for name, value in metrics.items() if not name.startswith("time/")})
            for step, phase, metrics in self.log
        ]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def straight():
    run = Run()
    assert run.sft() == SFT_STEPS
    assert run.rl() == STEPS
    return run


def test_both_phases_log_every_step_under_the_agreed_names(straight):
    assert [(step, phase) for step, phase, _ in straight.log] == [(1, "sft"), (2, "sft"), (3, "sft")] + [
        (step, "igpo") for step in range(1, STEPS + 1)
    ]
    assert {
        "sft/loss",
        "sft/accuracy",
        "optimizer/lr",
        "optimizer/grad_norm",
        "optimizer/skipped",
        "time/learn",
    } == set(straight.log[0][2])
    names = set().union(*(metrics for _, phase, metrics in straight.log if phase == "igpo"))
    assert names >= {
        *("stuck/before", "stuck/after", "stuck/rescued", "reward/mean", "correct/mean", "reward/spliced"),
        *("hint/rows", "hint/tokens", "hint/answer_leak", "hint/answer_value_seen", "sample/forwards", "sample/eos"),
        *("time/rollout", "time/inpaint", "time/learn", "policy/loss", "policy/kl", "policy/ratio", "policy/ratio_max"),
        *("policy/clip", "policy/entropy", "policy/entropy_hint", "policy/kept_hints"),
        *("optimizer/lr", "optimizer/grad_norm", "optimizer/skipped"),
    }
    assert straight.log[2][2]["sft/loss"] < straight.log[0][2]["sft/loss"]


@pytest.mark.parametrize("stop_after", range(1, SFT_STEPS + STEPS))
def test_a_resumed_run_is_the_straight_run_bit_by_bit(tmp_path, straight, stop_after):
    first = Run(tmp_path, stop_after=stop_after)
    if first.sft() == SFT_STEPS and stop_after > SFT_STEPS:
        first.rl()
    latest = first.checkpoints.latest()
    assert (latest.phase, latest.step) == first.log[-1][1::-1]
    second = Run(tmp_path)
    if latest.phase == "sft":
        assert second.sft(latest) == SFT_STEPS
    assert second.rl(latest) == STEPS
    assert equal(second.weights(), straight.weights())
    assert first.measured() + second.measured() == straight.measured()


def test_progress_begins_at_0_and_grows_step_by_step():
    seen = []

    class Spy:
        def __call__(self, problem, chunks, rows, progress, rng, memory):
            seen.append(progress)

    Run(verdict=lambda one, text: False, injection=Spy()).rl()
    assert seen == [step / STEPS for step in range(STEPS) for _ in range(4)]


def test_what_is_remembered_survives_a_resumption(tmp_path):
    """The memory is in the checkpoint; without it another run would follow."""
    straight = Run(tmp_path / "straight", verdict=judge_easy, **RICH)
    straight.rl()
    memory = straight.checkpoints.latest().load()["memory"]
    assert memory["drawn"] > STEPS * 4
    assert memory["injection"]["problems"]
    assert memory["successes"]
    Run(tmp_path / "cut", stop_after=2, verdict=judge_easy, **RICH).rl()
    second = Run(tmp_path / "cut", verdict=judge_easy, **RICH)
    saved = second.checkpoints.latest()
    state = saved.load()
    second.rl(saved)
    assert equal(second.weights(), straight.weights())
    assert second.checkpoints.latest().load()["memory"] == memory
    assert second.measured() == straight.measured()[2:]

    class Forgetful:
        phase, step = saved.phase, saved.step

        def load(self):
            return {**state, "memory": {}}

    faulty = Run(verdict=judge_easy, **RICH)
    faulty.rl(Forgetful())
    assert not equal(faulty.weights(), straight.weights())


def test_a_resume_without_the_moments_would_differ(tmp_path, straight):
    """Trap 14: the optimiser is rebuilt and its moments lost."""
    first = Run(tmp_path, stop_after=SFT_STEPS + 2)
    first.sft()
    first.rl()
    latest = first.checkpoints.latest()
    faulty = Run()
    state = latest.load()
    for optimizer in state["optimizers"]:
        optimizer["state"] = {}

    class Forgetful:
        phase, step = latest.phase, latest.step

        def load(self):
            return state

    faulty.rl(Forgetful())
    assert not equal(faulty.weights(), straight.weights())
    assert faulty.log[0][2]["reward/mean"] == straight.log[SFT_STEPS + 2][2]["reward/mean"]  # the same rollouts


def test_one_optimiser_serves_all_rollout_phases(tmp_path):
    """Trap 14: its step count is phases x updates, and its schedule spans all of them."""
    run = Run(tmp_path)
    run.rl()
    (optimizer,) = run.checkpoints.latest().load()["optimizers"]
    assert {int(one["step"]) for one in optimizer["state"].values()} == {STEPS * 2}
    assert run.log[-1][2]["optimizer/lr"] < run.log[1][2]["optimizer/lr"]


def test_micro_batches_do_not_change_a_run():
    runs = []
    for score_rows in (1, 4, 64):
        run = Run(score_rows=score_rows, double=True)
        run.sft()
        run.rl()
        runs.append(run)
    for other in runs[1:]:
        for one, two in zip(runs[0].weights(), other.weights(), strict=True):
            assert torch.allclose(one, two, atol=1e-9)
    assert abs(runs[0].log[-1][2]["policy/loss"]) > 1e-5


def test_no_global_generator_is_used():
    run = Run()
    with global_generators_untouched():
        run.sft()
        run.rl()


def test_evaluations_come_first_in_between_and_last():
    run = Run()
    run.rl(evaluate=lambda policy: {"eval/x/pass@1": 0.5}, evaluate_every=3)
    assert [step for step, _, metrics in run.log if "eval/x/pass@1" in metrics] == [0, 3, 4]


def test_the_last_step_is_evaluated_once(tmp_path):
    run = Run(tmp_path)
    run.rl(evaluate=lambda policy: {"eval/x/pass@1": 0.5}, evaluate_every=2)
    assert [step for step, _, metrics in run.log if "eval/x/pass@1" in metrics] == [0, 2, 4]
    assert run.checkpoints.latest().step == 4


def test_every_batch_can_be_watched():
    seen = []
    Run().rl(watch=lambda step, batch: seen.append((step, len(batch), batch.advantage is not None)))
    assert seen == [(step, 16, True) for step in range(1, STEPS + 1)]


# optimisers -----------------------------------------------------------------------------------------------------------


def test_muon_takes_block_matrices_and_adamw_the_rest():
    model = TinyDenoiser()
    adamw, muon = Optimizer(name="muon").build(model)
    matrices = {
        name
        for name, weight in model.named_parameters()
        if any(weight is one for one in muon.param_groups[0]["params"])
    }
    assert matrices == {f"blocks.0.{name}.weight" for name in "qkvo"}
    rest = {
        name
        for name, weight in model.named_parameters()
        if any(weight is one for one in adamw.param_groups[0]["params"])
    }
    assert matrices | rest == dict(model.named_parameters()).keys()
    assert "head.weight" in rest
    with pytest.raises(ValueError, match="muon found no 2-D weights"):
        Optimizer(name="muon").build(torch.nn.Linear(2, 2))


def test_frozen_weights_are_left_alone():
    model = TinyDenoiser()
    model.tokens.weight.requires_grad_(False)
    (adamw,) = Optimizer().build(model)
    assert not any(model.tokens.weight is one for one in adamw.param_groups[0]["params"])
    with pytest.raises(ValueError, match="no trainable weights"):
        Optimizer().build(model.requires_grad_(False))


def test_coarse_weights_are_warned_about():
    with pytest.warns(UserWarning, match="bfloat16"):
        Optimizer().build(TinyDenoiser().bfloat16())


@pytest.mark.parametrize(
    ("schedule", "half", "last"), [("constant", 1.0, 1.0), ("linear", 0.6, 0.2), ("cosine", 0.6, 0.2)]
)
def test_schedules(schedule, half, last):
    options = Optimizer(warmup=4, schedule=schedule, final=0.2)
    shares = [options.share(step, 25) for step in range(25)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[14] == pytest.approx(half)
    assert shares[-1] == pytest.approx(last)
    assert all(a >= b for a, b in pairwise(shares[4:]))


def test_a_gradient_that_is_not_finite_is_refused_and_counted():
    model = TinyDenoiser()
    updater = Updater(Accelerator(cpu=True), model, Optimizer(lr=0.1, warmup=0), 10)
    before = copy.deepcopy(model.state_dict())
    (model.head.weight.sum() * math.nan).backward()
    metrics = updater.step()
    assert metrics["optimizer/skipped"] == 1.0
    assert "optimizer/grad_norm" not in metrics
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    model.head.weight.sum().backward()
    assert updater.step()["optimizer/skipped"] == 0.0
    assert not torch.equal(before["head.weight"], model.head.weight)
    assert model.head.weight.isfinite().all()


def test_gradients_are_clipped_to_the_norm():
    model = torch.nn.Linear(3, 1)
    updater = Updater(Accelerator(cpu=True), model, Optimizer(clip=0.2), 10)
    (model(torch.ones(1, 3)) * 100).sum().backward()
    seen = []
    updater.optimizers[0].optimizer.register_step_pre_hook(
        lambda *_: seen.append(math.sqrt(sum(float(one.grad.square().sum()) for one in model.parameters())))
    )
    assert updater.step()["optimizer/grad_norm"] == pytest.approx(200.0)
    assert seen == [pytest.approx(0.2, abs=1e-4)]


def test_a_checkpoint_of_another_model_is_refused():
    accelerator = Accelerator(cpu=True)
    state = Updater(accelerator, TinyDenoiser(), Optimizer(), 1).state_dict()
    with pytest.raises(ValueError, match=r"differ from the model's in 14 names"):
        Updater(accelerator, torch.nn.Linear(2, 2), Optimizer(), 1).load_state_dict(state)


def test_the_meter_adds_parts_and_averages_updates():
    meter = Meter(lambda values: torch.stack([values, values]))  # two equal ranks
    for update in range(2):
        for _ in range(3):
            meter.add({"policy/loss": 0.5 + update, "policy/ratio_max": 1.0 + update})
        meter.close({"optimizer/lr": float(update)})
    assert meter.flush() == {"policy/loss": 6.0, "policy/ratio_max": 2.0, "optimizer/lr": 0.5}
    assert meter.flush() == {}


# two processes --------------------------------------------------------------------------------------------------------


OWN = {"injection": Full(), "hints_from": "own-success"}


def judge_now_and_then(one, text) -> bool:
    """One text in eight, so that a problem which was right once is stuck later."""
    return derive(one.key, text) % 8 == 0


def both_phases(path: str) -> None:
    """A plain run, one with hints from own successes alone, and one with refilled groups and hints that adapt."""
    torch.set_num_threads(1)
    for kind, run in (
        ("plain", Run(double=True, score_rows=3)),
        ("own", Run(Path(path) / "own", double=True, verdict=judge_now_and_then, **OWN)),
        ("rich", Run(Path(path) / "rich", double=True, score_rows=3, verdict=judge_easy, **RICH)),
    ):
        if kind == "plain":
            run.sft()
        run.rl()
        name = f"{kind}-{run.accelerator.process_index}-of-{run.accelerator.num_processes}"
        memory = run.checkpoints.latest().load()["memory"] if run.checkpoints else {}
        torch.save((run.weights(), run.measured(), memory), f"{path}/{name}")


def launch(path: str) -> None:
    debug_launcher(both_phases, (path,), num_processes=2)


def test_two_processes_train_like_one(tmp_path):
    # The launcher forks, so it gets a fresh process without threads.
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path),))
    launched.start()
    launched.join(240)
    assert launched.exitcode == 0
    both_phases(str(tmp_path))
    for kind in ("plain", "own", "rich"):
        weights, logged, memory = torch.load(tmp_path / f"{kind}-0-of-1")
        for name in (f"{kind}-0-of-2", f"{kind}-1-of-2"):
            other_weights, other_logged, other_memory = torch.load(tmp_path / name)
            assert other_memory == memory
            for one, two in zip(weights, other_weights, strict=True):
                assert torch.allclose(one, two, atol=1e-8)
            for (step, phase, metrics), (other_step, other_phase, other) in zip(logged, other_logged, strict=True):
                assert (step, phase) == (other_step, other_phase)
                assert other == pytest.approx(metrics, abs=1e-6)
        if kind == "own":
            assert any(metrics.get("hint/shown", 0.0) > 0 for _, _, metrics in logged)
    assert memory["drawn"] > STEPS * 4
    assert memory["injection"]["problems"]
    assert memory["successes"]
    assert {"gradient/hint", "hint/kl", "policy/estimate_variance"} <= set().union(*(row for _, _, row in logged))
    assert max(abs(metrics["policy/loss"]) for _, _, metrics in logged) > 1e-5
