"""The model card of a run: what the model was made from, how, what it reached, and code that loads and samples it.

Everything in it is read from the run's folder. Places of this machine stay out of it.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igpo_cli.__about__ import __version__
from igpo_cli.options import brief, options

if TYPE_CHECKING:
    from igpo_cli.plugins import Catalogue
    from igpo_cli.report.arms import Arm

PAPER = "https://arxiv.org/abs/2509.10396"
REINFORCED = (
    *("steps", "prompts", "group", "updates", "replace", "place", "injection", "chunker", "filter", "estimator"),
    *("loss", "verifier"),
)
ALWAYS = ("width", "optimizer", "sampler", "prompt", "lora", "sft", "seed", "dtype", "precision")
"""Options that a reader wants to know, in this order; the rest stands in the complete configuration."""


def hub_name(path: object) -> str | None:
    """The path if it is a name on the hub rather than a folder of this machine."""
    known = isinstance(path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not Path(path).exists()
    return str(path) if known else None


def start_of(config: Mapping[str, Any], seen: int = 10) -> str | None:
    """The path of the model that a run goes back to, through the runs whose models it started from; None: from nothing."""
    path = config.get("model", {}).get("path")
    if path in (None, "none"):
        return None
    parent = Path(path).parent / "run.toml"
    if not seen or hub_name(path) or not parent.is_file():
        return str(path)
    return start_of(tomllib.loads(parent.read_text(encoding="utf-8")), seen - 1)


def base_of(config: Mapping[str, Any]) -> str | None:
    """The published model that a run goes back to; None: it is from nothing, or from files of this machine."""
    return hub_name(start_of(config))


def card(arm: Arm, repo: str, catalogue: Catalogue, base: str | None, *, adapters: bool = False) -> str:
    """The text of README.md; `base` as `base_of` has it, `adapters`: without the weights that they belong to."""
    import tomli_w

    parts = [
        f"---\n{metadata(arm, repo, catalogue, base, adapters=adapters)}\n---\n\n# {repo.rpartition('/')[2]}",
        opening(arm, base, adapters=adapters),
        "## Use\n\n" + usage(arm, repo, catalogue, base, adapters=adapters),
        "## Results\n\n" + evaluations(arm),
        "## Training\n\n" + training(arm),
        "<details><summary>The complete configuration</summary>\n\n```toml\n"
        + tomli_w.dumps(public(arm.config)).strip()
        + "\n```\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def metadata(arm: Arm, repo: str, catalogue: Catalogue, base: str | None, *, adapters: bool) -> str:
    """The YAML that the hub reads; JSON is YAML."""
    name = repo.rpartition("/")[2]
    task = task_class(arm, catalogue)
    hub = getattr(task, "hub", None)
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": at.score.name, "type": evaluated_on(arm, at.score.name)},
            "metrics": [{"type": at.score.metric, "value": round(at.score.value, 4)}],
        }
        for found in arm.evaluations.values()
        for at in found[-1:]
    ]
    keys: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": ("adapter" if adapters else "finetune") if base else None,
        "library_name": "peft" if adapters else "igpo",
        "pipeline_tag": "text-generation",
        "tags": ["igpo", "diffusion-language-model", "masked-diffusion", *method_tags(arm)],
        "datasets": [hub] if isinstance(hub, str) else None,
        "model-index": [{"name": name, "results": results}] if results else None,
    }
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items() if value)


def method_tags(arm: Arm) -> list[str]:
    """sft, grpo, lora."""
    reinforced = (
        [] if not arm.last_step("igpo") else ["grpo"] if arm.injection == "none" else ["reinforcement-learning"]
    )
    rank = arm.config.get("lora", {}).get("rank", 0)
    return [*(["sft"] if arm.last_step("sft") else []), *reinforced, *(["lora"] if rank else [])]


def task_class(arm: Arm, catalogue: Catalogue) -> type[Any] | None:
    """The class of the run's task, where it is still installed."""
    from igpo_cli.errors import UsageError

    try:
        return catalogue.load("task", str(arm.config.get("task", {}).get("name")))
    except UsageError:
        return None


def evaluated_on(arm: Arm, name: str) -> str:
    """The task of an evaluation."""
    own = arm.config.get("eval", {}).get(name, {}).get("task") or arm.config.get("task", {})
    return str(own.get("name", "unknown"))


