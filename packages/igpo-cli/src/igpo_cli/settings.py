"""The options that belong to a run rather than to a plug-in: top-level keys, [prompt], [lora], [sft], [eval.NAME]."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen, validators

from igpo_rl.sft import SFT


def _is_one_folder(_: object, attribute: Attribute[str | None], value: str | None) -> None:
    if value is not None and (value in ("", ".", "..") or set(value) & set("/\\")):
        raise ValueError(f"{attribute.name} = {value!r} is no name of one folder. Where runs are kept is --folder.")


positive = validators.ge(1)
count = validators.ge(0)


@frozen(kw_only=True)
class Run:
    """What a run does, where and how long."""

    name: str | None = field(default=None, validator=_is_one_folder)
    """Name of the run; without one it is `run-N`, N being the first free number."""
    seed: int = 0
    """Everything that is drawn in a run is derived from it."""
    steps: int = field(default=60, validator=count)
    """Steps of reinforcement learning; 0 for none."""
    width: int = field(default=256, validator=positive)
    """L, the completion's length in tokens."""
    attend_eos: bool = True
    """The EOS behind a completion's end is learned and attended; off: neither, in SFT, rollouts and scoring alike."""
    play_rows: int = field(default=256, validator=positive)
    """Completions sampled at a time. While the next ones are sampled the last ones are judged; changes speed, not results. Halved where
    memory does not suffice, and then kept so, like score_rows."""
    split: str = "train"
    """Split of the task that reinforcement learning uses."""
    limit: int | None = field(default=None, validator=validators.optional(positive))
    """The first so many problems of it; none for all. A stream is read no further."""
    shuffle: int | None = None
    """Seed of a shuffle before the limit, for a random part; none: in order."""
    folder: str = "runs"
    """Where run directories are made."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number format of the weights; logits and scores are float32 in any case."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: products are computed in it, while trained weights and their updates stay in float32 (mixed precision)."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the layer again: less memory, a third more time."""
    evaluate_every: int = field(default=0, validator=count)
    """Steps between evaluations; 0: only at the end."""
    save_every: int = field(default=0, validator=count)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = field(default=2, validator=positive)
    """Checkpoints that are kept of each phase, the newest ones."""
    best: str | None = None
    """Metric of an evaluation, such as eval/heldout/pass@1: the checkpoint with its highest value is kept too."""
    grace: float = field(default=25.0, validator=validators.ge(0.0))
    """Seconds that a step gets to be finished and saved after SIGTERM or SIGINT (Ctrl-C)."""
    rollouts_every: int = field(default=10, validator=count)
    """Steps between recordings of all rollouts of a step; 0: never."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl: tensorboard, or what accelerate knows (wandb, trackio, ...)."""
    plugins: tuple[str, ...] = ()
    """Python files with plug-ins that need no installation."""


def _has_question(_: object, attribute: Attribute[str], value: str) -> None:
    if "{prompt}" not in value:
        raise ValueError(f"{attribute.name} = {value!r} has no place for the question. Put {{prompt}} there.")


@frozen(kw_only=True)
class Prompt:
    """How a question becomes a prompt."""

    template: str = field(default="{prompt}", validator=_has_question)
    """Text around the question; {prompt} stands for it."""
    system: str | None = None
    """System prompt: the chat template's system message, or put in front."""
    chat: bool = False
    """Wrap it by the tokenizer's chat template."""


@frozen(kw_only=True)
class LoRA:
    """Low-rank adapters on every linear layer of the model instead of full weights."""

    rank: int = field(default=0, validator=count)
    """Rank of the adapters; 0: train all weights."""
    alpha: float = field(default=64.0, validator=validators.gt(0.0))
    """Scale of the adapters: their product counts alpha / rank."""
    dropout: float = field(default=0.0, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Dropout in front of the adapters during SFT."""


@frozen(kw_only=True)
class FineTuning(SFT):
    """The phase before reinforcement learning; any table may be overridden beneath it."""

    split: str = "train"
    """Split of the task; problems without a worked solution are left out."""
    limit: int | None = field(default=None, validator=validators.optional(positive))
    """The first so many problems; none for all."""
    shuffle: int | None = None
    """Seed of a shuffle before the limit; none: in order."""


@frozen(kw_only=True)
class Evaluation:
    """One held-out evaluation; any table may be overridden beneath it."""

    split: str = "test"
    """Split of the task."""
    samples: int = field(default=1, validator=positive)
    """Completions a problem; above 1 avg@k and pass@k are reported."""
    pass_at: tuple[int, ...] = ()
    """The k of pass@k, at most `samples`; empty: powers of two up to it."""
    limit: int | None = field(default=None, validator=validators.optional(positive))
    """The first so many problems; none for all."""
    shuffle: int | None = None
    """Seed of a shuffle before the limit; none: in order."""

    def __attrs_post_init__(self) -> None:
        if wrong := [k for k in self.pass_at if not 1 <= k <= self.samples]:
            raise ValueError(f"pass_at = {wrong[0]} must lie in 1 to samples = {self.samples}.")
