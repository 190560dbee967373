from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen, validators
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igpo_cli.config import FLAG, Config, Draft, presets, resolve, sources
from igpo_cli.errors import UsageError
from igpo_cli.hookspecs import hookimpl
from igpo_cli.main import run
from igpo_cli.options import brief, from_text
from igpo_cli.plugins import Catalogue, Row
from igpo_data import Verifier
from igpo_sampling.samplers import LLaDASampler, RandomSampler

CATALOGUE = Catalogue.installed()
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write run.toml in a directory of its own, which becomes the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("run.toml").write_text(text)
        return Path("run.toml")

    return write


def tiny(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Config:
    return resolve("tiny", file, flags or {}, CATALOGUE)


def reload(config: Config, path: Path) -> Config:
    path.write_text(config.to_toml())
    return resolve(None, path, {}, CATALOGUE)


# Precedence and origins ----------------------------------------------------------------------------------------------


def test_defaults_then_preset_then_file_then_flags(write: Write) -> None:
    config = tiny({"sampler.max_rows": "9", "group": "4"}, write("width = 30\n[sampler]\nblock = 5\nmax_rows = 8\n"))
    assert config.plugin("sampler") == LLaDASampler(steps=13, block=5, temperature=1.0, stop_at_eos=False, max_rows=9)
    assert (config.run.width, config.igpo["group"], config.igpo["prompts"]) == (30, 4, tiny().igpo["prompts"])
    found = {key: config.origins[f"sampler.{key}"] for key in ("stop_at_eos", "steps", "block", "max_rows")}
    assert found == {"stop_at_eos": "default", "steps": "preset tiny", "block": "run.toml", "max_rows": FLAG}
    assert (config.origins["width"], config.origins["group"]) == ("run.toml", FLAG)


def test_every_value_has_one_origin() -> None:
    def leaves(values: Mapping[str, Any], path: str = "") -> set[str]:
        tables = {key for key, value in values.items() if isinstance(value, dict)}
        below = set().union(*(leaves(values[key], f"{path}{key}.") for key in tables))
        return {f"{path}{key}" for key in values.keys() - tables} | below

    for name in presets():
        config = resolve(name, None, {}, CATALOGUE)
        assert leaves(config.values) == set(config.origins)


def test_a_file_may_name_its_preset_and_the_flag_goes_over_it(write: Write) -> None:
    file = write('preset = "paper-llada"\nwidth = 128\n')
    config = resolve(None, file, {}, CATALOGUE)
    assert (config.run.width, config.igpo["prompts"], config.values["model"]["name"]) == (128, 64, "llada")
    config = resolve("tiny", file, {}, CATALOGUE)
    assert (config.run.width, config.igpo["prompts"], config.values["model"]["name"]) == (
        128,
        tiny().igpo["prompts"],
        "tiny",
    )


def test_without_preset_a_model_must_be_chosen_but_only_when_it_is_needed(write: Write) -> None:
    config = resolve(None, write("width = 64\n"), {}, CATALOGUE)
    assert config.plugin("sampler") == LLaDASampler()
    with pytest.raises(UsageError, match=r"no model is chosen\. Choose one with --model NAME or \[model\] name"):
        config.plugin("model")


def test_plug_in_files_add_up(write: Write) -> None:
    file = write('plugins = ["a_idea.py"]\n')
    for name in ("a_idea", "b_idea"):
        Path(f"{name}.py").write_text(
            "from igpo_data.hookspecs import hookimpl\n@hookimpl\ndef igpo_tasks():\n"
            f"    return {{'{name}': 'igpo_data.tasks.lists:Lists'}}\n"
        )
    catalogue = Catalogue.installed()
    config = resolve("tiny", file, {"plugins": ["b_idea.py"], "task": "b_idea"}, catalogue)
    assert config.run.plugins == ("a_idea.py", "b_idea.py")
    assert {"a_idea", "b_idea"} <= set(catalogue.names("task"))


# Another plug-in than the lower source's -----------------------------------------------------------------------------


def test_a_new_name_keeps_what_the_new_plug_in_has_too() -> None:
    config = tiny({"sampler": "random"})
    assert config.plugin("sampler") == RandomSampler(steps=13, block=25, temperature=1.0)
    assert config.notes == ()


def test_a_new_name_drops_what_the_new_plug_in_lacks_and_notes_it() -> None:
    config = tiny({"injection": "resample"})
    assert config.values["injection"] == {"name": "resample"}
    assert config.notes == ("[injection] low, high of preset tiny dropped: not meant for 'resample'",)


def test_a_new_name_drops_what_means_something_else_to_the_new_plug_in(write: Write) -> None:
    config = resolve("paper-llada", None, {"task": "gsm8k"}, CATALOGUE)
    assert config.plugin("task").path is None  # and not the hub's name of the other data set
    with pytest.raises(UsageError, match=r"\[task\] needs a value for 'path': set it there, or with --task\.path"):
        resolve("paper-llada", None, {"task": "jsonl"}, CATALOGUE)
    assert resolve("paper-llada", None, {"task": "jsonl", "task.path": "x"}, CATALOGUE).plugin("task").path == "x"


def test_keys_of_the_source_that_chose_the_plug_in_are_never_dropped(write: Write) -> None:
    with pytest.raises(UsageError, match=r"run\.toml: unknown key 'low' in \[injection\]"):
        tiny({}, write('[injection]\nname = "resample"\nlow = 0.1\n'))
    with pytest.raises(UsageError, match=r"no option --injection\.low \(igpo plugins show injection resample\)"):
        tiny({"injection.low": "0.1"}, write('[injection]\nname = "resample"\n'))


def test_a_scope_drops_silently_what_its_own_plug_in_lacks(write: Write) -> None:
    config = tiny({"chunker.tail": "join"}, write('[eval.heldout.injection]\nname = "none"\n'))
    assert config.plugin("injection", "eval.heldout") != config.plugin("injection")
    assert config.notes == ()


def test_a_flag_that_changes_the_sampler_drops_keys_of_the_presets_scopes() -> None:
    config = tiny({"sampler": "coin", "sampler.block": "5"})
    assert config.plugin("sampler").block == 5
    assert config.plugin("sampler", "eval.heldout").temperature == 0.0
    assert config.notes == ("[sampler] steps of preset tiny dropped: not meant for 'coin'",)


# Tables that override others -----------------------------------------------------------------------------------------


def test_sft_and_evaluations_override_single_values(write: Write) -> None:
    text = '[sft.task]\nseed = 5\n[eval.hard]\nsamples = 4\n[eval.hard.sampler]\nname = "random"\nsteps = 25\n'
    config = tiny({"sampler.max_rows": 7, "eval.heldout.samples": "2"}, write(text))
    assert (config.plugin("task").seed, config.plugin("task", "sft").seed) == (0, 5)
    assert config.plugin("sampler", "sft") is config.plugin("sampler")
    assert config.plugin("sampler", "eval.hard") == RandomSampler(steps=25, block=25, temperature=1.0, max_rows=7)
    assert config.plugin("sampler", "eval.heldout") == LLaDASampler(steps=13, block=25, temperature=0.0, max_rows=256)
    assert config.evals() == (*tiny().evals(), "hard")
    assert (config.evaluation("heldout").samples, config.evaluation("hard").samples) == (2, 4)
    assert config.section("optimizer").name == "adamw"
    assert config.section("optimizer", "sft").name == "muon"
    assert config.section("optimizer", "sft").clip == config.section("optimizer").clip == 1.0
    assert config.section("prompt", "eval.hard") is config.section("prompt")


def test_an_evaluation_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"no evaluation named 'helddout'. Did you mean 'heldout'\?"):
        tiny().evaluation("helddout")
    with pytest.raises(UsageError, match=r"no evaluation named 'helddout'. Did you mean --eval.heldout\?"):
        tiny({"eval.helddout.samples": "4"})
    assert tiny({"eval.common.split": "common"}).evaluation("common").split == "common"


