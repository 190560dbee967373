"""Who makes a worked solution concise: fixed rules, a model behind an OpenAI-compatible server, or a local model.

A rewriter is called with one task and gives a draft. Whether the draft is taken is not for it to say (`rewrite.py`).
"""

from __future__ import annotations

import os
import re
import threading
from functools import lru_cache
from typing import Any, Protocol

from attrs import field, frozen, validators

from igpo_data.extraction import extract_answer
from igpo_data.task import Task

INSTRUCTION = """\
Below are a problem and a solution that is right but long. Write the solution anew in fewer words: keep every step that \
the result depends on and every calculation, leave out detours, doubts, repetitions and checks. End with the same final \
answer in the same form ({form}). Answer with the new solution alone.

Problem:
{prompt}

Solution:
{trace}"""


@frozen(kw_only=True)
class Draft:
    """A rewritten solution and what it took."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_off: bool = False
    """True where the model was stopped by its token limit."""


class Rewriter(Protocol):
    """Makes a trace concise; may be called from several threads."""

    @property
    def identity(self) -> tuple[str | int | float, ...]:
        """All that the draft of a task depends on: drafts of the same identity are not asked for twice."""
        ...

    def __call__(self, task: Task) -> Draft:
        """A draft for a task with a trace; RefusedError or FailedError where there is none."""
        ...


class RefusedError(RuntimeError):
    """This one row was refused (too long, filtered): asking again would not help."""


class FailedError(RuntimeError):
    """No answer after all tries; asking later may help."""


class UnusableError(RuntimeError):
    """No row can be rewritten in this way; the message says what to mend."""


# Rules ---------------------------------------------------------------------------------------------------------------

EXCLAMATION = re.compile(
    r"(?:(?:(?:but|oh|no|and|so)[,.]? )?(?:wait|hmm+|hold on|okay|ok|alright|oh|yeah|yes|actually|alternatively)\b[,.!:\u2026 ]{0,4})+",
    re.IGNORECASE,
)
CHECK = re.compile(
    r"(?:let me|let's|let us|i should|i need to|i want to|i'll|maybe i should)(?: (?:just|also|quickly|first|now))?"
    r" (?:double[- ]?check|check|verify|re-?check|re-?read|re-?consider|re-?think|re-?calculate|think|see|make sure|confirm)\b"
    r"|(?:that|this|which|it)(?: all)? (?:makes sense|(?:seems|looks|is) (?:right|correct|good)|checks out)\b"
    r"|(?:is|does) (?:that|this) (?:right|correct|make sense)\b"
    r"|i (?:think|believe) (?:that's|that is|this is) (?:right|correct|it)\b",
    re.IGNORECASE,
)
STEP = re.compile(r"[0-9=<>\u2264\u2265\u2248\\]|answer", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?])[ \t]+(?=[A-Z\\$(])")
TAG = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
REPEATED = 20
# Characters of a line from which on a second one like it is left out.


@frozen(kw_only=True)
class Rules:
    """Without a model: leaves out reflections, repeated lines and blank lines, and keeps every step."""

    @property
    def identity(self) -> tuple[str | int | float, ...]:
        return ("rules",)

    def __call__(self, task: Task) -> Draft:
        """Nothing with a number or a formula in it is left out, but a second copy of a line is."""
        return Draft(text=condense(task.trace or ""))


def condense(trace: str) -> str:
    """The trace without reflections, repetitions and blank lines; only what follows </think>, if that states an answer."""
    _, tag, said = trace.rpartition("</think>")
    if tag and extract_answer(said) is not None:
        trace = said
    lines: dict[str, None] = {}
    for number, line in enumerate(TAG.sub("\n", trace).splitlines()):
        kept = " ".join(filter(None, map(_sentence, SENTENCE.split(line.rstrip()))))
        if kept:
            # The number makes a line differ from every other.
            lines.setdefault(kept if len(kept) >= REPEATED and extract_answer(kept) is None else f"{kept}\0{number}")
    return "\n".join(line.partition("\0")[0] for line in lines).strip()


def _sentence(sentence: str) -> str:
    """The sentence, what is left of it behind an exclamation, or nothing."""
    text = sentence.lstrip()
    exclaimed = EXCLAMATION.match(text)
    rest = text[exclaimed.end() :] if exclaimed else text
    if (exclaimed or CHECK.match(rest)) and not STEP.search(rest):
        return ""
    return rest[:1].upper() + rest[1:] if exclaimed else sentence


# Models --------------------------------------------------------------------------------------------------------------


def request(instruction: str, task: Task) -> str:
    """What a model is asked; not by str.format, since problems are full of braces."""
    trace = task.trace or ""
    form = "\\boxed{...}" if "\\boxed" in trace else "#### ..." if "####" in trace else "The answer is ..."
    parts = {"{form}": form, "{prompt}": task.prompt, "{trace}": trace}
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], instruction)


def _asks(_: object, __: object, value: str) -> None:
    if "{trace}" not in value:
        raise ValueError(
            "the instruction does not hold {trace}, where the solution is put; {prompt} and {form} are optional"
        )


@frozen(kw_only=True)
class Server:
    """A model behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, a paid one."""

    url: str = field(validator=validators.min_len(1))
    """Where it answers, up to /v1."""
    model: str = field(validator=validators.min_len(1))
    """Name by which the server knows the model."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; servers that ask for none need none."""
    instruction: str = field(default=INSTRUCTION, validator=_asks)
    """What is asked, with {prompt}, {trace} and {form} for the problem, its solution and the form of the answer."""
    temperature: float = field(default=0.0, validator=validators.ge(0.0))
    """0 for the likeliest text."""
    tokens: int = field(default=2048, validator=validators.ge(1))
    """Most tokens of an answer; one that is cut off there is dropped."""
    retries: int = field(default=6, validator=validators.ge(0))
    """Further tries, after growing pauses, where the server is busy, fails or cannot be reached."""
    timeout: float = field(default=300.0, validator=validators.gt(0.0))
    """Seconds to wait for one answer."""

    @property
    def identity(self) -> tuple[str | int | float, ...]:
        return ("server", self.model, self.instruction, self.temperature, self.tokens)

    def __call__(self, task: Task) -> Draft:
        """One request; the client tries again by itself, with exponential pauses or as long as the server says."""
        openai, client = _client(self.url, self.key_variable, self.retries, self.timeout)
        try:
            answer = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": request(self.instruction, task)}],
                temperature=self.temperature,
                max_tokens=self.tokens,
            )
        except openai.APIStatusError as error:
            said = f"{error.status_code}: {error.message}"[:300]
            if error.status_code in (400, 413, 422):
                raise RefusedError(said) from error
            if error.status_code in (401, 403, 404):
                raise UnusableError(
                    f"{self.url} answered {said}. Is the model '{self.model}' right, and the key in {self.key_variable}?"
                ) from error
            raise FailedError(said) from error
        except openai.APIConnectionError as error:
            raise FailedError(f"{self.url}: {error}") from error
        if not answer.choices:
            raise FailedError(f"{self.url} answered without a choice")
        usage = answer.usage
        return Draft(
            text=spoken(answer.choices[0].message.content or ""),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            cut_off=answer.choices[0].finish_reason == "length",
        )


