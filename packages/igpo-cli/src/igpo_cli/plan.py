"""What a run will do and need, said before it does: `igpo train --dry-run`.

Forwards are counted (`igpo_cli.rehearsal`), bytes are those of the weights, times come from a second of work here
(`igpo_cli.speed`). Nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from igpo_cli import table
from igpo_cli.assemble import algorithm_of, device_of, load_model, problem_set
from igpo_cli.config import shipped
from igpo_cli.errors import UsageError
from igpo_cli.history import bytes_of
from igpo_cli.launch import read_accelerate, require_shares
from igpo_cli.lora import adapt
from igpo_cli.precheck import shared
from igpo_cli.problems import ProblemSet, encode_pairs, nothing_to_learn
from igpo_cli.rehearsal import Stage, fine_tuned, plainly, rehearse, stand_in
from igpo_cli.speed import Bench, matrix_rate, training_cost
from igpo_cli.tasks import task_name, tasks_of
from igpo_cli.tracking import read_metrics
from igpo_cli.training import needs_copy
from igpo_data import Task
from igpo_rl import Problem, later
from igpo_rl.cost import Count, Figures
from igpo_rl.scores import most_logits
from igpo_sampling import Loaded
from igpo_sampling.loop import POSITIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from igpo_cli.config import Config
    from igpo_rl import IGPO
else:
    torch = later.load("torch")

STUCK = (0.0, 0.5, 1.0)
"""Shares of stuck groups that inpainting is counted for."""
MEMORY = "memory at most"
ASSUMED = 256
"""Tokens of a prompt, and of a worked solution, where they cannot be read here."""


@frozen
class Job:
    """The processes that share a run."""

    processes: int = 1
    spread: bool = False
    """Whether each holds a part of the weights, gradients and moments (FSDP), or all of them."""

    @classmethod
    def of(cls, processes: int | None, file: Path | None) -> Job:
        """What `--processes` and `--accelerate` would start."""
        if file is None:
            return cls(processes or 1)
        chosen = read_accelerate(shipped("clusters", "yaml").get(str(file), file))
        return cls(processes or chosen.num_processes, chosen.distributed_type == "FSDP")

    def part(self, size: int) -> int:
        """Bytes of each process."""
        return -(-size // self.processes) if self.spread else size


@frozen(kw_only=True)
class Work:
    """One kind of forwards of a step."""

    phase: str
    part: str
    stuck: float | None = None
    """Share of stuck groups that it is counted for."""
    count: Count
    flops: int
    seconds: float
    """On all processes at once."""


@frozen(kw_only=True)
class Plan:
    """What `igpo train` would do. Counts are of the first step and all processes, bytes of one of them."""

    processes: int

    model: Mapping[str, Any]
    device: str
    task: Mapping[str, Any]
    steps: Mapping[str, int]
    """Of each phase."""
    work: Sequence[Work]
    memory: Mapping[str, int]
    """Bytes by part; the activations of sampling and of an update are never there at once, nor are their logits."""
    peak: int
    disk: Mapping[str, int]
    """Bytes of one checkpoint of each phase, of all that are kept, and of the model."""
    rate: float | None
    """FLOP a second of a matrix product, where no forward could be timed."""
    measured: Mapping[str, float]
    """Seconds of a step of the run whose run.toml this is, medians over its steps, and bytes at its peak."""
    notes: Sequence[str]

    def as_json(self) -> str:
        """Everything, numbers as they are."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


# The model -----------------------------------------------------------------------------------------------------------


def at_hand(path: str | None) -> bool:
    """Whether a model is here, or made from nothing: what looks like no name on the hub is left to its loader to judge."""
    if path is None or Path(path).exists() or path.count("/") != 1:
        return True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(path, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def llada_8b(config: Config) -> Loaded:
    """LLaDA-8B (arXiv 2502.09992) without its weights."""
    from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

    with torch.device("meta"):
        network = LLaDAForDiffusion(LLaDAConfig(mlp_hidden_size=12288))
    head = network.get_output_embeddings()
    linear = (name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear) and part is not head)
    return Loaded(
        denoiser=network.to(getattr(torch, config.run.dtype)).eval(),
        tokenizer=None,
        mask_id=126336,
        eos_id=126081,
        pad_id=126081,
        linear=tuple(linear),
        save=lambda folder: None,  # noqa: ARG005
    )


SHAPES: Mapping[str, Callable[[Config], Loaded]] = dict.fromkeys(
    ("GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-1.5"), llada_8b
)
"""Models whose figures are known, so that a plan can be had before they are downloaded."""


def model_of(config: Config) -> Loaded:
    """The run's model on its device; its shape alone where it would have to be downloaded first."""
    path = config.values["model"].get("path")
    if at_hand(path):
        return load_model(config)
    if path not in SHAPES:
        raise UsageError(
            f"model '{path}' is not on this machine, and a dry run downloads nothing. Get it with hf download {path}."
        )
    return SHAPES[path](config)


