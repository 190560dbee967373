"""The benchmark harness measures what it says, and every case runs; its figures are nobody's to assert."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from benchmarks import harness


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", harness.cases())
def test_a_case_runs(case: str) -> None:
    result = harness.run_apart(case, quick=True)
    assert result["name"]
    assert result["about"]
    assert result["rows"]
    assert harness.section(result).startswith("## ")
