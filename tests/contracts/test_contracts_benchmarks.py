"""The benchmark harness measures what it says, and every case runs; its figures are nobody's to assert."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import torch
from benchmarks import __main__, device, gpu_rollout, gpu_step, gpu_update, harness
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from igpo_sampling import LLaDASampler
from igpo_sampling.models.llada_network import LLaDAConfig


def test_compare_times_both_sides() -> None:
    row = harness.compare("sleep", lambda: time.sleep(0.002), lambda: time.sleep(0.05), repeats=3)
    assert row["ratio"] == pytest.approx(row["baseline_s"] / row["ours_s"])
    assert row["ratio"] > 2  # 25 on a machine that does nothing else
    assert row["ours_s"] >= 0.002


def test_peak_memory_sees_a_short_peak_and_nothing_else() -> None:
    megabytes = 64
    peak = harness.peak_mb(lambda: len(bytearray(b"x") * (megabytes << 20)))
    if peak is None:
        pytest.skip("this kernel does not report peak memory")
    assert peak == pytest.approx(megabytes, rel=0.2)
    assert harness.peak_mb(lambda: None) < 8


def test_a_section_of_the_report_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    report = tmp_path / "performance.md"
    report.write_text("# Performance\n\nWords.\n")
    for case, text in (("a", "old \\1"), ("b", "other"), ("a", "new \\1")):
        harness.write(case, text, report)
    assert report.read_text() == (
        "# Performance\n\nWords.\n\n<!-- begin a -->\nnew \\1\n<!-- end a -->\n\n<!-- begin b -->\nother\n<!-- end b -->\n"
    )


def test_a_table_leaves_out_what_was_not_measured() -> None:
    row = harness.Row(case="c", ours_s=0.5, baseline_s=None, ratio=None, ours_mb=None, baseline_mb=1234.5, note="n")
    head, rule, body = harness.table([row]).splitlines()
    assert [cell.strip() for cell in body.strip("|").split("|")] == ["c", "0.5", "", "", "", "1234", "n"]
    assert len(head) == len(rule) == len(body)


def test_memory_and_warming_up_may_take_a_smaller_run() -> None:
    calls: list[str] = []
    row = harness.compare(
        "c",
        lambda: calls.append("ours"),
        lambda: calls.append("baseline"),
        repeats=2,
        small=(lambda: calls.append("small ours"), lambda: calls.append("small baseline")),
    )
    assert calls == ["small ours", "small baseline", *("ours", "baseline") * 2]
    assert row["ratio"] is not None


def test_a_case_that_this_machine_cannot_run_says_why_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert __main__.run_here("gpu_rollout", quick=False)["skipped"].startswith("no GPU at hand")
    before = harness.REPORT.read_bytes()
    monkeypatch.setattr(harness, "run_apart", __main__.run_here)
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu_rollout"])
    __main__.main()
    assert capsys.readouterr().out.startswith("gpu_rollout: no GPU at hand")
    assert harness.REPORT.read_bytes() == before


def test_a_case_that_fails_costs_no_other_case_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def apart(case: str, quick: bool) -> dict[str, object]:
        if case == "rollout":
            raise subprocess.CalledProcessError(-9, case)
        return {"name": case, "about": "", "rows": "| a table |", "machine": ""}

    monkeypatch.setattr(harness, "run_apart", apart)
    monkeypatch.setattr(harness, "REPORT", tmp_path / "performance.md")
    monkeypatch.setattr("sys.argv", ["benchmarks", "draws", "rollout", "step"])
    with pytest.raises(SystemExit, match=r"rollout \(exit code -9\)"):
        __main__.main()
    assert "| a table |" in capsys.readouterr().out
    report = harness.REPORT.read_text()
    assert [case in report for case in ("## draws", "## rollout", "## step")] == [True, False, True]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_operations_of_a_rollout_are_counted_as_torch_counts_them(cache: str) -> None:
    """With few heads of the keys, a short last block, and 16 rows, so that no head product is padded."""
    config = LLaDAConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=96, vocab_size=101)
    model = device.network(config, "cpu", torch.float32)
    blank = device.canvas(101, 16, prompt=5, width=14, device="cpu")
    sampler = LLaDASampler(steps=4, block=8, temperature=1.0, cache=cache)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the CPU's own is not counted
        counted = gpu_rollout.sample(model, blank, sampler)
    assert counted.flops == counter.get_total_flops()


def test_what_needs_a_gpu_runs_on_a_cpu_but_for_the_device() -> None:
    steps = gpu_step.rows("cpu", device.SMALL, (2, 3), 40, 8, "eager")
    assert len(steps) == 4 + len(gpu_step.KERNELS) + 3
    made = [row for row in steps if row["ours_s"] is not None]
    assert len(made) >= len(steps) - 2  # a CPU has two of the kernels
    assert [row["note"] for row in made[4:]] == ["100.0% of tokens equal"] * len(made[4:])
    rollouts = gpu_rollout.rows("cpu", device.SMALL, 2, 5, 64, 8)
    assert all(row["ratio"] and "tokens a second" in row["note"] for row in rollouts)
    assert len(rollouts) == 6
    assert all(row["ratio"] for row in gpu_update.rows("cpu", device.SMALL, 4, 16, 2))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", harness.cases())
def test_a_case_runs(case: str) -> None:
    result = harness.run_apart(case, quick=True)
    if "skipped" in result:
        pytest.skip(result["skipped"])
    assert result["name"]
    assert result["about"]
    assert result["rows"]
    assert harness.section(result).startswith("## ")