def opening(arm: Arm, base: str | None, *, adapters: bool) -> str:
    """What it is, in a few sentences."""
    what = (
        f"Low-rank adapters for [{base}](https://huggingface.co/{base})"
        if adapters
        else "A masked-diffusion language model"
    )
    unpublished = ", trained from nothing" if start_of(arm.config) is None else ", made from an unpublished model"
    origin = "" if adapters else f", made from [{base}](https://huggingface.co/{base})" if base else unpublished
    steps = [f"{counted(last)} of masked-diffusion SFT"] if (last := arm.last_step("sft")) else []
    if last := arm.last_step("igpo"):
        method = "GRPO" if arm.injection == "none" else f"[IGPO]({PAPER})"
        steps.append(f"{counted(last)} of {method}")
    how = f", post-trained by {' and '.join(steps)}" if steps else ""
    task = arm.config.get("task", {}).get("name", "unknown")
    return f"{what}{origin}{how} on the task `{task}` with igpo-cli {__version__}."


def counted(steps: int) -> str:
    """1 step, 2 steps."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def usage(arm: Arm, repo: str, catalogue: Catalogue, base: str | None, *, adapters: bool) -> str:
    """A command and a Python program that sample."""
    config = arm.config
    kind, sampler, width = config["model"]["name"], config["sampler"], config.get("width", 256)
    settings = {
        key: value
        for key, value in sampler.items()
        if key != "name" and not differs_not(key, value, sampler["name"], catalogue)
    }
    flags = "".join(f" --sampler.{key.replace('_', '-')} {brief(value)}" for key, value in settings.items())
    source = f"--model.path {repo}"
    lines = ["pip install igpo-cli"]
    if adapters:
        lines.append(f"hf download {repo} --local-dir adapter")
        lines.append(f"igpo merge --model {kind} --model.path {base} --adapter adapter --out merged")
        source = "--model.path merged"
    question, template = example(arm), prompt_flags(config.get("prompt", {}))
    asked = f"--width {width} --sampler {sampler['name']}{flags}{template} --prompt {shlex.quote(question)}"
    lines.append(f"igpo sample --model {kind} {source} {asked}")
    model, module = class_of("model", kind, catalogue), class_of("sampler", sampler["name"], catalogue)
    options = ", ".join(f"{key}={python(value)}" for key, value in settings.items())
    encode = prompt_code(config.get("prompt", {}))
    program = [
        "import torch",
        *(["from attrs import evolve", "from peft import PeftModel"] if adapters else []),
        *imports([("igpo_sampling", "Canvas"), model, module]),
        "",
        f'model = {model[1]}(path="{base if adapters else repo}")(device="cpu", dtype=torch.float32)  # or "cuda", torch.bfloat16',
        *([f'model = evolve(model, denoiser=PeftModel.from_pretrained(model.denoiser, "{repo}"))'] if adapters else []),
        f"question = {json.dumps(question, ensure_ascii=False)}",
        *encode,
        f"canvas = Canvas.blank([prompt], width={width}, mask_id=model.mask_id, pad_id=model.pad_id)",
        f"sampler = {module[1]}({options})",
        "with torch.no_grad():",
        "    sample = sampler(model.denoiser, canvas, torch.tensor([0]), mask_id=model.mask_id, eos_id=model.eos_id)",
        "print(model.tokenizer.decode(sample.completion[0], skip_special_tokens=True))",
    ]
    return "```bash\n{}\n```\n\n```python\n{}\n```".format("\n".join(lines), "\n".join(program))


def class_of(kind: str, name: str, catalogue: Catalogue) -> tuple[str, str]:
    """Where a plug-in's class is imported from: its package, where that exports it."""
    module, _, target = catalogue.find(kind, name).target.partition(":")
    package = module.partition(".")[0]
    return (package if package.startswith("igpo_") else module), target