# Plug-ins whose options are plug-ins ---------------------------------------------------------------------------------


@frozen(kw_only=True)
class Vote:
    """Several verifiers vote."""

    voters: tuple[Verifier, ...]
    """Who votes."""
    referee: Verifier
    """Who settles a tie."""
    quorum: int = field(default=1, validator=validators.ge(1))
    """Votes that are needed."""

    def __call__(self) -> None: ...


def with_vote() -> Catalogue:
    plugin = types.ModuleType("vote_plugin")
    plugin.igpo_verifiers = hookimpl(specname="igpo_verifiers")(lambda: {"vote": f"{__name__}:Vote"})  # type: ignore[attr-defined]
    catalogue = Catalogue.installed()
    catalogue.add(plugin, Row(distribution="vote", version="1", target="vote_plugin"))
    return catalogue


VOTE = """
[verifier]
name = "vote"
quorum = 2
referee = { name = "numeric", tolerance = 0.5 }
[[verifier.voters]]
name = "exact"
ignore_case = true
[[verifier.voters]]
name = "vote"
voters = []
referee = "exact"
"""


def test_nested_tables_become_nested_plug_ins(write: Write) -> None:
    catalogue = with_vote()
    file = write(VOTE)
    config = resolve("tiny", file, {}, catalogue)
    vote = config.plugin("verifier")
    assert (vote.referee.tolerance, vote.voters[0].ignore_case, vote.quorum) == (0.5, True, 2)
    assert type(vote.voters[1].referee).__name__ == "Exact"
    assert config.origins["verifier.referee.tolerance"] == "run.toml"
    assert config.values["verifier"]["voters"][1]["referee"]["name"] == "exact"
    file.write_text(config.to_toml())
    assert resolve(None, file, {}, catalogue) == config


