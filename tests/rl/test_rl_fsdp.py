"""Weights spread over two processes by torch's own `fully_shard`, over gloo: the run of one process."""

from __future__ import annotations

import multiprocessing
from functools import reduce

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from rl_tiny import EOS, MASK, PAD, Player, TinyDenoiser, problems

from igpo_rl import fsdp
from igpo_rl.chunkers import RandomLength
from igpo_rl.estimators import RandomMask
from igpo_rl.exchange import Exchange
from igpo_rl.igpo import IGPO, identity
from igpo_rl.losses import GRPO
from igpo_rl.sft import SFT
from igpo_rl.splice import stack
from igpo_rl.trainer import Optimizer, Routine, gather_with, train, train_sft

WIDTH = 12


def judge(one, text) -> bool:
    return len(text) > 6 and text[0] == one.key[0]


def shard(policy):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in policy.blocks:
        for layer in block.values():  # a ModuleDict has no forward of its own
            fully_shard(layer, mesh=mesh)
    return fully_shard(policy, mesh=mesh)


def both_phases(path: str, once: bool | None, name: str) -> None:
    """SFT, then RL; with `once` not None on shards. A play is a forward a row, so ranks run unequally many."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    gather = gather_with(accelerator)
    policy = TinyDenoiser().double()
    policy = policy if once is None else shard(policy)
    rollouts = fsdp.Rollouts.of(policy, gather, once)
    assert rollouts.once is bool(once)
    assert once is None or fsdp.Rollouts.of(policy, gather).once  # a CPU is taken to have room
    room = 0 if once is None else fsdp.needed(policy)
    forwards, logged, plays = [], [], []
    policy.register_forward_pre_hook(lambda *_: forwards.append(1))

    def play(rows, overlay, seeds):
        before = len(forwards)
        with rollouts.within(policy) as forward:
            player = Player(forward, WIDTH, judge)
            parts = [
                player(rows[row : row + 1], None if overlay is None else overlay[row : row + 1], seeds[row : row + 1])
                for row in range(len(rows))
            ]
            result = reduce(stack, parts) if parts else player(rows, overlay, seeds)
        plays.append((max(1, len(rows)), len(forwards) - before))
        return result

    routine = Routine(log=lambda step, phase, metrics: logged.append((step, phase, dict(metrics))))
    train_sft(
        SFT(steps=2, batch=4, score_rows=1),
        policy,
        [(one.prompt, one.trace) for one in problems(8)],
        accelerator=accelerator,
        optimizer=Optimizer(lr=1e-2, warmup=1, clip=1.0),
        routine=routine,
        width=WIDTH,
        mask_id=MASK,
        eos_id=EOS,
        pad_id=PAD,
    )
    train(
        IGPO(
            group=4,
            prompts=4,
            updates=2,
            score_rows=3,
            chunker=RandomLength(low=2, high=3),
            estimator=RandomMask(low=0.2),
            loss=GRPO(beta=0.05),
        ),
        policy,
        TinyDenoiser(seed=1).double(),
        play,
        problems(8),
        accelerator=accelerator,
        optimizer=Optimizer(lr=3e-3, warmup=2, clip=1.0),
        routine=routine,
        steps=3,
        mask_id=MASK,
        exchange=identity
        if once is None
        else lambda play: play if once else Exchange(everyone, accelerator.process_index)(play),
        rolling=rollouts.phase,
    )
    fsdp.dissolve(policy, wanted=accelerator.is_main_process)
    weights = {name: weight.detach() for name, weight in policy.named_parameters()}
    torch.save((weights, logged, plays, room), f"{path}/{name}-{accelerator.process_index}")


def everyone(value):
    from accelerate.utils import gather_object

    return gather_object([value])


def both_ways(path: str) -> None:
    for once in (True, False):
        both_phases(path, once, f"once-{once}")


def launch(path: str) -> None:
    debug_launcher(both_ways, (path,), num_processes=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    # The launcher forks, so it gets a fresh process without threads.
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(folder),))
    launched.start()
    launched.join(200)
    assert launched.exitcode == 0
    both_phases(str(folder), None, "one")
    return folder


@pytest.mark.parametrize("once", [True, False])
def test_shards_on_two_processes_train_like_one(runs, once):
    weights, logged, *_ = torch.load(runs / "one-0")
    sharded = [torch.load(runs / f"once-{once}-{rank}") for rank in (0, 1)]
    assert max(float((weight - sharded[0][0][name]).abs().max()) for name, weight in weights.items()) < 1e-9
    assert {weight.device.type for weight in sharded[1][0].values()} == {"meta"}
    for _, other, *_ in sharded:
        for (step, phase, metrics), (other_step, other_phase, others) in zip(logged, other, strict=True):
            assert (step, phase) == (other_step, other_phase)
            ours, theirs = ({k: v for k, v in each.items() if not k.startswith("time/")} for each in (metrics, others))
            assert theirs == pytest.approx(ours, abs=1e-9)
    assert max(abs(metrics.get("policy/loss", 0.0)) for _, _, metrics in logged) > 1e-5
    size = sum(weight.nbytes for weight in weights.values())
    assert sum(room for *_, room in sharded) == 2 * 2 * size + 3 * size
    (first, second) = (plays for _, _, plays, _ in sharded)
    if once:  # each rank runs what it needs; the ranks differ
        assert all(rows == ran for rows, ran in first + second)
        assert [rows for rows, _ in first] != [rows for rows, _ in second]
    else:  # as many as the rank that needs most
        assert [ran for _, ran in first] == [ran for _, ran in second]
        assert all(ran >= rows for rows, ran in first + second)


def test_a_policy_in_one_piece_is_left_alone():
    policy = TinyDenoiser()
    rollouts = fsdp.Rollouts.of(policy, lambda values: values[None])
    with rollouts.phase(), rollouts.within(policy) as forward:
        assert forward is policy
    assert not rollouts.once


def test_the_first_version_of_fsdp_is_refused():
    class Old:
        distributed_type, is_fsdp2 = "FSDP", False

    with pytest.raises(ValueError, match="set fsdp_version: 2"):
        fsdp.prepare(Old(), TinyDenoiser())
