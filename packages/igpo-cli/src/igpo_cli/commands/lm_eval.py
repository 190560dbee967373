"""`igpo lm-eval`: lm-eval's own command with our models and samplers in it."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli import launch
from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from igpo_cli.config import Config

PAIRS = 16
"""Pairs of masks of the ELBO that is taken for log-likelihoods unless --estimator says otherwise."""
OF_LM_EVAL = ("ls", "validate")
"""Commands of lm-eval that need no model."""


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "lm-eval", tables=("", "model", "sampler", "estimator"))
    def lm_eval(
        config: Config,
        *,
        context: Annotated[
            int,
            typer.Option(min=2, help="Tokens of prompt and completion at most; longer prompts lose their beginning."),
        ] = 4096,
    ) -> None:
        """Evaluate a model or a run with lm-eval: igpo lm-eval runs/NAME -- --tasks gsm8k --limit 100.

        What stands behind the -- is lm-eval's own command line, without --model and --model_args. Texts come from the
        sampler as it is configured, log-likelihoods from the ELBO (16 pairs of masks) or the estimator that --estimator
        names; left-to-right is the exact one of that policy.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise UsageError("igpo lm-eval needs lm-eval, which is not installed. pip install 'igpo-cli[lm-eval]'")
        if launch.ranks() > 1:
            raise UsageError("igpo lm-eval runs in one process. Start it without a launcher.")
        if not app.rest:
            raise UsageError(
                "igpo lm-eval needs lm-eval's options behind a --, such as igpo lm-eval runs/NAME -- --tasks gsm8k. "
                "igpo lm-eval -- run --help shows them."
            )
        serve(config, app.rest, context)


def serve(config: Config, words: list[str], context: int) -> None:
    """Give the model to lm-eval's command line and run that."""
    from attrs import asdict
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from igpo_cli.assemble import device_of, load_model, trained_model
    from igpo_cli.contestants import digest
    from igpo_cli.harness import Harness
    from igpo_rl import ELBO

    def made(rows: int) -> Harness:
        loaded = load_model(config, trained_model(config))
        sampler, estimator = config.plugin("sampler"), config.plugin("estimator") if chosen else ELBO(samples=PAIRS)
        about = {
            "weights": digest(loaded.denoiser),
            "model": config.values["model"],
            "sampler": config.values["sampler"],
            "estimator": config.values["estimator"] if chosen else {"name": "elbo", **asdict(estimator)},
            **{key: config.values[key] for key in ("width", "seed", "dtype", "attend_eos")},
            "device": device_of(config),
            "context": context,
        }
        return Harness(
            loaded,
            sampler=sampler,
            estimator=estimator,
            width=config.run.width,
            context=context,
            rows=rows,
            seed=config.run.seed,
            attend_eos=config.run.attend_eos,
            about=about,
        )

    chosen = config.origins.get("estimator.name") == "flag"
    own: list[str] = []
    if words[0] not in OF_LM_EVAL:
        words = words[words[0] == "run" :]
        own = ["run", "--model", "igpo"]
        if not {"-b", "--batch_size"} & {word.partition("=")[0] for word in words}:
            own += ["--batch_size", str(getattr(config.plugin("sampler"), "max_rows", 64))]
    Harness.made = staticmethod(made)
    before: Any = sys.argv
    sys.argv = ["lm-eval", *own, *words]  # which is where it reads them
    try:
        setup_logging()
        cli = HarnessCLI()
        cli.execute(cli.parse_args())
    finally:
        sys.argv = before
