"""Whole runs on weights that accelerate's FSDP2 spreads over two processes give the run of one.

accelerate leaves FSDP out on a CPU, though torch's works there, over gloo; so the tests switch it on by hand.
"""

import multiprocessing
import os

import pytest
import torch
from test_launch import same_run, words

from igpo_cli.main import run

FULL = ["--loss.beta", "0.1", "--score-rows", "3", "--sft.optimizer.name", "adamw"]  # Muon multiplies in bfloat16
LORA = [*FULL, "--lora.rank", "2"]


def spread(path: str, name: str, more: list[str]) -> None:
    """One of two processes; what is patched is accelerate's choice, nothing of ours."""
    from accelerate import FullyShardedDataParallelPlugin

    from igpo_cli import training
    from igpo_rl import fsdp, scores

    torch.set_num_threads(1)
    place = str(torch.distributed.get_rank())
    os.environ |= {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    prepare = fsdp.prepare

    def switched_on(accelerator, module):
        accelerator.state.__dict__["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LLaDABlock"],
            cpu_ram_efficient_loading=False,
            reshard_after_forward=True,
        )
        accelerator.state.__dict__["distributed_type"] = "FSDP"
        return prepare(accelerator, module)

    fsdp.prepare, training.sharded = switched_on, lambda: True
    scores.most_logits = lambda _: 1  # the smallest chunks, of which ranks have unequally many
    code = run(words(path, name, *more))
    assert code == 0


def launch(path: str, name: str, more: list[str]) -> None:
    from accelerate import debug_launcher

    os.environ["OMP_NUM_THREADS"] = "1"
    debug_launcher(spread, (path, name, more), num_processes=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("more", [FULL, LORA], ids=["full weights", "adapters"])
def test_spread_weights_give_the_run_of_one(tmp_path, more):
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path), "two", more))
    launched.start()
    assert run(words(tmp_path, "one", *more)) == 0
    launched.join(250)
    assert launched.exitcode == 0
    assert (
        "weights are spread over 2 processes; rollouts gather them once a phase"
        in (tmp_path / "two" / "log.txt").read_text()
    )
    same_run(tmp_path / "one", tmp_path / "two")