def test_errors_in_nested_tables_say_where(write: Write) -> None:
    for text, problem in (
        (VOTE.replace("tolerance = 0.5", "tolerance = -1"), "[verifier.referee] tolerance = -1.0 must be >= 0"),
        (
            VOTE.replace("tolerance", "tolerence"),
            "unknown key 'tolerence' in [verifier.referee]; did you mean 'tolerance'?",
        ),
        (
            VOTE.replace("ignore_case = true", "ignore_case = 1"),
            "[verifier.voters] ignore_case = 1 must be true or false",
        ),
        (
            VOTE.split("[[")[0] + "voters = 'exact'",
            '[verifier] voters = "exact" must be a list of tables with the name of a verifier',
        ),
        (VOTE.split("[[")[0] + "voters = [3]", "[verifier] voters = [3] must be a list of tables"),
        ("[verifier]\nname = 'vote'\nvoters = []\nreferee = 3", "[verifier] referee = 3 must be a table with"),
        (VOTE.replace('"numeric"', '"numerc"'), "no verifier named 'numerc'. Did you mean 'numeric'?"),
    ):
        with pytest.raises(UsageError) as caught:
            resolve("tiny", write(text), {}, with_vote())
        assert problem in str(caught.value)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[sampler]\nstepz = 5",
            "run.toml: unknown key 'stepz' in [sampler]; did you mean 'steps'? (igpo plugins show sampler llada)",
        ),
        ("stepz = 5", "run.toml: unknown key 'stepz'; did you mean 'steps'? (igpo config show)"),
        ("[samplr]\nsteps = 5", "run.toml: unknown table [samplr]; did you mean [sampler]? (igpo config show)"),
        (
            "[sft.samplr]\nsteps = 5",
            "run.toml: unknown table [sft.samplr]; did you mean [sft.sampler]? (igpo config show)",
        ),
        ("[optimizer]\nrate = 5", "run.toml: unknown key 'rate' in [optimizer] (igpo config show)"),
        ("[eval.heldout]\nsample = 5", "run.toml: unknown key 'sample' in [eval.heldout]; did you mean 'samples'?"),
        ("group = 1.5", "run.toml: group = 1.5 must be a whole number"),
        ("[sampler]\nsteps = true", "run.toml: [sampler] steps = true must be a whole number"),
        ("[sampler]\nsteps = '5'", 'run.toml: [sampler] steps = "5" must be a whole number'),
        ("[sampler]\nsteps = 0", "run.toml: [sampler] steps = 0 must be >= 1"),
        (
            "[sampler]\nblock = 512",
            "run.toml: [sampler] block = 512 is wider than the completion, width = 25. Use at most 25.",
        ),
        (
            "[eval.heldout.sampler]\nblock = 26",
            "run.toml: [eval.heldout.sampler] block = 26 is wider than the completion",
        ),
        ("replace = 2", "run.toml: replace = 2.0 must be <= 1"),
        ("dtype = 'float8'", "run.toml: dtype = \"float8\" must be 'float32' or 'bfloat16' or 'float64'"),
        ("[optimizer]\nbetas = [0.9]", "run.toml: [optimizer] betas = [0.9] must be a list of 2 numbers"),
        ("trackers = 'wandb'", 'run.toml: trackers = "wandb" must be a list of texts'),
        ("plugins = [1]", "run.toml: plugins = [1] must be a list of texts"),
        ("[eval.heldout]\nlimit = 'many'", 'run.toml: [eval.heldout] limit = "many" must be a whole number or none'),
        ("[sampler]\nname = 3", "run.toml: [sampler] name = 3 must be text"),
        ("sampler = 3", "run.toml: 'sampler' must be a table, [sampler], and not 3"),
        ("[eval]\nsamples = 3", "run.toml: 'eval.samples' must be a table, [eval.samples], and not 3"),
        ("preset = 3", "run.toml: preset = 3 must be text"),
        ('[eval."a.b"]\nsamples = 3', 'run.toml: [eval."a.b"] has a dot in its name. Leave it out.'),
        ("steps = x", "run.toml: not valid TOML: Invalid value (at line 1, column 9)"),
        (
            "[prompt]\ntemplate = 'x'",
            "run.toml: [prompt] template = 'x' has no place for the question. Put {prompt} there.",
        ),
        ("[chunker]\nlow = 30", "run.toml: [chunker] low = 30 is above high = 10"),
    ],
)
def test_a_file_is_refused_with_file_table_and_key(write: Write, text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny({}, write(text))
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (
            {"sampler.stepz": "5"},
            "no option --sampler.stepz; did you mean --sampler.steps? (igpo plugins show sampler llada)",
        ),
        ({"stepz": "5"}, "no option --stepz; did you mean --steps? (igpo config show)"),
        ({"sampler.steps": "5.5"}, '--sampler.steps "5.5" must be a whole number'),
        ({"sampler.steps": "0"}, "--sampler.steps 0 must be >= 1"),
        ({"score_rows": "0"}, "--score-rows 0 must be >= 1"),
        ({"sampler.block": "512"}, "--sampler.block 512 is wider than the completion, width = 25. Use at most 25."),
        ({"optimizer.betas": "0.9,x"}, '--optimizer.betas [0.9, "x"] must be a list of 2 numbers'),
        ({"sampler": "lada"}, "no sampler named 'lada'. Did you mean 'llada'? Installed: "),
        ({"model": "llada", "task": "jsonl"}, "[task] needs a value for 'path': set it there, or with --task.path"),
    ],
)
def test_a_flag_is_refused_as_it_was_typed(flags: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny(flags)
    assert str(caught.value).startswith(problem)


def test_files_and_presets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file 'nowhere\.toml'"):
        tiny({}, Path("nowhere.toml"))
    with pytest.raises(UsageError, match=r"no preset named 'tinny'. Did you mean 'tiny'\? There are: "):
        resolve("tinny", None, {}, CATALOGUE)


def test_keys_without_a_chosen_plug_in(write: Write) -> None:
    with pytest.raises(
        UsageError, match=r"run.toml: \[task\] path is set, but no task is chosen. Choose one with --task"
    ):
        resolve(None, write("[task]\npath = 'x'\n"), {}, CATALOGUE)


def test_an_option_called_name_cannot_be() -> None:
    @frozen(kw_only=True)
    class Named:
        name: str = "x"

    globals()["Named"] = Named
    plugin = types.ModuleType("named_plugin")
    plugin.igpo_tasks = hookimpl(specname="igpo_tasks")(lambda: {"named": f"{__name__}:Named"})  # type: ignore[attr-defined]
    catalogue = Catalogue.installed()
    catalogue.add(plugin, Row(distribution="named", version="1", target="named_plugin"))
    with pytest.raises(UsageError, match="task 'named' has an option 'name', by which tasks are chosen"):
        resolve("tiny", None, {"task": "named"}, catalogue)


def test_a_refusal_at_work_is_traced_to_its_source(write: Write) -> None:
    config = tiny({"eval.heldout.sampler.temperature": 0.5}, write("[sampler]\nblock = 20\n"))
    error = ValueError("block = 20 is wider than the completion, width = 10. Use at most 10.")
    assert str(config.refuse("sampler", error)) == f"run.toml: [sampler] {error}"
    assert str(config.refuse("sft.sampler", error)) == f"run.toml: [sampler] {error}"
    error = ValueError("temperature = 0.5 is odd")
    assert str(config.refuse("eval.heldout.sampler", error)) == "--eval.heldout.sampler.temperature 0.5 is odd"
    assert str(config.refuse("sampler", ValueError("out of luck"))) == "[sampler] out of luck"


# Round trips ---------------------------------------------------------------------------------------------------------


def options_of(draft: Draft) -> dict[str, tuple[Any, str]]:
    """Dotted path -> type and bounds of every plain option of a draft."""
    return {
        f"{path}.{key}".strip("."): (option.type, option.bounds)
        for path, table in draft.tables.items()
        for key, option in table.options.items()
        if option.kind is None and key not in ("plugins", "template")
    }


NUMBERS = {int: st.integers(1, 25), float: st.floats(0.01, 0.99), bool: st.booleans()}


@st.composite
def some_flags(draw: st.DrawFn) -> dict[str, Any]:
    """Plug-ins and values for the tiny preset which every validator takes."""
    names = {
        "sampler": ["llada", "random"],
        "injection": ["none", "resample", "full", "uniform-chunks"],
        "filter": ["keep-all", "top-entropy"],
        "eval.heldout.verifier": ["exact", "numeric", "derivation"],
    }
    flags: dict[str, Any] = {
        path: draw(st.sampled_from(choices)) for path, choices in names.items() if draw(st.booleans())
    }
    draft = Draft(sources("tiny", None, flags), CATALOGUE)
    plain = {path: type_ for path, (type_, _) in options_of(draft).items() if type_ in NUMBERS and "low" not in path}
    plain = {path: type_ for path, type_ in plain.items() if path.rpartition(".")[0] != "model" and "high" not in path}
    for path in draw(st.lists(st.sampled_from(sorted(plain)), max_size=6, unique=True)):
        if path not in ("width", "sampler.block", "eval.heldout.sampler.block", "verifier.memory"):
            flags[path] = draw(NUMBERS[plain[path]])
    if draw(st.booleans()):
        flags["prompt.system"] = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=8))
        flags["prompt.template"] = draw(st.text(st.characters(codec="utf-8"), max_size=8)) + "{prompt}"
        flags["trackers"] = draw(st.lists(st.sampled_from(["wandb", "trackio"]), max_size=2))
        flags["eval.heldout.limit"] = draw(st.none() | st.integers(1, 9))
    return flags


QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(flags=some_flags())
def test_run_toml_gives_the_same_run_again(flags: dict[str, Any], tmp_path: Path) -> None:
    config = tiny(flags)
    again = reload(config, tmp_path / "run.toml")
    assert again == config
    assert again.notes == ()
    assert tomllib.loads(config.to_toml()) == config.values


@QUICK
@given(flags=some_flags())
def test_flags_are_toml(flags: dict[str, Any], tmp_path: Path) -> None:
    """The same values typed behind flags, and written at their path in a file."""
    import tomli_w

    document: dict[str, Any] = {}
    for path, value in flags.items():
        *parents, key = (
            [*path.split("."), "name"] if isinstance(value, str) and "prompt" not in path else path.split(".")
        )
        node = document
        for part in parents:
            node = node.setdefault(part, {})
        node[key] = "none" if value is None else value
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(document))
    typed = {path: value if isinstance(value, str) else brief(value) for path, value in flags.items()}
    typed = {path: "[]" if value == "none" and path == "trackers" else value for path, value in typed.items()}
    assert tiny(typed) == tiny({}, file) == tiny(flags)


def test_none_is_written_and_read(write: Write) -> None:
    assert tiny().evaluation("heldout").limit is not None
    config = tiny({"eval.heldout.limit": "none"})
    assert config.evaluation("heldout").limit is None
    assert 'limit = "none"' in config.to_toml()
    assert reload(config, write("")) == config