def figures_of(loaded: Loaded) -> Figures:
    """What a forward of the model costs; of a mixture, with the experts that a token passes."""
    network = loaded.denoiser
    matrices = [network.get_submodule(path).weight.numel() for path in loaded.linear]
    if loaded.experts:
        share = network.config.num_experts_per_tok / network.config.num_experts
        matrices += [int(network.get_parameter(path).numel() * share) for path in loaded.experts]
    return Figures(
        body=sum(matrices),
        head=network.get_output_embeddings().weight.numel(),
        attention=len(layers_of(network)) * network.get_input_embeddings().embedding_dim,
    )


def layers_of(network: Any) -> list[Module]:
    """Its layers."""
    return [part for part in network.modules() if type(part).__name__ in (network._no_split_modules or ())]


def saved_bytes(policy: Any, width: int, device: str) -> int:
    """Of what the backward pass of one canvas of `width` columns needs, its weights and its head left out."""
    held: dict[int, Any] = {}
    own = {weight.untyped_storage()._cdata for weight in policy.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage  # and so it is not reused for another
        return tensor

    tokens = torch.zeros(1, width, dtype=torch.long, device=device)
    seen = torch.ones(1, width, dtype=torch.bool, device="cpu" if device == "meta" else device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy(tokens, seen, torch.arange(width, device=device), lambda head, hidden: hidden.sum())  # noqa: ARG005
    return sum(storage.nbytes() for storage in held.values())


def state_bytes(config: Config, policy: Module, phase: str | None = None) -> int:
    """Of the optimiser's moments: two of AdamW, one of Muon."""
    return sum(
        (2 if isinstance(optimizer, torch.optim.AdamW) else 1) * weight.nbytes
        for optimizer in config.section("optimizer", phase).build(policy)
        for group in optimizer.param_groups
        for weight in group["params"]
    )


# The plan ------------------------------------------------------------------------------------------------------------


def plan(config: Config, job: Job | None = None) -> Plan:
    """The plan of a run; what it needs is read, and nothing is written."""
    job = job or Job()
    require_shares(shared(config), job.processes)
    notes: list[str] = []
    device, loaded = device_of(config), model_of(config)
    real = loaded.tokenizer is not None
    if not real:
        notes.append(
            f"{config.values['model']['path']} is not on this machine; its shape is known, its speed here is not"
        )
    figures, layers = figures_of(loaded), layers_of(loaded.denoiser)  # before adapters stand between
    weights = list(loaded.denoiser.parameters())
    with torch.device(device if real else "meta"):
        policy, trainable = adapt(loaded, config.section("lora"), config.run.seed)
    plain = stand_in(loaded if real else None)
    cut = config.run.gradient_checkpointing
    bench = Bench(config, loaded, policy, figures, device) if real else None
    rate = 0.0 if real else matrix_rate(device, precision(config))
    steps = {"sft": config.section("sft").steps, "igpo": config.run.steps}
    work: list[Work] = []
    task: dict[str, Any] = {}
    columns = sampled = updated = 0

    def add(phase: str, part: str, count: Count, speed: float, stuck: float | None = None) -> None:
        flops = training_cost(config, figures, count) if part == "update" else count.flops(figures)
        if count.inputs:
            work.append(
                Work(
                    phase=phase, part=part, stuck=stuck, count=count, flops=flops, seconds=flops / speed / job.processes
                )
            )

    if steps["sft"]:
        pairs = first_pairs(config, loaded, notes)
        count = fine_tuned(config, plain, pairs, job.processes, spread=job.spread)
        add("sft", "update", count, bench.fine_tuning(pairs) if bench else rate)
        columns, updated = count.columns // count.inputs, min(config.section("sft").score_rows, count.inputs)
    reference = 0
    if steps["igpo"]:
        algorithm = algorithm_of(config)
        problems = first_problems(config, loaded, algorithm, notes)
        alike = plainly(problems, plain)
        stage = Stage.of(config, plain, alike)
        shares = {
            share: rehearse(
                algorithm,
                stage,
                alike.problems,
                range(round(share * algorithm.prompts)),
                steps=steps["igpo"],
                ranks=job.processes,
                spread=job.spread,
            )
            for share in STUCK
        }
        first = shares[STUCK[0]]
        width = first.batch.prompt.shape[1]
        columns = max(columns, width + config.run.width)
        rows = algorithm.prompts * algorithm.group // job.processes
        sampled, updated = (
            min(first.most["rollout"], rows),
            max(updated, *(one.most["update"] for one in shares.values())),
        )
        reference = bytes_in(weights) if needs_copy(config, algorithm) else 0
        task = {"name": config.values["task"]["name"], "prompt": width, "problems": len(problems.problems)}
        speeds = bench.igpo(algorithm, problems, first.batch) if bench else (rate, rate)
        for part in first.counts:
            speed = speeds[part not in ("rollout", "inpainting")]
            counts: list[tuple[Count, float | None]] = [(one.counts[part], share) for share, one in shares.items()]
            if len({count for count, _ in counts}) == 1:
                counts = [(counts[0][0], None)]
            for count, share in counts:
                add("igpo", part, count, speed, share)
    with bench.precision() if bench else nullcontext():
        saved = saved_bytes(policy, columns, device if real else "meta")
    size = next(policy.parameters()).element_size()
    vocabulary, hidden = loaded.denoiser.get_output_embeddings().weight.shape
    layer = saved // max(1, len(layers))
    kept = layer + len(layers) * columns * hidden * size if cut else saved
    cache = (
        0 if getattr(config.plugin("sampler"), "cache", "none") == "none" else 2 * columns * figures.attention * size
    )
    trained = bytes_in(weight for weight in policy.parameters() if weight.requires_grad)
    states = {
        phase: state_bytes(config, policy, scope) for phase, scope in (("sft", "sft"), ("igpo", None)) if steps[phase]
    }
    with torch.enable_grad():
        logits = 4 * min(most_logits(torch.device(device)), updated * config.run.width * vocabulary)
    memory = {
        "weights": job.part(bytes_in(policy.parameters())),
        "gradients": job.part(trained),
        "optimizer": job.part(max(states.values(), default=0)),
        "reference": job.part(reference),
        "activations of an update": updated * kept,
        "logits of an update": 2 * logits,
        "activations of sampling": sampled * (layer + cache),
        "logits of sampling": 2 * 4 * min(POSITIONS, sampled * config.run.width) * vocabulary if sampled else 0,
    }
    if job.spread:
        whole = bytes_of(bytes_in(weights))
        notes.append(
            f"weights are spread; where {whole} more fit, each process gathers them once for a step's rollouts"
        )
    parts = list(memory.values())
    disk = {f"checkpoint of {phase}": trained + state for phase, state in states.items()}
    every = config.run.save_every
    times = {phase: min(config.run.keep, -(-steps[phase] // every) if every else 1) for phase in states}
    disk["checkpoints kept"] = sum(
        (times[phase] + (config.run.best is not None)) * disk[f"checkpoint of {phase}"] for phase in states
    )
    disk["model"] = bytes_in(weights)
    disk["start of RL"] = bytes_in(weights) if len(states) == 2 else 0
    return Plan(
        processes=job.processes,
        model={
            "name": config.values["model"]["name"],
            "path": config.values["model"].get("path"),
            "loaded": real,
            "weights": sum(weight.numel() for weight in weights),
            "trainable": trainable,
            **asdict(figures),
        },
        device=device,
        task=task,
        steps=steps,
        work=work,
        memory=memory,
        peak=sum(parts[:4]) + max(sum(parts[4:6]), sum(parts[6:])),
        disk=disk,
        rate=rate or None,
        measured=measured(config),
        notes=notes,
    )


def bytes_in(weights: Iterable[Tensor]) -> int:
    """Of all of them."""
    return sum(weight.nbytes for weight in weights)


def precision(config: Config) -> torch.dtype:
    """What products are computed in."""
    name = "bfloat16" if config.run.precision == "bfloat16" else config.run.dtype
    found: torch.dtype = getattr(torch, name)
    return found


def first_problems(config: Config, loaded: Loaded, algorithm: IGPO, notes: list[str]) -> ProblemSet:
    """The run's problems, or as many alike as a step takes where they cannot be read here."""
    if loaded.tokenizer is not None:
        with remote(config, None, notes):
            return problem_set(config, loaded, config.run.split, limit=config.run.limit)
    notes.append(f"prompts and worked solutions are taken to have {ASSUMED} tokens")
    every = torch.arange(min(ASSUMED, config.run.width)) % 8 == 7
    problems = [
        Problem(
            key=f"problem {number}",
            prompt=torch.zeros(ASSUMED, dtype=torch.long),
            trace=torch.zeros(len(every), dtype=torch.long),
            hintable=torch.ones_like(every),
            breaks=every,
            steps=every,
            answer_value=torch.zeros_like(every),
        )
        for number in range(algorithm.prompts)
    ]
    return ProblemSet({one.key: Task(key=one.key, prompt="", answer="") for one in problems}, problems, 0)


def first_pairs(config: Config, loaded: Loaded, notes: list[str]) -> list[tuple[Tensor, Tensor]]:
    """What SFT learns from, or as much alike as a step takes."""
    sft = config.section("sft")
    if loaded.tokenizer is not None:
        with remote(config, "sft", notes):
            tasks = tasks_of(config, sft.split, "sft", sft.limit)
            pairs, _ = encode_pairs(tasks, config.section("prompt", "sft"), loaded.tokenizer, config.run.width)
            if not pairs:
                raise nothing_to_learn(tasks, task_name(config, "sft"), config.run.width)
            return pairs
    notes.append(f"SFT's prompts and worked solutions are taken to have {ASSUMED} tokens")
    alike = (torch.zeros(ASSUMED, dtype=torch.long), torch.zeros(min(ASSUMED, config.run.width), dtype=torch.long))
    return [alike] * sft.batch


@contextmanager
def remote(config: Config, scope: str | None, notes: list[str]) -> Iterator[None]:
    """While tasks are read that may have to be fetched: if that fails, it is noted and the block ends."""
    try:
        yield
    except UsageError as error:
        if getattr(config.plugin("task", scope), "path", "") is not None:
            raise
        notes.append(str(error))


def measured(config: Config) -> dict[str, float]:
    """Median seconds by phase and part, and bytes, of the run whose run.toml was given; else empty."""
    if config.file is None or config.file.name != "run.toml":
        return {}
    rows = read_metrics(config.file.parent)
    times: dict[str, list[float]] = {}
    for row in rows:
        for name, part in (("time/rollout", "rollout"), ("time/inpaint", "inpainting"), ("time/learn", "learning")):
            if name in row:
                times.setdefault(f"{row['phase']} {part}", []).append(row[name])
    found = {name: median(seconds) for name, seconds in times.items()}
    environment = config.file.with_name("environment.json")
    peak = json.loads(environment.read_text(encoding="utf-8")).get("peak_memory") if environment.is_file() else None
    return found if peak is None else {**found, MEMORY: peak}


# On paper ------------------------------------------------------------------------------------------------------------


def show(made: Plan) -> None:
    """The plan as tables."""
    where = made.device if made.processes == 1 else f"{made.processes} x {made.device}"
    phases = [f"{count} steps of {phase}" for phase, count in made.steps.items() if count]
    model, run = made.model, ", ".join(phases) or "no steps"
    print(f"{run}; {model['name']}, {model['weights']:,} weights, {model['trainable']:,} trained, on {where}\n")
    titles = ("a step of", "stuck", "forwards", "tokens", "head positions", "FLOP", "time")
    columns = [
        table.Column(title, right=number > 0, style="" if number else "bold") for number, title in enumerate(titles)
    ]
    rows = [
        [
            f"{one.phase}: {one.part}",
            "" if one.stuck is None else f"{one.stuck:g}",
            f"{one.count.inputs:,}",
            f"{one.count.columns:,}",
            f"{one.count.head:,}",
            f"{one.flops:.2e}",
            span(one.seconds),
        ]
        for one in made.work
    ]
    table.show(columns, rows)
    for title, sizes in (
        ("memory" if made.processes == 1 else "memory of each", {**made.memory, "at most together": made.peak}),
        ("disk", made.disk),
    ):
        print()
        table.show(
            [table.Column(title, style="bold"), table.Column("", right=True)],
            [[name, bytes_of(size)] for name, size in sizes.items() if size],
        )
    if made.measured:
        print()
        table.show(
            [
                table.Column("this run", style="bold"),
                table.Column("planned", right=True),
                table.Column("measured", right=True),
            ],
            beside(made),
        )
    print()
    for note in (*made.notes, f"time: {how_timed(made)}"):
        print(f"note: {note}")


def beside(made: Plan) -> list[list[str]]:
    """What was measured, each beside what is planned; of inpainting what it takes at most."""
    parts = {"rollout": ["rollout"], "inpainting": ["inpainting"], "learning": ["old", "reference", "update"]}
    rows = []
    for name, value in made.measured.items():
        if name == MEMORY:
            whole = " (all of the process)" if made.device == "cpu" else ""
            rows.append([name + whole, bytes_of(made.peak), bytes_of(value)])
            continue
        phase, _, part = name.partition(" ")
        of_part = [one for one in made.work if one.phase == phase and one.part in parts[part]]
        most = {one.part: max(other.seconds for other in of_part if other.part == one.part) for one in of_part}
        rows.append([name, span(sum(most.values())), span(value)])
    return rows


def how_timed(made: Plan) -> str:
    """What the times rest on."""
    if made.rate is None:
        return "from forwards and updates of this model here, without verdicts, evaluations and checkpoints"
    return (
        f"at {made.rate:.1e} FLOP a second, which a large matrix product reached here; a model reaches about half of it"
    )


def span(seconds: float) -> str:
    """12 ms, 3.4 s, 5.6 min, 7.8 h, 9.1 days."""
    for unit, size, most in (("ms", 1e-3, 1.0), ("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, 1e5)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
