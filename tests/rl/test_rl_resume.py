"""Resumption beyond the straight case: other world sizes, shards, dropout, changed options, a full disk, the best one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from rl_tiny import EOS, MASK, PAD, TinyDenoiser, problems
from test_rl_checkpoint import Room
from test_rl_trainer import SFT_STEPS, STEPS, WIDTH, Run, equal

from igpo_rl.checkpoint import Checkpoints
from igpo_rl.sft import SFT
from igpo_rl.shards import load_optimizer, spread, whole
from igpo_rl.testing import global_generators_untouched
from igpo_rl.trainer import Optimizer, Updater, train_sft


def test_dropout_draws_the_same_after_a_resumption(tmp_path):
    def fine_tune(run: Run, resume=None) -> None:
        with global_generators_untouched():
            train_sft(
                SFT(steps=SFT_STEPS, batch=8),
                run.policy,
                [(one.prompt, one.trace) for one in problems(8)],
                accelerator=run.accelerator,
                optimizer=Optimizer(lr=0.01, warmup=0),
                routine=run.routine(),
                width=WIDTH,
                mask_id=MASK,
                eos_id=EOS,
                pad_id=PAD,
                resume=resume,
            )

    def with_dropout(share: float, *folder: Path, **options) -> Run:
        run = Run(*folder, **options)
        run.policy.dropout.p = share
        return run

    straight, none = with_dropout(0.5), with_dropout(0.0)
    fine_tune(straight)
    fine_tune(none)
    assert not equal(straight.weights(), none.weights())
    first = with_dropout(0.5, tmp_path, stop_after=2)
    fine_tune(first)
    torch.rand(3)  # whatever else draws in between
    second = with_dropout(0.5)
    fine_tune(second, first.checkpoints.latest())
    assert equal(second.weights(), straight.weights())


def test_options_of_the_optimiser_are_those_of_the_resumed_run(tmp_path):
    """Moments come from the checkpoint, weight decay does not."""
    Run(tmp_path, stop_after=2).rl()
    saved = Run(tmp_path).checkpoints.latest()
    ends = []
    for decay in (0.1, 0.1, 0.9):
        run = Run()
        run.rl(saved, Optimizer(lr=3e-3, warmup=2, schedule="linear", clip=1.0, weight_decay=decay))
        ends.append(run.weights())
    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    accelerator = Accelerator(cpu=True)
    state = Updater(accelerator, TinyDenoiser(), Optimizer(), 1).state_dict()
    with pytest.raises(ValueError, match=r"tokens.weight is \(8, 16\) and the model's \(8, 32\)"):
        Updater(accelerator, TinyDenoiser(width=32), Optimizer(), 1).load_state_dict(state)
    with pytest.raises(ValueError, match="has 1 optimisers and muon makes 2"):
        Updater(accelerator, TinyDenoiser(), Optimizer(name="muon"), 1).load_state_dict(state)
    (optimizer,) = Optimizer().build(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="moments of other weights"):
        load_optimizer(optimizer, state["optimizers"][0])


def test_a_full_disk_does_not_end_the_training(tmp_path):
    straight = Run()
    straight.rl()
    run, said = Run(tmp_path), []

    def full_from_the_third_step(step: int, batch) -> None:
        if step == 3:
            room.__enter__()

    room = Room(2_000)
    try:
        assert run.rl(watch=full_from_the_third_step, say=said.append) == STEPS
    finally:
        room.__exit__()
    assert equal(run.weights(), straight.weights())
    assert [text[:34] for text in said] == [f"NO CHECKPOINT of igpo step {step} could" for step in (3, 4)]
    assert "File too large" in said[0]
    saved = run.checkpoints.latest(say=said.append)
    assert (saved.step, len(said)) == (2, 2)
    again = Run()
    again.rl(saved)
    assert equal(again.weights(), straight.weights())


def test_logs_are_on_the_disk_before_a_checkpoint_says_that_they_are(tmp_path):
    run, order = Run(tmp_path), []

    def flush() -> None:
        order.append((len(run.log), [path.name for path in tmp_path.glob("igpo-*")]))

    run.rl(flush=flush)
    assert [logged for logged, _ in order] == [1, 2, 3, 4]
    assert all(f"igpo-{logged}" not in there for logged, there in order)


def test_the_best_checkpoint_is_written_where_it_was_measured(tmp_path):
    run, values = Run(tmp_path), iter([0.1, 0.7, 0.3])
    run.checkpoints = Checkpoints(folder=tmp_path, keep=1, best="eval/x/pass@1")
    routine = run.routine(evaluate=lambda policy: {"eval/x/pass@1": next(values)}, evaluate_every=2)
    object.__setattr__(routine, "save_every", 3)
    run.routine = lambda **_: routine
    run.rl()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["igpo-2", "igpo-4"]
    best = run.checkpoints.best_of("igpo")
    assert (best.step, best.metrics) == (2, {"eval/x/pass@1": 0.7})


def test_a_metric_that_is_never_measured_cannot_be_the_best(tmp_path):
    run = Run(tmp_path)
    run.checkpoints = Checkpoints(folder=tmp_path, best="eval/y/pass@1")
    with pytest.raises(
        ValueError, match=r"best = 'eval/y/pass@1' is not among what evaluations measure: eval/x/pass@1"
    ):
        run.rl(evaluate=lambda policy: {"eval/x/pass@1": 0.5}, evaluate_every=2)


# World sizes ----------------------------------------------------------------------------------------------------------


def pieces(updater: Updater, batch: range) -> None:
    """One optimiser step on whole numbers, without anything that is not the updater's."""
    mine = batch[updater.accelerator.process_index :: updater.accelerator.num_processes]
    tokens = torch.tensor([[number % 8, (number * 3) % 8, (number * 5) % 8] for number in mine])
    read = updater.module(tokens, torch.ones_like(tokens).bool(), torch.arange(tokens.numel()))
    updater.accelerator.backward(read.double().logsumexp(1).mean())
    for optimizer in updater.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    updater.done += 1


