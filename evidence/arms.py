"""What is compared: arms, and the studies that they belong to.

An arm is a name and the flags by which it differs from the preset. A study is a question, the arms that answer it, the
arm that it is measured against, and seeds that nothing was tuned on.
"""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

WORDS = Path(__file__).parent / "words.toml"

FEW = ("--task.train_problems", "32")
MORE_SFT = (
    *("--sft.split", "train", "--sft.steps", "60", "--sft.optimizer.name", "adamw"),
    *("--sft.optimizer.lr", "1e-3", "--sft.optimizer.warmup", "4", "--steps", "0"),
)
WORDS_MORE_SFT = (
    *("--sft.task.seed", "0", "--sft.task.train_problems", "480", "--sft.steps", "60"),
    *("--sft.optimizer.name", "adamw", "--sft.optimizer.lr", "1e-4", "--sft.optimizer.warmup", "4", "--steps", "0"),
)
RL = ("--sft.steps", "0")
FINE = ("--chunker.low", "1", "--chunker.high", "3")


@frozen
class Arm:
    """One way to train."""

    about: str
    flags: tuple[str, ...] = field(converter=tuple)
    from_sft: bool = True
    """Start from the seed's own SFT checkpoint; the one arm that does not makes it."""


@frozen
class Study:
    """One question."""

    about: str
    arms: dict[str, Arm]
    against: str
    """The arm whose result on the same seed is subtracted."""
    seeds: tuple[int, ...]
    file: Path | None = None
    """Configuration of all arms; None: the preset."""
    start: str = "sft"
    """The arm that makes the checkpoint from which all others start."""
    gpu: bool = False
    """Too much for a CPU; not among `all`."""


SFT = Arm("the starting point: masked-diffusion SFT only", ("--steps", "0"), from_sft=False)
IGPO = Arm("IGPO: hints from the trace, the answer hidden", RL)
GRPO = Arm("GRPO: no hints", (*RL, "--injection", "none"))
RESAMPLE = Arm("equal budget: a second rollout of stuck groups, without hints", (*RL, "--injection", "resample"))
FRESH = (11, 12, 13)


def hinted(about: str, *flags: str) -> Arm:
    """IGPO with other options."""
    return Arm(about, (*RL, *flags))


def share(low: float, high: float) -> tuple[str, ...]:
    return ("--injection.low", str(low), "--injection.high", str(high))


STUDIES = {
    "main": Study(
        "Does hinting help?",
        {
            "sft": SFT,
            "sft-more": Arm("plain SFT continued on the traces that IGPO takes its hints from", MORE_SFT),
            "grpo": GRPO,
            "resample": RESAMPLE,
            "igpo": IGPO,
        },
        against="grpo",
        seeds=(1, 2, 3, 4, 5),
    ),
    "eta": Study(
        "How much of the trace should be shown? (`igpo` draws the share from .2 to .6)",
        {"igpo": IGPO}
        | {f"eta-{eta}": hinted(f"a share of {eta}", *share(eta, eta)) for eta in (0.2, 0.4, 0.6, 0.8, 1.0)},
        against="igpo",
        seeds=FRESH,
    ),
    "eta-fine": Study(
        "The same with chunks of one to three tokens, of which the 13 hintable tokens of a list problem make about seven.",
        {"fine": hinted("a share from .2 to .6", *FINE)}
        | {
            f"fine-eta-{eta}": hinted(f"a share of {eta}", *FINE, *share(eta, eta)) for eta in (0.2, 0.4, 0.6, 0.8, 1.0)
        },
        against="fine",
        seeds=FRESH,
    ),
    "tau": Study(
        "How many of the hint tokens should carry gradient? (`igpo`: the most uncertain .2)",
        {"igpo": IGPO}
        | {f"tau-{tau}": hinted(f"the most uncertain {tau}", "--filter.tau", str(tau)) for tau in (0.1, 0.5, 0.8, 1.0)},
        against="igpo",
        seeds=FRESH,
    ),
    "lambda": Study(
        "How much of a stuck group may be replaced? (`igpo`: half)",
        {"igpo": IGPO} | {f"lambda-{part}": hinted(f"{part} of it", "--replace", str(part)) for part in (0.25, 0.75)},
        against="igpo",
        seeds=FRESH,
    ),
    "estimator": Study(
        "How should log pi(o) be estimated? (`igpo`: part of the completion masked, one forward)",
        {
            "igpo": IGPO,
            "mean-field": hinted("all of the completion masked, one forward", "--estimator", "mean-field"),
            "coupled": hinted("a mask and its complement, three forwards", "--estimator", "coupled"),
            "trajectory": hinted(
                "the order of decoding replayed in groups of 4 steps",
                "--estimator",
                "trajectory",
                "--estimator.steps",
                "4",
            ),
            "elbo": hinted("one antithetic pair, a ratio of the whole row", "--estimator", "elbo", "--loss", "gspo"),
            "sandwich": hinted(
                "two masks, bounds by the sign of the advantage", "--estimator", "sandwich", "--loss", "spg"
            ),
        },
        against="igpo",
        seeds=FRESH,
    ),
    "injection": Study(
        "Which pieces should be shown? (`igpo`: random chunks, a share from .2 to .6)",
        {
            "igpo": IGPO,
            "adaptive": hinted("the smallest share that rescues", "--injection", "adaptive"),
            "prefix": hinted("the beginning of the solution", "--injection", "prefix"),
        },
        against="igpo",
        seeds=FRESH,
    ),
    "few": Study(
        "Does RL with hints beat imitation where traces are few? 32 problems instead of 480, the same for all arms.",
        {
            "few-sft-more": Arm("plain SFT continued on the 32 traces", (*MORE_SFT, *FEW)),
            "few-grpo": Arm("GRPO: no hints", (*GRPO.flags, *FEW)),
            "few-igpo": hinted("IGPO: hints from the 32 traces", *FEW),
        },
        against="few-sft-more",
        seeds=FRESH,
    ),
    "words": Study(
        "Does hinting help a model of 88 M parameters with word problems in natural language?",
        {
            "words-sft": SFT,
            "words-sft-more": Arm("plain SFT continued on the traces that IGPO takes its hints from", WORDS_MORE_SFT),
            "words-grpo": GRPO,
            "words-resample": RESAMPLE,
            "words-igpo": IGPO,
        },
        against="words-grpo",
        seeds=FRESH,
        file=WORDS,
        start="words-sft",
        gpu=True,
    ),
}
ARMS = {name: arm for study in STUDIES.values() for name, arm in study.arms.items()}
STUDY_OF = {name: study for study in reversed(STUDIES.values()) for name in study.arms}
"""The first study that an arm belongs to."""
