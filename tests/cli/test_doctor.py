from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from a_distribution import install, sampler

from igpo_cli.main import run


def findings(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[tuple[str, str], tuple[str, str]]:
    assert run(["doctor", "--json", *argv]) == code
    found = json.loads(capsys.readouterr().out)
    return {(each["topic"], each["name"]): (each["state"], each["detail"]) for each in found}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path, like site-packages."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_plugin", raising=False)
    return tmp_path


def test_a_healthy_installation(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)
    assert found["version", "igpo-cli"] == ("ok", "0.1.0")
    assert found["folder", "runs"][0] == "ok"
    assert found["plug-in", "loaded"][0] == "ok"
    assert {state for state, _ in found.values()} <= {"ok", "absent"}
    assert any(topic == "device" for topic, _ in found)


def test_trouble_with_plug_ins_is_found(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sampler("bold").replace("@frozen", "import nowhere_to_be_found\n@frozen")
    install(site, "acme", "from igpo_sampling.hookspecs import hookimpl\n" + LATE)
    (site / "acme_late.py").write_text(source)
    found = findings(capsys, code=1)
    state, detail = found["plug-in", "sampler bold"]
    assert (state, "nowhere_to_be_found" in detail, "(acme 1.0)" in detail) == ("error", True, True)
    assert found["plug-in", "sampler llada"] == ("warning", "claimed twice (igpo-sampling 0.1.0)")
    assert "unknown hook 'igpo_smaplers'" in found["plug-in", "hooks"][1]


LATE = """
@hookimpl
def igpo_samplers():
    return {"bold": "acme_late:Bold", "llada": "igpo_sampling.samplers:LLaDASampler"}

@hookimpl
def igpo_smaplers():
    return {}
"""


def test_a_distribution_that_does_not_load(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "acme", "1 / 0")
    assert findings(capsys, code=1)["plug-in", "acme"] == ("error", "ZeroDivisionError: division by zero (acme 1.0)")


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert findings(capsys, "--folder", str(tmp_path / "a" / "b"))["folder", str(tmp_path / "a" / "b")][0] == "ok"
    state, detail = findings(capsys, "--folder", "/proc/runs", code=1)["folder", "/proc/runs"]
    assert (state, detail.endswith("choose another with --folder")) == ("error", True)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["doctor"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert [line.split()[0] for line in page.splitlines() if line[:1].strip()] == [
        "version",
        "plug-in",
        "device",
        "folder",
        "tracker",
    ]
