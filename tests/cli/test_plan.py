"""The dry run: its counts are those of a real step of the same configuration, its bytes those of real tensors and files."""

import json
import multiprocessing
import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from attrs import asdict, evolve

from igpo_cli import speed
from igpo_cli.assemble import algorithm_of, load_model, player_of, problem_set
from igpo_cli.config import resolve
from igpo_cli.history import size
from igpo_cli.lora import adapt
from igpo_cli.main import run
from igpo_cli.plan import Job, figures_of, llada_8b, plan
from igpo_cli.plugins import Catalogue
from igpo_cli.problems import encode_pairs
from igpo_cli.rehearsal import Counted, Stage, by_gradient, graded, plainly, rehearse, stand_in
from igpo_cli.tasks import tasks_of, verifier_of
from igpo_cli.training import run as train
from igpo_rl.checkpoint import Checkpoints
from igpo_rl.cost import LLADA_8B, Count
from igpo_rl.exchange import Exchange
from igpo_rl.igpo import identity
from igpo_rl.memory import Room
from igpo_rl.seeds import permutation_stream
from igpo_rl.trainer import Routine, gather_with, train_sft

PLUGIN = Path(__file__).parent / "plugin_first_word.py"
CATALOGUE = Catalogue.installed()
CATALOGUE.add_file(str(PLUGIN))
SHARED = Path(__file__).parents[3] / "shared" / "data"
WIDTH = 25


@pytest.fixture(autouse=True)
def shortly(monkeypatch):
    """Speed is measured for a moment."""
    monkeypatch.setattr(speed, "PATIENCE", 0.05)


def small(**flags):
    """An untrained model, an easy verifier, and rows that never end."""
    values = {
        "verifier": "first-word",
        "steps": "3",
        "prompts": "4",
        "group": "4",
        "updates": "2",
        "sft.steps": "0",
        "task.train_problems": "12",
        "keep_zero_signal": "true",
        "sampler.steps": "7",
        "sampler.eos_after": str(WIDTH),
    }
    if "sampler" in flags:
        del values["sampler.steps"]  # not an option of those that are tried
    flags = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve("tiny", None, values | flags, CATALOGUE)


SETTINGS = [
    {},
    {"updates": "1", "group": "2", "estimator": "mean-field", "loss__beta": "0"},
    {"sampler__cache": "prefix", "sampler__block": "10", "play_rows": "6", "score_rows": "3"},
    {"sampler__cache": "dual", "sampler__block": "8", "estimator": "coupled", "updates": "3"},
    {"sampler": "threshold", "sampler__threshold": "1.0", "estimator": "elbo", "loss": "gspo", "attend_eos": "false"},
    {"sampler__guidance": "0.5", "injection": "none", "estimator__low": "0.5"},
    {"injection": "resample", "refills": "1", "measure": ["hint-kl"], "play_rows": "5"},
    {"estimator": "sandwich", "loss": "gspo"},
    {"estimator": "left-to-right", "estimator__block": "5"},
]
PARTS = ("rollout", "inpainting", "old", "reference", "update")


