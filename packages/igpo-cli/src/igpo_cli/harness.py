"""A masked-diffusion model as lm-eval sees a language model: texts from a sampler, log-likelihoods from an estimator.

Imported by `igpo lm-eval` alone, because lm-eval is an extra.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from igpo_cli import errors
from igpo_cli.play import EndHidden, decode
from igpo_rl import Rollouts, derive, token_scores
from igpo_rl.views import by_row, cut
from igpo_sampling import Canvas, Loaded

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[tuple[str, str], list[int], list[int]]
"""(context, continuation) and their ids, as `TemplateLM` makes them."""


@register_model("igpo")
class Harness(TemplateLM):  # type: ignore[misc]
    """One model with its sampler and its estimator."""

    made: ClassVar[Callable[[int], Harness]]
    """Makes the model that `igpo lm-eval` was told, for so many rows at a time; lm-eval knows nothing but a name."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        sampler: Any,
        estimator: Any,
        width: int,
        context: int,
        rows: int,
        seed: int,
        attend_eos: bool,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`width`: tokens of a generated text; `context`: of prompt and text together, longer prompts lose their beginning.
        `about`: what stands in lm-eval's result file of this model."""
        super().__init__()
        self.loaded, self.sampler, self.estimator = loaded, sampler, estimator
        self.width, self.context, self.rows, self.seed = width, context, rows, seed
        self.attend_eos = attend_eos
        self.about = dict(about or {})
        self.tokenizer = loaded.tokenizer
        self._device = next(loaded.denoiser.parameters()).device
        self._told: set[str] = set()

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Harness:
        """What lm-eval calls; the model's options are igpo's, so it has none of lm-eval's `--model_args`."""
        if arg_dict:
            raise errors.UsageError(
                f"--model_args {', '.join(arg_dict)}: say it before the --, such as --model.path DIR."
            )
        return cls.made(int((additional_config or {}).get("batch_size") or 1))

    # What lm-eval asks for -------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.loaded.eos_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path or type(self.tokenizer).__name__).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its own settings."""
        return {"igpo": self.about}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        """Ids without special tokens: a canvas begins with the prompt."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    # Texts -------------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The sampler's text up to EOS, cut at the first stop string. Length, steps and temperature are the sampler's."""
        again: Counter[str] = Counter()
        work = []
        for place, request in enumerate(requests):
            prompt, options = request.args
            seed = derive(self.seed, "lm-eval", prompt, again[prompt])  # repeats of a request are samples of their own
            again[prompt] += 1
            self._tell(options)
            work.append((place, self.tok_encode(prompt)[-max(1, self.context - self.width) :], seed))
        texts = [""] * len(requests)
        for batch in self._batches(work, lambda item: len(item[1]), disable_tqdm):
            for (place, _, _), text in zip(batch, self._texts(batch), strict=True):
                texts[place] = until(text, requests[place].args[1].get("until"))
                self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])
        return texts

    def _texts(self, batch: Sequence[tuple[int, list[int], int]]) -> list[str]:
        prompts = [torch.tensor(ids, dtype=torch.long, device=self._device) for _, ids, _ in batch]
        canvas = Canvas.blank(prompts, self.width, mask_id=self.loaded.mask_id, pad_id=self.loaded.pad_id)
        denoiser = self.loaded.denoiser
        if not self.attend_eos:
            denoiser = EndHidden(denoiser, self.width, self.loaded.eos_id)
        seeds = torch.tensor([seed for _, _, seed in batch], device=self._device)
        with torch.no_grad():
            sample = self.sampler(denoiser, canvas, seeds, mask_id=self.loaded.mask_id, eos_id=self.loaded.eos_id)
        return decode(self.tokenizer, sample.completion, self.loaded.eos_id)

    def _tell(self, options: dict[str, Any]) -> None:
        """Say once where a task asks for something else than the sampler does."""
        ours = getattr(self.sampler, "temperature", 0.0)
        asked = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        length = options.get("max_gen_toks") or options.get("max_tokens")
        notes = []
        if asked != ours:
            notes.append(f"the task asks for temperature {asked:g}; --sampler.temperature {ours:g} is taken")
        if length and int(length) != self.width:
            notes.append(f"the task asks for {length} tokens; --width {self.width} is taken")
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                errors.note(note)

    # Log-likelihoods -----------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As `TemplateLM`; but without a context a canvas begins with the text, and with no EOS in the place of one."""
        pairs: list[Pair] = []
        for request in requests:
            context, continuation = request.args
            ids = self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation))
            pairs.append(((context, continuation), *ids))
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The estimate of log p(continuation | context) in nats, and whether every token was the most likely one wherever the
        estimator scored it: with `left-to-right`, whether greedy decoding from left to right would write it."""
        found = [(0.0, True)] * len(requests)
        work = [(place, *request) for place, request in enumerate(requests) if request[2]]
        for batch in self._batches(work, lambda item: len(item[2]) + len(item[3]), disable_tqdm):
            for (place, texts, _, _), result in zip(batch, self._scores([item[1:] for item in batch]), strict=True):
                found[place] = result
                if texts[0] is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Texts in pieces of `width` tokens, each given what fits of those before it."""
        pieces: list[Pair] = []
        owners = []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for start in range(0, len(ids), self.width):
                before = ids[max(0, start - max(0, self.context - self.width)) : start]
                pieces.append(((request.args[0], str(start)), before, ids[start : start + self.width]))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(pieces, disable_tqdm), strict=True):
            totals[owner] += value
        return totals

    def _scores(self, batch: Sequence[Pair]) -> list[tuple[float, bool]]:
        rollouts = self._rows(batch)
        seeds = [derive(self.seed, "lm-eval", *texts) for texts, _, _ in batch]
        view = self.estimator(
            rollouts,
            torch.zeros(len(batch), device=self._device),
            torch.tensor(seeds, device=self._device),
            self.loaded.mask_id,
        )
        copies = -(-len(view.source) // len(batch))
        most = max(1, self.rows // copies)
        values: list[float] = []
        greedy: list[bool] = []
        for start in range(0, len(batch), most):
            stop = min(len(batch), start + most)
            part = cut(view, start, stop)
            with torch.no_grad():
                scores = token_scores(self.loaded.denoiser, part, rollouts.completion[start:stop], hits=True)
            values += by_row(part, scores.logp, stop - start).sum(1).tolist()
            missed = torch.zeros(stop - start, dtype=torch.long, device=self._device)
            missed.index_add_(0, part.row, (part.scored & ~scores.hit).sum(1))
            greedy += (missed == 0).tolist()
        return list(zip(values, greedy, strict=True))

    def _rows(self, batch: Sequence[Pair]) -> Rollouts:
        """Contexts padded to the left, continuations to the right; the padding of neither is attended."""
        contexts = [context[max(0, len(context) + len(text) - self.context) :] for _, context, text in batch]
        prompt, prompt_valid = padded(contexts, self.loaded.pad_id, left=True, device=self._device)
        completion, valid = padded([text for _, _, text in batch], self.loaded.pad_id, left=False, device=self._device)
        size = len(batch)
        none = torch.zeros(size, device=self._device)
        return Rollouts(
            prompt=prompt,
            prompt_valid=prompt_valid,
            completion=completion,
            given=torch.zeros_like(valid),
            valid=valid,
            attention=valid,
            order=torch.zeros_like(completion),
            confidence=torch.zeros_like(completion, dtype=torch.float32),
            reward=none,
            correct=none.bool(),
            verifiable=none.bool(),
            group=torch.arange(size, device=self._device),
            forwards=torch.zeros_like(none, dtype=torch.long),
        )

    def _batches(self, work: list[Any], length: Callable[[Any], int], silent: bool) -> Any:
        """`rows` at a time, of similar length, the longest first: what does not fit shows at once."""
        from rich.console import Console
        from rich.progress import track

        ordered = sorted(work, key=length, reverse=True)
        parts = [ordered[start : start + self.rows] for start in range(0, len(ordered), self.rows)]
        console = Console(stderr=True)
        return track(parts, "batches", console=console, transient=True, disable=silent or not console.is_terminal)


def padded(rows: Sequence[list[int]], pad_id: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, W) long and which are real (B, W) bool."""
    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[at, place] = torch.tensor(row, dtype=torch.long)
        real[at, place] = True
    return ids.to(device), real.to(device)


def until(text: str, stops: str | Sequence[str] | None) -> str:
    """The text before the first of the stop strings."""
    words = [stops] if isinstance(stops, str) else stops or []
    ends = [at for stop in words if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
