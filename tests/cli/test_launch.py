"""Several processes through the real launcher give the run of one; what goes wrong ends all of them, and is said once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from igpo_cli import launch, precheck
from igpo_cli.config import resolve, shipped
from igpo_cli.errors import RunError, UsageError
from igpo_cli.lora import adapt
from igpo_cli.main import run
from igpo_cli.plugins import Catalogue
from igpo_cli.settings import LoRA
from igpo_sampling import Tiny

PLUGIN = Path(__file__).parent / "plugin_first_word.py"
BOTH = ["--sft.steps", "2", "--sft.batch", "4", "--task.sft-problems", "8", "--sft.optimizer.lr", "0.1"]


def words(folder, name, *more):
    """Both phases, few steps, T = 1 in float64: greedy groups are all alike and would prove nothing."""
    return [
        "train",
        *("--plugin", str(PLUGIN), "--verifier", "first-word", "--folder", str(folder), "--name", name),
        *("--steps", "3", "--prompts", "4", "--group", "4", "--updates", "2", "--loss.negative-weight", "1"),
        *("--dtype", "float64", "--sampler.steps", "5", "--task.train-problems", "12", "--eval.heldout.limit", "5"),
        *("--eval.common.limit", "4", "--rollouts-every", "1", "--trackers", "", *BOTH, *more),
    ]


def igpo(*argv, environment=None):
    """A process of its own: what a launcher does to signals and the environment stays there."""
    return subprocess.Popen(
        [sys.executable, "-m", "igpo_cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time")} for row in rows]


def same_run(one, two):
    """Numbers to 1e-9, tokens and texts exactly."""
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    steps = [row for row in metrics(one) if "policy/loss" in row]
    assert len(steps) == 3
    assert any(abs(row["policy/loss"]) > 1e-6 for row in steps)
    assert any(0 < row["stuck/before"] < 1 or row["hint/shown"] > 0 for row in steps)
    for file in ("rollouts/step-1.jsonl", "rollouts/step-3.jsonl", "eval/heldout.jsonl", "eval/common.jsonl"):
        assert (one / file).read_text() == (two / file).read_text()
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert max(float((weight - theirs[name]).abs().max()) for name, weight in ours.items()) < 1e-9


@pytest.mark.timeout(240)
def test_two_processes_give_the_run_of_one(tmp_path):
    two = igpo(*words(tmp_path, "two", "--score-rows", "3"), "--processes", "2")
    assert run(words(tmp_path, "one")) == 0
    out, err = two.communicate()
    assert two.returncode == 0, err
    assert len(re.findall("model saved to", out)) == 1
    same_run(tmp_path / "one", tmp_path / "two")
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["job"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_with_adapters_give_the_run_of_one(tmp_path):
    lora = ["--lora.rank", "2", "--loss.beta", "0.1"]
    two = igpo(*words(tmp_path, "two", *lora), "--processes", "2")
    assert run(words(tmp_path, "one", *lora)) == 0
    assert two.wait() == 0, two.stderr.read()
    same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_process_that_is_killed_takes_the_job_down(tmp_path):
    job = igpo(*words(tmp_path, "two", "--steps", "1000"), "--processes", "2")
    while not (tmp_path / "two" / "rollouts").exists():
        time.sleep(0.2)
        assert job.poll() is None
    processes = psutil.Process(job.pid).children()
    second = next(each for each in processes if each.environ()["RANK"] == "1")
    killed = time.monotonic()
    second.kill()
    _, err = job.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert job.returncode == 128 + signal.SIGKILL
    assert re.findall("error: .*", err) == [
        "error: process 1 of 2 was ended by SIGKILL, often for lack of memory, and so the run. "
        "Go on with igpo train --resume and the run's folder."
    ]
    assert not any(each.is_running() for each in processes)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_processes_of_a_launcher_that_is_killed_end_too(tmp_path):
    job = igpo(*words(tmp_path, "two", "--steps", "1000"), "--processes", "2")
    while not (tmp_path / "two" / "rollouts").exists():
        time.sleep(0.2)
        assert job.poll() is None
    processes = psutil.Process(job.pid).children()
    job.kill()
    assert psutil.wait_procs(processes, timeout=20)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_error_of_all_processes_is_shown_once_and_its_code_passed_on(tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "file").touch()
    job, verbose = (igpo(*more, *words(tmp_path, "held"), "--processes", "2") for more in ([], ["-v"]))
    _, err = job.communicate()
    assert job.returncode == 2
    said = f"error: {tmp_path / 'held'} is not empty. Continue with --resume {tmp_path / 'held'} or choose --name."
    assert [line for line in err.splitlines() if "error" in line] == [said]
    assert "Traceback" not in err
    _, err = verbose.communicate()
    assert verbose.returncode == 2
    assert err.count("Traceback") == 1
    assert said in err.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_accelerates_cpu_launch_is_refused(tmp_path):
    """It starts one process whatever --num_processes says, and says nothing."""
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes",
            "2",
            "-m",
            "igpo_cli",
            *words(tmp_path, "one"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode != 0
    assert "accelerate launch was asked for several processes and started one" in launched.stderr
    assert not (tmp_path / "one").exists()


# One process of a job, without the others ------------------------------------------------------------------------------


def test_accelerates_fsdp_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="accelerate ignores FSDP on a CPU"):
        launch.join("cpu")


def test_fewer_processes_than_asked_for_are_refused(monkeypatch):
    monkeypatch.setenv(launch.ASKED, "3")
    with pytest.raises(UsageError, match=r"3 processes were asked for, but there are 1\."):
        launch.join("cpu")


def test_a_job_that_is_launched_already_starts_no_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch.start(["train"], None, None, cpu=True) is None
    assert launch.start(["train"], 4, None, cpu=True) is None
    with pytest.raises(UsageError, match="--processes 2, but 4 were started"):
        launch.start(["train"], 2, None, cpu=True)
    with pytest.raises(UsageError, match="started by torchrun or accelerate launch"):
        launch.start(["train"], None, Path("fsdp.yaml"), cpu=True)


def test_one_process_is_started_by_nobody():
    assert launch.start(["train"], None, None, cpu=True) is None
    assert launch.start(["train"], 1, None, cpu=True) is None
    with pytest.raises(UsageError, match="--processes 0: there must be at least one"):
        launch.start(["train"], 0, None, cpu=True)


def test_what_cannot_be_shared_is_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "ranks", lambda: 3)
    with pytest.raises(UsageError, match=r"prompts = 4 cannot be shared by 3 processes; use 6, or 2 processes\."):
        launch.require_shares({"[sft] batch": 6, "prompts": 4})


def test_numbers_of_phases_that_are_left_out_need_not_be_shared(capsys):
    assert run(["train", "--sft.steps", "0", "--sft.batch", "5", "--prompts", "8", "--processes", "3"]) == 2
    assert "prompts = 8 cannot be shared by 3 processes; use 9, or 2 processes." in capsys.readouterr().err
    assert precheck.shared(resolve("tiny", None, {"sft.steps": "0"}, Catalogue.installed())).keys() == {"prompts"}
    assert precheck.shared(resolve("tiny", None, {"steps": "0"}, Catalogue.installed())).keys() == {"[sft] batch"}


def test_a_lost_connection_is_told_from_other_errors():
    assert launch.lost(RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert not launch.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not launch.lost(RunError("NCCL"))


# Files of accelerate's options -----------------------------------------------------------------------------------------

FILES = shipped("clusters", "yaml")


@pytest.mark.parametrize("name", sorted(FILES))
def test_accelerate_reads_the_files_that_come_with_igpo(name, monkeypatch):
    """Through its own parser, validation and environment, as far as a machine without GPUs goes."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands import launch as theirs
    from accelerate.utils.launch import prepare_multi_gpu_env
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    chosen = launch.read_accelerate(FILES[name])
    expected = {"ddp-8": (1, 8), "fsdp2-8": (1, 8), "fsdp2-8-grads": (1, 8), "fsdp2-2x8": (2, 16)}
    assert (chosen.num_machines, chosen.num_processes) == expected[name]
    words = ["--config_file", str(FILES[name]), "--num_processes", "8", "--module", "igpo_cli", "train"]
    args, _, _ = theirs._validate_launch_command(theirs.launch_command_parser().parse_args(words))
    assert args.multi_gpu or args.use_fsdp
    environment = prepare_multi_gpu_env(args)
    if name == "ddp-8":
        assert "ACCELERATE_USE_FSDP" not in environment
        return
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    for key, value in environment.items():
        if key.startswith(("FSDP", "ACCELERATE")):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward == (name != "fsdp2-8-grads")
    assert not plugin.cpu_ram_efficient_loading
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    model = Tiny(width=32, layers=2, heads=2)(vocabulary=["a"], seed=0).denoiser
    plugin.set_auto_wrap_policy(model)
    assert plugin.transformer_cls_names_to_wrap == ["LLaDABlock"]
    adapted = adapt(Tiny(width=32, layers=2, heads=2)(vocabulary=["a"], seed=0), LoRA(rank=2), 0)[0]
    other = FullyShardedDataParallelPlugin()
    other.set_auto_wrap_policy(adapted)
    assert other.transformer_cls_names_to_wrap == ["LLaDABlock"]


