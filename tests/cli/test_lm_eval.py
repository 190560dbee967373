"""igpo lm-eval with the real lm-eval: its tasks, its command, our sampler's texts and our estimators' log-likelihoods."""

import json
import math

import pytest
import torch
from attrs import frozen

from igpo_cli.main import run
from igpo_cli.play import decode
from igpo_rl import ELBO, LeftToRight, derive
from igpo_sampling import Canvas, Tiny

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

WORDS = ["rev", "swf", "a", "b", "c", "d", ":", "?"]


@frozen
class Request:
    """What lm-eval hands over, as far as a model looks."""

    args: tuple


@pytest.fixture(scope="module")
def loaded():
    return Tiny(width=16, heads=2, layers=2, inner=16)(vocabulary=WORDS, dtype=torch.float64, seed=1)


def harness(loaded, **options):
    from igpo_cli.harness import Harness
    from igpo_sampling import LLaDASampler

    sampler = LLaDASampler(block=4, steps=8, temperature=1.0, max_rows=3)
    settings = {"sampler": sampler, "estimator": LeftToRight(), "width": 8, "context": 64, "rows": 5, "seed": 7}
    return Harness(loaded, **settings | {"attend_eos": True} | options)


def requests(*pairs):
    return [Request(args=pair) for pair in pairs]


PAIRS = requests(("rev : a b ?", " b a"), ("swf", " a"), ("", "a b c"), ("rev : a b c d ?", " d c b a"), ("rev", ""))


def conditional(loaded, shown, masks, place):
    """Log-probs (V,) of the token `place` positions behind what is shown, with `masks` positions masked: one plain forward."""
    tokens = torch.tensor([[*shown, *[loaded.mask_id] * masks]])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        logits = loaded.denoiser(tokens, attention, torch.tensor([len(shown) + place]))
    return logits[0].double().log_softmax(0)


def test_left_to_right_is_the_product_of_conditionals_and_its_greedy_flag_is_greedy(loaded):
    model = harness(loaded)
    for (value, greedy), request in zip(model.loglikelihood(PAIRS), PAIRS, strict=True):
        context, text = (loaded.tokenizer(part, add_special_tokens=False)["input_ids"] for part in request.args)
        total, best = 0.0, True
        for at, token in enumerate(text):
            logp = conditional(loaded, [*context, *text[:at]], len(text) - at, 0)
            total += float(logp[token])
            best &= int(logp.argmax()) == token
        assert value == pytest.approx(total, abs=1e-5)
        assert greedy == best


def test_a_greedy_text_is_called_greedy(loaded):
    model = harness(loaded)
    context = loaded.tokenizer("rev : a b ?", add_special_tokens=False)["input_ids"]
    text = []
    for at in range(3):
        text.append(int(conditional(loaded, [*context, *text], 3 - at, 0).argmax()))
    words = loaded.tokenizer.convert_ids_to_tokens(text)
    if set(words) & set(loaded.tokenizer.all_special_tokens):
        text = None  # cannot be written as text
    found = model._loglikelihood_tokens([(("x", "y"), context, text or [2, 3, 4])])
    assert found[0][1] == (text is not None)


def test_elbo_converges_to_its_enumeration(loaded):
    """Two tokens: the mean over both orders of the log-prob of writing in that order."""
    context, (first, second) = [4, 5], (2, 3)
    forwards = float(conditional(loaded, context, 2, 0)[first]) + float(
        conditional(loaded, [*context, first], 1, 0)[second]
    )
    with torch.no_grad():
        tokens = torch.tensor([[*context, loaded.mask_id, second]])
        behind = loaded.denoiser(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor([2]))[0]
    backwards = float(conditional(loaded, context, 2, 1)[second]) + float(behind.double().log_softmax(0)[first])
    model = harness(loaded, estimator=ELBO(samples=1), rows=64)
    same = [((str(at), ""), context, [first, second]) for at in range(3000)]
    values = torch.tensor([value for value, _ in model._loglikelihood_tokens(same)])
    error = float(values.std() / math.sqrt(len(values)))
    assert abs(float(values.mean()) - (forwards + backwards) / 2) < 4 * error + 1e-6