def test_numbers_keep_their_type(write: Write) -> None:
    config = tiny({}, write("replace = 1\n[sampler]\ntemperature = 0\n"))
    assert (config.igpo["replace"], type(config.igpo["replace"])) == (1.0, float)
    assert config.values["sampler"]["temperature"] == 0.0
    assert from_text("1e3", int) == "1e3"


# The command ---------------------------------------------------------------------------------------------------------


def test_show_prints_toml_with_origins(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write('[injection]\nname = "resample"\n')
    assert run(["config", "show", "run.toml", "--preset", "tiny", "--group=4", "--eval.heldout.samples", "3"]) == 0
    out = capsys.readouterr().out
    config = resolve("tiny", Path("run.toml"), {"group": 4, "eval.heldout.samples": 3}, CATALOGUE)
    assert tomllib.loads(out) == config.values
    lines = out.splitlines()
    assert [line.split() for line in lines if line.startswith("group =")] == [["group", "=", "4", "#", "flag"]]
    assert [line.split()[-1] for line in lines if line.startswith('name = "resample"')] == ["run.toml"]
    assert lines[-1] == "# note: [injection] low, high of preset tiny dropped: not meant for 'resample'"


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == tiny().values  # a bare command is the preset tiny


def test_check_tells_by_its_exit_code(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("[sampler]\nstepz = 1\n")
    assert run(["config", "check", "run.toml"]) == 2
    assert run(["config", "check", "--injection", "none"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok: model tiny, sampler llada")
    assert "warning: [injection] low, high of preset tiny dropped" in err


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_hold_and_are_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "--preset", name]) == 0
    assert run(["config", "presets", "--json"]) == 0
    out = capsys.readouterr().out
    rows = {row["name"]: row["description"] for row in json.loads(out[out.index("[") :])}
    assert len(rows[name]) > 40


def test_the_paper_preset_has_the_values_of_the_paper() -> None:
    config = resolve("paper-llada", None, {}, CATALOGUE)
    igpo, sampler, optimizer = config.igpo, config.plugin("sampler"), config.section("optimizer")
    assert (igpo["group"], igpo["prompts"], igpo["updates"], igpo["replace"]) == (8, 64, 4, 0.5)
    assert (config.run.width, sampler.steps, sampler.block, sampler.temperature) == (256, 128, 32, 1.2)
    assert (optimizer.lr, optimizer.warmup, optimizer.betas, optimizer.clip) == (5e-7, 50, (0.9, 0.99), 0.2)
    assert (config.plugin("chunker").low, config.plugin("chunker").high) == (5, 10)
    assert (config.plugin("injection").low, config.plugin("injection").high) == (0.2, 0.6)
    assert (config.plugin("loss").beta, config.plugin("loss").eps_low, config.plugin("filter").tau) == (0.01, 0.2, 0.2)
    assert config.evaluation("amc").samples == 16
    assert config.plugin("sampler", "eval.amc").temperature == 0.1
    assert config.plugin("sampler", "eval.gsm8k").temperature == 0.0