def test_the_files_are_listed_and_printed(capsys):
    assert run(["config", "accelerate", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == FILES.keys()
    assert run(["config", "accelerate", "fsdp2-8"]) == 0
    assert capsys.readouterr().out == FILES["fsdp2-8"].read_text()
    assert run(["config", "accelerate", "fsdp3"]) == 2
    assert "no file named 'fsdp3'. There are: ddp-8, fsdp2-2x8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: DEEPSPEED\nnum_processes: 2\n", "DeepSpeed's own engine is not supported"),
        ("distributed_type: FSDP\nuse_cpu: true\nnum_processes: 2\n", "accelerate would train without it"),
        ("distributed_type: [\n", "is no file of accelerate's options"),
    ],
)
def test_what_would_train_something_else_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text("compute_environment: LOCAL_MACHINE\n" + text)
    with pytest.raises(UsageError, match=said):
        launch.start(["train"], None, file, cpu=True)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"no file 'fsdp9'\. igpo config accelerate lists"):
        launch.start(["train"], None, Path("fsdp9"), cpu=True)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_file_for_a_cpu_starts_its_processes(tmp_path):
    """accelerate launch would start one."""
    file = tmp_path / "cpu.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 2\n"
    )
    two = igpo(*words(tmp_path, "two"), "--accelerate", str(file))
    assert run(words(tmp_path, "one")) == 0
    assert two.wait() == 0, two.stderr.read()
    same_run(tmp_path / "one", tmp_path / "two")


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_other_launchers_start_the_same_run(tmp_path):
    assert run(words(tmp_path, "one")) == 0
    for name, launcher in LAUNCHERS.items():
        argv = [sys.executable, "-m", *launcher, "-m", "igpo_cli", *words(tmp_path, name, "--device", "cpu")]
        launched = subprocess.run(
            argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        assert launched.returncode == 0, launched.stderr
        assert launched.stdout.count("model saved to") == 1
        same_run(tmp_path / "one", tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["0", "1"])
def test_a_launcher_that_starts_processes_anew_goes_on_with_the_jobs_own_run(tmp_path, killed):
    """The name is numbered, so a second run would get a folder of its own."""
    argv = words(tmp_path, "any", "--save-every", "1")
    argv.remove("--name")
    argv.remove("any")
    job = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("--max-restarts", "1", "-m", "igpo_cli", *argv),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "tiny-1"
    while not (folder / "checkpoints" / "igpo-1").exists():
        time.sleep(0.05)
        assert job.poll() is None
    next(each for each in psutil.Process(job.pid).children() if each.environ()["RANK"] == killed).kill()
    _, err = job.communicate()
    assert job.returncode == 0, err.partition("Traceback (most recent call last):")[0]  # what the processes said
    assert [each.name for each in tmp_path.iterdir()] == ["tiny-1"]
    assert "continues after igpo-" in (folder / "log.txt").read_text()
    assert run(words(tmp_path, "one", "--save-every", "1")) == 0
    same_run(tmp_path / "one", folder)