def sharded(module: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import fully_shard

    for block in module.blocks:
        for part in block.values():
            fully_shard(part)
    return fully_shard(module)


def updater_of(wrap, steps: int, saved=None) -> Updater:
    accelerator = Accelerator(cpu=True)
    module = wrap(TinyDenoiser().double()) if wrap else accelerator.prepare_model(TinyDenoiser().double())
    updater = Updater(accelerator, module, Optimizer(lr=0.01), 10)
    if saved is not None:
        updater.load_state_dict(saved.load())
    for number in range(updater.done, steps):
        pieces(updater, range(number, number + 8))
    return updater


def with_two(path: str) -> None:
    """Both directions under DDP and with shards."""
    torch.set_num_threads(1)
    folder = Path(path)
    main = Accelerator(cpu=True).is_main_process
    run = Run(folder / "ddp", double=True, stop_after=2)
    run.rl()
    run = Run(double=True)
    run.rl(Checkpoints(folder=folder / "one").latest())
    if main:
        torch.save(run.weights(), folder / "one-then-two")
    for name, wrap in (("plain", None), ("shards", sharded)):
        state = updater_of(wrap, 2).state_dict()
        if main:
            Checkpoints(folder=folder / name).save("igpo", 2, state)
        saved = Checkpoints(folder=folder / "single").latest()
        updater = updater_of(wrap, 4, saved)
        if name == "shards":
            assert hasattr(next(updater.module.parameters()), "full_tensor")
        state = updater.state_dict()
        if main:
            torch.save(state, folder / f"{name}-after-single")
        else:
            assert name == "plain" or next(iter(state["weights"].values())) is None


def launch(path: str) -> None:
    debug_launcher(with_two, (path,), num_processes=2)


def close(one, two) -> bool:
    """Trees of tensors and plain values."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(close, one, two))
    return torch.allclose(one, two, atol=1e-8) if isinstance(one, torch.Tensor) else one == two


def test_a_checkpoint_is_read_by_another_number_of_processes(tmp_path):
    straight = Run(double=True)
    straight.rl()
    Run(tmp_path / "one", double=True, stop_after=2).rl()
    single = updater_of(None, 2).state_dict()
    Checkpoints(folder=tmp_path / "single").save("igpo", 2, single)
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path),))
    launched.start()  # the launcher forks, so it gets a fresh process without threads
    launched.join(240)
    assert launched.exitcode == 0
    assert close(torch.load(tmp_path / "one-then-two"), straight.weights())
    back = Run(double=True)
    back.rl(Checkpoints(folder=tmp_path / "ddp").latest())
    assert close(back.weights(), straight.weights())
    end = updater_of(None, 4).state_dict()
    for name in ("plain", "shards"):
        saved = Checkpoints(folder=tmp_path / name).latest()
        assert close(saved.load(), single)
        assert close(updater_of(None, 4, saved).state_dict(), end)
        assert close(torch.load(tmp_path / f"{name}-after-single"), end)
    assert not close(single, end)


def test_without_shards_nothing_is_copied():
    weight = torch.ones(3)
    assert whole({"a": [weight, 2]})["a"][0] is weight
    assert spread(weight, torch.zeros(3)) is weight