def real_step(config, step, stuck=None, ranks=1, accelerator=None):
    """One rank's counters of a step with the real model, and which groups were stuck; `stuck`: these are, whatever they write."""
    algorithm, loaded = algorithm_of(config), load_model(config)
    problems = problem_set(config, loaded, "train")
    rank = 0 if accelerator is None else accelerator.process_index
    gather = (lambda values: values[None]) if accelerator is None else gather_with(accelerator)
    exchange = Exchange(gathered, rank) if ranks > 1 else identity
    parts = {name: Counted(loaded.denoiser) for name in PARTS}
    order = permutation_stream(len(problems.problems), algorithm.seed, "igpo", start=step * algorithm.prompts)
    with verifier_of(config) as verifier:
        player = player_of(config, loaded, problems, verifier)

        def play(some, overlay, seeds):
            counted = parts["rollout" if overlay is None else "inpainting"]
            return evolve(player, within=lambda _: nullcontext(counted))(some, overlay, seeds)

        def judged(play, wrong):
            return play if stuck is None else graded(play, algorithm.group, wrong)

        batch = algorithm.collect(
            judged(play, [number // ranks for number in stuck or () if number % ranks == rank]),
            (problems.problems[index] for index in order),
            progress=step / 3,
            step=step,
            exchange=lambda play: judged(exchange(play), ()),
            gather=gather,
            rank=rank,
        )
    policy = by_gradient(parts["update"], parts["old"])
    room = Room(algorithm.score_rows)
    for _ in algorithm.learn(policy, parts["reference"], batch, step, mask_id=loaded.mask_id, gather=gather, room=room):
        pass
    return parts, batch.stuck.view(-1, algorithm.group)[:, 0].nonzero().flatten().tolist()


def gathered(value):
    from accelerate.utils import gather_object

    return gather_object([value])


def planned_step(config, step, stuck, ranks=1):
    algorithm, loaded = algorithm_of(config), load_model(config)
    plain = stand_in(loaded)
    alike = plainly(problem_set(config, loaded, "train"), plain)
    stage = Stage.of(config, plain, alike)
    return rehearse(algorithm, stage, alike.problems, stuck, step=step, steps=config.run.steps, ranks=ranks)


@pytest.mark.parametrize(("step", "groups"), [(0, 3), (2, 1)])
@pytest.mark.parametrize("flags", SETTINGS, ids=str)
def test_counts_are_those_of_a_real_step(flags, step, groups):
    config = small(**flags)
    parts, stuck = real_step(config, step, range(groups))
    planned = planned_step(config, step, stuck)
    assert planned.counts == {name: part.count for name, part in parts.items()}
    assert planned.counts["rollout"].inputs > planned.counts["old"].inputs > 0
    assert planned.most == {name: part.most for name, part in parts.items()}


def test_counts_are_those_of_a_step_that_a_verifier_judged():
    config = small()
    parts, stuck = real_step(config, 0)
    assert planned_step(config, 0, stuck).counts == {name: part.count for name, part in parts.items()}


def test_where_rows_of_a_group_are_read_together_the_stand_in_writes_them_alike():
    """A trajectory's first copy shows nothing and is the group's: it is read wherever some row was written first."""
    config = small(estimator="trajectory", estimator__steps="2")
    parts, stuck = real_step(config, 2, range(1))
    planned = planned_step(config, 2, stuck).counts
    for name, part in parts.items():
        assert evolve(planned[name], head=part.count.head) == part.count
        assert planned[name].head <= part.count.head <= 1.3 * planned[name].head


@pytest.mark.parametrize("groups", [0, 2, 4])
def test_counts_hold_for_any_share_of_stuck_groups(groups):
    """Without `keep_zero_signal`, so that what is stuck decides what is learned from too."""
    config = small(keep_zero_signal="false")
    parts, stuck = real_step(config, 1, range(groups))
    assert stuck == [*range(groups)]
    planned = planned_step(config, 1, stuck)
    assert planned.counts == {name: part.count for name, part in parts.items()}


SHARED_OUT = [
    {},
    {"estimator": "mean-field", "score_rows": "3"},
    {"estimator": "elbo", "loss": "gspo", "play_rows": "3"},
]


def of_two(path):
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    place = str(accelerator.process_index)
    os.environ |= {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    found = []
    for flags in SHARED_OUT:
        for groups in (0, 1, 2, 4):
            config = small(keep_zero_signal="false", **flags)
            parts, _ = real_step(config, 1, range(groups), 2, accelerator)
            found.append({name: asdict(part.count) for name, part in parts.items()})
    found.append(asdict(tuned(resolve("tiny", None, TUNED, CATALOGUE))))
    Path(path, place).write_text(json.dumps(found))


def start_two(path):
    debug_launcher(of_two, (path,), num_processes=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_counts_are_those_of_two_processes(tmp_path):
    """With one group stuck one of them has no stuck row of its own, and plays some of the other's."""
    launched = multiprocessing.get_context("spawn").Process(target=start_two, args=(str(tmp_path),))
    launched.start()
    launched.join(280)
    assert launched.exitcode == 0
    *steps, fine = zip(*(json.loads((tmp_path / rank).read_text()) for rank in "01"), strict=True)
    for flags in SHARED_OUT:
        for groups in (0, 1, 2, 4):
            config = small(keep_zero_signal="false", **flags)
            planned = planned_step(config, 1, range(groups), 2)
            first, second = ({name: Count(**count) for name, count in each.items()} for each in steps.pop(0))
            assert planned.counts == {name: first[name] + second[name] for name in PARTS}
    (work,) = plan(resolve("tiny", None, TUNED, CATALOGUE), Job(2)).work
    assert work.count == Count(**fine[0]) + Count(**fine[1])


def test_how_many_groups_are_stuck_decides_what_inpainting_takes():
    config = small(sampler__cache="none")
    algorithm, loaded = algorithm_of(config), load_model(config)
    plain = stand_in(loaded)
    alike = plainly(problem_set(config, loaded, "train"), plain)
    stage = Stage.of(config, plain, alike)
    spent = [rehearse(algorithm, stage, alike.problems, range(count)).counts["inpainting"] for count in range(5)]
    assert spent[0].inputs == 0
    assert [count.inputs for count in spent] == [4 * 7 * groups for groups in range(5)]
    assert sorted(count.head for count in spent) == [count.head for count in spent]


TUNED = {"sft.batch": "8", "sft.limit": "20", "sft.score_rows": "3", "steps": "0"}


def tuned(config):
    """What the first step of SFT asks of the real model, on this process."""
    loaded = load_model(config)
    tasks = tasks_of(config, "sft", "sft", 20)
    pairs, _ = encode_pairs(tasks, config.section("prompt", "sft"), loaded.tokenizer, WIDTH)
    seen = Counted(loaded.denoiser)

    class Policy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = loaded.denoiser

        def forward(self, *inputs):
            return seen(*inputs)

    train_sft(
        evolve(config.section("sft"), steps=1),
        Policy(),
        pairs,
        accelerator=Accelerator(cpu=True),
        optimizer=evolve(config.section("optimizer"), name="adamw"),
        routine=Routine(log=lambda *_: None),
        width=WIDTH,
        mask_id=loaded.mask_id,
        eos_id=loaded.eos_id,
        pad_id=loaded.pad_id,
    )
    return seen.count


def test_the_batch_of_fine_tuning_is_the_first_one():
    config = resolve("tiny", None, TUNED, CATALOGUE)
    made = plan(config)
    assert [(one.phase, one.part) for one in made.work] == [("sft", "update")]
    assert made.work[0].count == tuned(config)


@pytest.mark.parametrize("rank", ["0", "32"])
def test_bytes_are_those_of_real_tensors_and_files(rank, tmp_path):
    flags = {
        "lora__rank": rank,
        "model__width": "128",
        "folder": str(tmp_path),
        "trackers": [],
        "steps": "1",
        "save_every": "1",
        "name": "it",
    }
    config = small(
        **flags,
        rollouts_every="0",
        sft__steps="2",
        sft__batch="4",
        sft__limit="16",
        eval__heldout__limit="1",
        eval__common__limit="1",
    )
    made = plan(config)
    assert not list(tmp_path.iterdir())
    folder = train(config)
    for phase, step in (("sft", 2), ("igpo", 1)):
        state = Checkpoints(folder=folder / "checkpoints").latest(phase).load()
        weights = sum(weight.nbytes for weight in state["weights"].values())
        moments = sum(
            value.nbytes
            for optimizer in state["optimizers"]
            for one in optimizer["state"].values()
            for value in one.values()
            if isinstance(value, torch.Tensor) and value.ndim
        )
        assert weights == made.memory["gradients"]
        assert weights + moments == made.disk[f"checkpoint of {phase}"]
        file = (folder / "checkpoints" / f"{phase}-{step}" / "state.pt").stat().st_size
        assert file == pytest.approx(made.disk[f"checkpoint of {phase}"], rel=0.04)
    assert made.memory["reference"] == (0 if rank == "32" else made.memory["weights"])
    assert (folder / "model" / "model.safetensors").stat().st_size == pytest.approx(made.disk["model"], rel=0.02)
    assert size(folder / "checkpoints") == pytest.approx(made.disk["checkpoints kept"], rel=0.04)


def test_a_plan_of_a_run_shows_what_was_measured(tmp_path, capsys):
    flags = [
        "--folder",
        str(tmp_path),
        "--name",
        "it",
        "--steps",
        "2",
        "--sft.steps",
        "1",
        "--sft.limit",
        "20",
        "--trackers",
        "",
    ]
    flags += ["--prompts", "2", "--eval.heldout.limit", "1", "--eval.common.limit", "1", "--task.train-problems", "8"]
    assert run(["train", *flags]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    for command in (["train", str(tmp_path / "it" / "run.toml")], ["train", "--resume", str(tmp_path / "it")]):
        assert run([*command, "--dry-run", "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert made["measured"].keys() == {
            *("sft learning", "igpo rollout", "igpo inpainting", "igpo learning"),
            "memory at most",
        }
        assert made["measured"]["memory at most"] > made["peak"]
        assert made["steps"] == {"sft": 1, "igpo": 2}
    assert run(["train", str(tmp_path / "it" / "run.toml"), "--dry-run"]) == 0
    told = [re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    titles = told.index(["this run", "planned", "measured"])
    named, planned, measured = zip(*told[titles + 1 : titles + 6], strict=True)
    assert named[:4] == ("sft learning", "igpo rollout", "igpo inpainting", "igpo learning")
    assert named[4] == "memory at most (all of the process)"
    assert planned[0] == next(line for line in told if line[0] == "sft: update")[-1]
    assert measured[4].endswith("MiB")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_layers_that_are_computed_again_are_not_kept():
    kept, again = (
        plan(small(gradient_checkpointing=on)).memory["activations of an update"] for on in ("false", "true")
    )
    layer = kept / 3  # of three layers, one is there at a time
    assert layer < again < kept


def test_the_figures_of_llada_8b_are_those_of_its_paper():
    config = resolve("paper-llada", None, {}, CATALOGUE)
    loaded = llada_8b(config)
    assert figures_of(loaded) == LLADA_8B
    assert sum(weight.numel() for weight in loaded.denoiser.parameters()) == 8_015_581_184
    with torch.device("meta"):
        assert adapt(loaded, config.section("lora"), 0)[1] == 335_544_320


@pytest.mark.parametrize(
    "preset", ["paper-llada", "llada-8b-lora-1x80gb", "llada-8b-full-8x80gb", "llada-8b-full-2x8x80gb"]
)
def test_models_that_are_not_here_are_planned_from_their_shape(preset, tmp_path, monkeypatch, capsys):
    """Fewer rows and steps than the preset's, to be quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    flags = ["--prompts", "2", "--sampler.steps", "16", "--updates", "1"]
    assert run(["train", "--preset", preset, *flags, "--dry-run", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    full = preset.startswith("llada-8b-full")
    weights = 8_015_581_184 * (4 if full else 2) + (0 if full else 4 * 335_544_320)
    assert made["memory"]["weights"] == weights
    assert made["memory"]["optimizer"] == (2 * weights if full else 8 * 335_544_320)
    assert made["memory"]["reference"] == (weights if full else 0)
    assert made["rate"] > 0
    rollout = next(one for one in made["work"] if one["part"] == "rollout")
    assert rollout["count"]["inputs"] == 2 * 8 * 16
    assert rollout["count"]["columns"] == 2 * 8 * 16 * (256 + 256)
    assert rollout["count"]["head"] == 2 * 8 * 8 * (32 + 16)  # blocks of 32, two steps each
    spent = {one["stuck"]: one["count"] for one in made["work"] if one["part"] == "inpainting"}
    for share, count in spent.items():
        assert 0 < count["inputs"] <= share * rollout["count"]["inputs"]
        assert 0 < count["head"] < share * rollout["count"]["head"]
    assert rollout["seconds"] == pytest.approx(rollout["flops"] / made["rate"])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (SHARED / "gsm8k").is_dir(), reason="needs the GSM8K files of ../shared/data")
def test_a_preset_with_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = ["--task.path", str(SHARED / "gsm8k"), "--limit", "8", "--sft.limit", "20", "--width", "192"]
    task += ["--prompts", "2", "--sampler.steps", "12", "--sft.batch", "4"]
    assert run(["train", "--preset", "gsm8k", *task, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "igpo: inpainting" in shown
    assert "taken to have" not in shown
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_neither_here_nor_known_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    assert run(["train", "--model", "llada", "--model.path", "someone/something", "--dry-run"]) == 2
    assert "hf download someone/something" in capsys.readouterr().err


def test_what_several_processes_share(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    plans = []
    for more in ([], ["--processes", "8"], ["--accelerate", "fsdp2-8"]):
        flags = ["--preset", "llada-8b-full-8x80gb", "--prompts", "8", "--sampler.steps", "8", *more]
        assert run(["train", *flags, "--dry-run", "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    alone, whole, spread = plans
    assert [made["processes"] for made in plans] == [1, 8, 8]
    assert [one["count"] for one in alone["work"]] == [one["count"] for one in spread["work"]]
    assert alone["disk"] == spread["disk"]
    for part in ("weights", "gradients", "optimizer", "reference"):
        assert alone["memory"][part] == whole["memory"][part] == 8 * spread["memory"][part]
    assert run(["train", "--prompts", "12", "--processes", "8", "--dry-run"]) == 2
    assert "cannot be shared by 8" in capsys.readouterr().err
