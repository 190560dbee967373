"""The examples for schedulers in docs/distributed.md: their scripts run up to torchrun, whose own parser reads the rest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from markdown_blocks import blocks
from torch.distributed.run import get_args_parser

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
JOBS = {
    job["kind"]: job for block in blocks(PAGE) if block.language == "yaml" for job in yaml.safe_load_all(block.text)
}
TEMPLATES = {
    "PyTorchJob": lambda job: job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"],
    "Job": lambda job: job["spec"]["template"],
}
ENVIRONMENT = {
    "SLURM_JOB_NODELIST": "node-[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_JOB_ID": "17",
    "SLURM_RESTART_COUNT": "1",
    "JOB_COMPLETION_INDEX": "1",
}
COMMANDS = {
    "torchrun": "printf '%s\\n' \"$@\"",
    "srun": 'exec "$@"',
    "scontrol": "printf 'node-1\\nnode-2\\n'",
}


def container(kind: str) -> dict:
    (found,) = TEMPLATES[kind](JOBS[kind])["spec"]["containers"]
    return found


def script(name: str) -> str:
    if name in JOBS:
        (text,) = container(name)["args"]
        return text
    (block,) = [block for block in blocks(PAGE) if "#SBATCH" in block.text]
    return block.text


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("name", ["SLURM", *TEMPLATES])
def test_the_script_starts_the_run_or_goes_on_with_it(name, begun, tmp_path):
    run = tmp_path / "runs" / "big"
    run.mkdir(parents=True)
    if begun:
        (run / "run.toml").touch()
    for command, body in COMMANDS.items():
        (tmp_path / command).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / command).chmod(0o755)
    text = script(name).replace("/data", str(tmp_path))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ended = subprocess.run(
        ["bash", "-uc", text], env=ENVIRONMENT | path, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    asked = get_args_parser().parse_args(ended.stdout.splitlines())
    assert (asked.module, asked.training_script) == (True, "igpo_cli")
    words = [word.replace(f"{tmp_path}/", "") for word in asked.training_script_args]
    folder = [] if name == "SLURM" else ["--folder", "runs"]
    assert words == (["train", "--resume", "runs/big"] if begun else ["train", "run.toml", *folder, "--name", "big"])
    if name != "PyTorchJob":  # there the operator says it, by environment variables
        assert (asked.nnodes, asked.nproc_per_node, asked.max_restarts) == ("2", "8", 3)
        first = {"SLURM": "node-1:29500", "Job": "igpo-0.igpo:29500"}[name]
        assert (asked.rdzv_backend, asked.rdzv_endpoint) == ("c10d", first)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_volumes_that_are_mounted_are_there(kind):
    mounts = {mount["name"] for mount in container(kind)["volumeMounts"]}
    assert mounts == {volume["name"] for volume in TEMPLATES[kind](JOBS[kind])["spec"]["volumes"]}


def test_what_belongs_together_says_the_same():
    job, operated = JOBS["Job"], JOBS["PyTorchJob"]["spec"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert job["spec"]["template"]["spec"]["subdomain"] == job["metadata"]["name"] == "igpo"
    replicas = operated["pytorchReplicaSpecs"]["Worker"]["replicas"]
    assert replicas == operated["elasticPolicy"]["minReplicas"] == operated["elasticPolicy"]["maxReplicas"]
    for kind in TEMPLATES:
        assert container(kind)["resources"]["limits"]["nvidia.com/gpu"] == int(operated["nprocPerNode"])