@lru_cache(maxsize=8)
def _client(url: str, key_variable: str, retries: int, timeout: float) -> tuple[Any, Any]:
    """The module openai and a client, which keeps its connections."""
    try:
        import openai
    except ModuleNotFoundError as error:
        raise UnusableError("the client is not installed; pip install 'igpo-data[server]'") from error
    key = os.environ.get(key_variable) or "none"
    return openai, openai.OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)


@frozen(kw_only=True)
class Local:
    """A causal language model of transformers from a directory, one row after the other, always its likeliest text."""

    path: str = field(validator=validators.min_len(1))
    """Directory with the model and its tokenizer."""
    instruction: str = field(default=INSTRUCTION, validator=_asks)
    """What is asked, with {prompt}, {trace} and {form} for the problem, its solution and the form of the answer."""
    tokens: int = field(default=2048, validator=validators.ge(1))
    """Most tokens of an answer; one that is cut off there is dropped."""

    @property
    def identity(self) -> tuple[str | int | float, ...]:
        return ("local", self.path, self.instruction, self.tokens)

    def __call__(self, task: Task) -> Draft:
        """Greedy; the chat template is used where the tokenizer has one."""
        lock, tokenizer, model = _load(self.path)
        text = request(self.instruction, task)
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        with lock:
            given = tokenizer(text, return_tensors="pt", return_token_type_ids=False).to(model.device)
            width = given["input_ids"].shape[1]
            made = model.generate(**given, max_new_tokens=self.tokens, do_sample=False)[0, width:]
        return Draft(
            text=spoken(tokenizer.decode(made, skip_special_tokens=True)),
            prompt_tokens=width,
            completion_tokens=len(made),
            cut_off=len(made) >= self.tokens,
        )


@lru_cache(maxsize=1)
def _load(path: str) -> tuple[threading.Lock, Any, Any]:
    """Lock, tokenizer and model of a directory."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise UnusableError("a local model needs torch and transformers; pip install 'igpo-data[local]'") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype="auto").to(device).eval()
    return threading.Lock(), tokenizer, model


def spoken(text: str) -> str:
    """What a reasoning model says behind its thoughts."""
    return text.rpartition("</think>")[2].strip()