@pytest.mark.parametrize("estimator", [LeftToRight(), ELBO(samples=2)])
def test_batches_do_not_change_what_is_found(loaded, estimator):
    whole = harness(loaded, estimator=estimator, rows=64).loglikelihood(PAIRS)
    for rows in (1, 2, 7):
        part = harness(loaded, estimator=estimator, rows=rows).loglikelihood(PAIRS)
        assert [value for value, _ in part] == pytest.approx([value for value, _ in whole], abs=1e-5)


def test_rolling_likelihoods_are_those_of_the_pieces(loaded):
    text = "rev : a b c d ? d c b a"
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    model = harness(loaded, width=4, context=6)
    (found,) = model.loglikelihood_rolling(requests((text,)))
    pieces = [(("x", str(at)), ids[max(0, at - 2) : at], ids[at : at + 4]) for at in range(0, len(ids), 4)]
    assert found == pytest.approx(sum(value for value, _ in model._loglikelihood_tokens(pieces)), abs=1e-6)


def test_texts_are_the_samplers_own_and_repeats_are_samples_of_their_own(loaded, capsys):
    model = harness(loaded)
    prompt = "rev : a b ?"
    asked = requests((prompt, {"until": []}), ("swf", {"until": []}), (prompt, {"until": []}), (prompt, {"until": []}))
    texts = model.generate_until(asked)
    canvas = Canvas.blank([torch.tensor(model.tok_encode(prompt))] * 3, 8, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
    seeds = torch.tensor([derive(7, "lm-eval", prompt, at) for at in range(3)])
    with torch.no_grad():
        sample = model.sampler(loaded.denoiser, canvas, seeds, mask_id=loaded.mask_id, eos_id=loaded.eos_id)
    assert [texts[0], texts[2], texts[3]] == decode(loaded.tokenizer, sample.completion, loaded.eos_id)
    assert len({texts[0], texts[2], texts[3]}) > 1
    assert "the task asks for temperature 0; --sampler.temperature 1 is taken" in " ".join(
        capsys.readouterr().err.split()
    )


def test_texts_end_at_the_first_stop_string(loaded):
    from igpo_cli.harness import until

    assert until("so 1\nQ: 2", ["Q:", "\n"]) == "so 1"
    assert until("so 1", None) == until("so 1", []) == until("so 1", "") == "so 1"
    assert until("so 1", "1") == "so "


TASKS = {
    "write.yaml": """\
task: write_first
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [" d"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "choose.yaml": """\
task: choose_one
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.mark.slow
def test_the_real_command_runs_a_local_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    problems = [
        {"question": f"rev swf : a b c {last} e ?", "answer": "a", "choices": ["a b", "b a", "c"], "gold": 1}
        for last in "fghi"
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    for name, text in TASKS.items():
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/problems.jsonl}}}}\ntest_split: test\n"
        (tmp_path / name).write_text(text + source)
    out = tmp_path / "results.json"
    words = ["lm-eval", "--estimator", "left-to-right", "--sampler.temperature", "0", "--"]
    words += [
        "--tasks",
        "write_first,choose_one",
        "--include_path",
        str(tmp_path),
        "--output_path",
        str(out),
        "--log_samples",
    ]
    assert run(words) == 0
    assert "choose_one" in capsys.readouterr().out
    (found,) = tmp_path.glob("results*.json")
    results = json.loads(found.read_text())
    assert {*results["results"]} == {"write_first", "choose_one"}
    assert 0 <= results["results"]["choose_one"]["acc,none"] <= 1
    assert results["config"]["igpo"]["estimator"]["name"] == "left-to-right"
    assert results["config"]["igpo"]["sampler"]["block"] == 25
    (file,) = tmp_path.glob("samples_choose_one*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 4
    likelihoods = [float(answer[0][0]) for answer in rows[0]["resps"]]
    assert len(likelihoods) == 3
    assert all(value < 0 for value in likelihoods)
    best = sum(max(range(3), key=lambda at: float(row["resps"][at][0][0])) == 1 for row in rows)
    assert results["results"]["choose_one"]["acc,none"] == best / 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lm-eval"], "needs lm-eval's options behind a --"),
        (
            ["lm-eval", "--", "--tasks", "x", "--model_args", "pretrained=y"],
            "--model_args pretrained: say it before the --",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if "x" in words:
        (tmp_path / "x.yaml").write_text("task: x\n" + TASKS["choose.yaml"].partition("\n")[2] + "dataset_path: json\n")
        words = [*words, "--include_path", str(tmp_path)]
    assert run(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
