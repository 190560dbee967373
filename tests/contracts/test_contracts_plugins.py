"""Every installed plug-in keeps the promises of its kind, the example package's among them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from igpo_cli.plugins import KINDS, Catalogue, Row
from igpo_data import Exact, Numeric, Task
from igpo_data import testing as data
from igpo_rl import testing as rl
from igpo_sampling import testing as sampling

ROOT = Path(__file__).parents[2]
CATALOGUE = Catalogue.installed()
TWELVE = Task(
    key="12",
    prompt="How many?",
    answer="12",
    trace="5 + 7 = 12 #### 12",
    answer_spans=((16, 18),),
    meta={
        "tests": "assert count() == 12",
        "choices": ["11", "12"],
        "numbers": [5, 7],
        "target": 12,
        "entry": {"question": "How many?", "answer": "12", "metadata": {"source_dataset": "gsm_symbolic"}},
    },
)
RIGHT = {
    "derivation": TWELVE.trace,
    "change": "5 + 5 + 1 + 1",
    "countdown": "#### 5 + 7",
    "json-field": '{"answer": 12}',
    "code": "def count():\n    return 12\n",
}
"""What each verifier takes for right; the others read a statement of the answer."""
CHECKS = {
    "sampler": lambda plugin, _: sampling.check_sampler(plugin),
    "chunker": lambda plugin, _: rl.check_chunker(plugin),
    "injection": lambda plugin, _: rl.check_injection(plugin),
    "filter": lambda plugin, _: rl.check_filter(plugin),
    "estimator": lambda plugin, _: rl.check_estimator(plugin),
    "loss": lambda plugin, _: rl.check_loss(plugin),
    "verifier": lambda plugin, name: data.check_verifier(plugin, TWELVE, right=[RIGHT.get(name, "#### 12")]),
}
"""Models and task sources need files or minutes; their packages check them."""
OPTIONS = {
    "sampler": {"block": 4},
    "regex": {"pattern": "#### {answer}$"},
    "all-of": {"parts": (Numeric(), Exact())},
    "weighted": {"parts": (Numeric(), Exact()), "weights": (1.0, 0.5)},
}
"""By kind or by name."""


def rows(*kinds: str) -> list[object]:
    return [pytest.param(row, id=f"{row.kind}-{row.name}") for row in CATALOGUE.rows if row.kind in kinds]


def test_every_plugin_loads_and_all_kinds_are_there() -> None:
    assert CATALOGUE.warnings == []
    assert {row.kind for row in CATALOGUE.rows} == set(KINDS)
    assert [row for row in CATALOGUE.rows if row.status != "ok"] == []


@pytest.mark.parametrize("row", rows(*CHECKS))
def test_a_plugin_keeps_the_promises_of_its_kind(row: Row) -> None:
    plugin = CATALOGUE.load(row.kind, row.name)(**OPTIONS.get(row.name, OPTIONS.get(row.kind, {})))
    CHECKS[row.kind](plugin, row.name)


@pytest.mark.parametrize(
    ("kind", "name", "target"), [("sampler", "coin", "sampler:CoinSampler"), ("verifier", "change", "verifier:Change")]
)
def test_the_example_package_comes_through_its_entry_point(kind: str, name: str, target: str) -> None:
    row = CATALOGUE.find(kind, name)
    assert (row.distribution, row.version, row.target) == ("igpo-coin", "1.0", f"igpo_coin.{target}")


def igpo(*words: str) -> str:
    ended = subprocess.run([Path(sys.executable).with_name("igpo"), *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_command_lists_the_example_package_and_a_single_file() -> None:
    found = {
        (row["kind"], row["name"]): row for row in json.loads(igpo("plugins", "--json", "--plugin", "examples/mine.py"))
    }
    assert found["sampler", "coin"]["distribution"] == "igpo-coin"
    assert found["verifier", "change"]["target"] == "igpo_coin.verifier:Change"
    assert found["injection", "fading-prefix"]["status"] == "ok"


def test_the_command_shows_the_options_of_the_example_package() -> None:
    shown = igpo("plugins", "show", "sampler", "coin")
    assert "patience" in shown
    assert "1.0" in shown


def test_a_run_with_the_example_package_and_a_single_file(tmp_path: Path) -> None:
    """Sampler and verifier come by entry point, then the injection from a file, both by name."""
    coins = [{"prompt": f"pay {amount}", "answer": str(amount)} for amount in range(1, 17)]
    (tmp_path / "coins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in coins))
    small = [
        "--sft.steps",
        "0",
        "--steps",
        "1",
        "--prompts",
        "2",
        "--group",
        "2",
        "--sampler",
        "coin",
        "--trackers",
        "",
    ]
    small += [
        "--sampler.block",
        "8",
        "--eval.heldout.limit",
        "2",
        "--eval.common.limit",
        "2",
        "--folder",
        str(tmp_path),
    ]
    change = ["--task", "jsonl", "--task.path", str(tmp_path / "coins.jsonl"), "--verifier", "change", "--width", "8"]
    igpo("train", "--name", "coins", *change, "--injection", "none", *small, "--eval.common.split", "test")
    igpo("train", "--name", "lists", "--plugin", "examples/mine.py", "--injection", "fading-prefix", *small)
    for name, chosen in (("coins", {"coin", "change"}), ("lists", {"coin", "fading-prefix"})):
        values = tomllib.loads((tmp_path / name / "run.toml").read_text())
        assert chosen <= {table["name"] for table in values.values() if isinstance(table, dict) and "name" in table}
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert any("stuck/before" in line for line in lines)