def imports(wanted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line a module."""
    by_module: dict[str, set[str]] = {}
    for module, name in wanted:
        by_module.setdefault(module, set()).add(name)
    for module, names in sorted(by_module.items()):
        yield f"from {module} import {', '.join(sorted(names))}"


def prompt_flags(prompt: Mapping[str, Any]) -> str:
    """The flags of a [prompt] that is not the default one."""
    text = "".join(
        f" --prompt.{key} {shlex.quote(prompt[key])}"
        for key, usual in (("template", "{prompt}"), ("system", "none"))
        if prompt.get(key, usual) != usual
    )
    return text + (" --prompt.chat" if prompt.get("chat") else "")


def differs_not(key: str, value: object, sampler: str, catalogue: Catalogue) -> bool:
    """Whether an option of a sampler has its default value."""
    option = options(catalogue.load("sampler", sampler)).get(key)
    default = None if option is None else option.default
    return value == ("none" if default is None else list(default) if isinstance(default, tuple) else default)


def python(value: object) -> str:
    """A TOML value as Python writes it."""
    return "None" if value == "none" else repr(tuple(value) if isinstance(value, list) else value)


def prompt_code(prompt: Mapping[str, Any]) -> Iterator[str]:
    """Lines that make `prompt`, a tensor of token ids, of `question`."""
    template, system = prompt.get("template", "{prompt}"), prompt.get("system", "none")
    if template != "{prompt}":
        yield f'question = {json.dumps(template, ensure_ascii=False)}.replace("{{prompt}}", question)'
    if prompt.get("chat"):
        before = (
            f'{{"role": "system", "content": {json.dumps(system, ensure_ascii=False)}}}, ' if system != "none" else ""
        )
        yield f'chat = [{before}{{"role": "user", "content": question}}]'
        yield "ids = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)"
        yield "prompt = torch.tensor(ids)"
        return
    text = "question" if system == "none" else f"{json.dumps(system, ensure_ascii=False)} + question"
    yield f'prompt = torch.tensor(model.tokenizer({text}, add_special_tokens=False)["input_ids"])'


def example(arm: Arm) -> str:
    """A question that the model knows how to read: one of its own evaluation, where that is short."""
    from igpo_cli.tracking import read_lines

    for path in sorted((arm.folder / "eval").glob("*.jsonl")):
        for row in read_lines(path)[:1]:
            question = str(row.get("prompt", ""))
            if question and len(question) <= 200:
                return question
    return "What is 17 * 3?"


def evaluations(arm: Arm) -> str:
    """A table of what was measured, and the report's sentences."""
    from igpo_cli.report.arms import families
    from igpo_cli.report.summary import headline

    rows = []
    for name, found in arm.evaluations.items():
        pair, score = arm.before_and_after(name), found[-1].score
        before = f"{pair[0].score.value:.3f}" if pair else ""
        interval = "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"
        split = arm.config.get("eval", {}).get(name, {}).get("split", "test")
        of = f"{evaluated_on(arm, name)}, {split}"
        rows.append(f"| {name} | {of} | {score.problems or ''} | {before} | {score.value:.3f} | {interval} |")
    if not rows:
        return "No evaluation was part of the run."
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", "", headline(families([arm])))).split())
    head = "| evaluation | task, split | problems | pass@1 before | after | 95 % interval |\n|---|---|---|---|---|---|"
    return (
        f"{said}\n\n{head}\n"
        + "\n".join(rows)
        + "\n\nIntervals are over the choice of problems; this is one seed of training."
    )


def training(arm: Arm) -> str:
    """The options that matter and the machine."""
    told, config = arm.environment, public(arm.config)
    rows = []
    for key in (*(REINFORCED if arm.last_step("igpo") else ()), *ALWAYS):
        value = config.get(key)
        if isinstance(value, Mapping):
            inner = {name: each for name, each in value.items() if name != "name" and not isinstance(each, Mapping)}
            text = ", ".join(f"{name} {brief(each)}" for name, each in inner.items())
            value = " ".join(filter(None, (str(value.get("name", "")), f"({text})" if text else "")))
        if value is not None:
            text = brief(value).replace("|", "\\|").replace("\n", "\\n").replace("<", "&lt;")
            rows.append(f"| {key} | {text} |")
    packages = ", ".join(f"{name} {version}" for name, version in told.get("packages", {}).items())
    machine = f"\n\nTrained on {told.get('device', 'an unknown device')} with {packages}." if packages else ""
    return "| option | value |\n|---|---|\n" + "\n".join(rows) + machine


def public(value: Any) -> Any:
    """A configuration without the places of this machine: of a path only its last part is left."""
    if isinstance(value, Mapping):
        return {key: public(each) for key, each in value.items() if key != "folder"}
    if isinstance(value, list):
        return [public(each) for each in value]
    if isinstance(value, str) and "\n" not in value and re.match(r"[/~.]|[^/]+/.+/", value) and hub_name(value) is None:
        return Path(value).name
    return value
