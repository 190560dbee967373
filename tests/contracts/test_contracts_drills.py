"""The drills in short; `make drill` has them at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from drills.kills import SFT_STEPS, moments
from drills.runs import STEPS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [["kills", "--kills", "6"], ["damage", "disk", "faults", "--damages", "3", "--disks", "1"], ["processes"]],
)
def test_drill(tmp_path, options):
    ended = subprocess.run(
        [sys.executable, "-m", "drills", *options, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAIL" not in ended.stdout
    assert "drills passed" in ended.stdout


@pytest.mark.parametrize("count", [1, 4, 50])
def test_kills_are_spread_over_the_run(count):
    found = moments(count, 0, 0.2)
    assert len(found) == count
    assert found[-1].wish == "model"
    assert found[-1].step == SFT_STEPS + STEPS
    assert count < 50 or {each.wish for each in found} == {None, "save", "rollout", "update", "start-up", "model"}
    assert count < 50 or len({each.step for each in found}) > 25
    assert moments(count, 1, 0.2) != found
