"""A real but tiny denoiser, a real but naive player and a task, shared by the tests of igpo-rl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from igpo_rl.problems import problem_from_text
from igpo_rl.records import Problem, Rollouts
from igpo_rl.seeds import derive, uniforms

LETTERS = "abcd#"
EOS, MASK, PAD = 5, 6, 7
VOCABULARY = 8


class TinyDenoiser(nn.Module):
    """One attention layer over the whole canvas; counts its forwards and the rows given to its head."""

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = 16, length: int = 32, seed: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([nn.ModuleDict({name: nn.Linear(width, width) for name in ("q", "k", "v", "o")})])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocabulary)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.inputs: list[int] = []
        self.head_rows: list[int] = []

    def forward(self, tokens, attention, where, read=None):
        self.inputs.append(len(tokens))
        # Positions are counted from the right, so that left padding does not move them.
        hidden = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1] - 1, -1, -1))
        for block in self.blocks:
            mixed = nn.functional.scaled_dot_product_attention(
                block["q"](hidden), block["k"](hidden), block["v"](hidden), attn_mask=attention[:, None, :]
            )
            hidden = hidden + self.dropout(torch.tanh(block["o"](mixed)))
        hidden = hidden.flatten(0, 1)[where]

        def head(rows: Tensor) -> Tensor:
            self.head_rows.append(len(rows))
            return self.head(rows)

        return head(hidden) if read is None else read(head, hidden)


def encode(text: str) -> Tensor:
    return torch.tensor([LETTERS.index(letter) for letter in text])


def decode(tokens: Tensor) -> str:
    """Up to the first EOS."""
    return "".join(LETTERS[token] for token in takewhile(lambda token: token != EOS, tokens.tolist()))


def problem(question: str, trace: str | None = None) -> Problem:
    """The trace's part from "#" on is its answer."""
    if trace is None:
        return problem_from_text(question, encode(question))
    offsets = [(index, index + 1) for index in range(len(trace))]
    answer = trace.index("#")
    return problem_from_text(
        question, encode(question), encode(trace), offsets, trace, [(answer, len(trace))], trace[answer + 1 :]
    )


def problems(count: int = 4, length: int = 12) -> list[Problem]:
    """Questions of unequal length; every letter of the trace comes from the question's key."""
    made = []
    for index in range(count):
        letters = "".join("abcd"[derive("letter", index, place) % 4] for place in range(length))
        made.append(
            problem(
                "abcd"[index % 4] * (1 + index % 3) + "abcd"[index // 4 % 4], letters[: length - 2] + "#" + letters[-1]
            )
        )
    return made


def endless(items: Sequence[Problem]) -> Iterator[Problem]:
    while True:
        yield from items


class Player:
    """Samples every blank at once from the policy's marginals; `judge(problem, completion) -> correct` decides."""

    def __init__(self, policy: nn.Module, width: int, judge, *, end_share: float = 0.0) -> None:
        self.policy, self.width, self.judge, self.end_share = policy, width, judge, end_share
        self.calls: list[tuple[int, Tensor | None, Tensor]] = []

    @torch.no_grad()
    def __call__(self, problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
        self.calls.append((len(problems), overlay, seeds))
        rows, longest = len(problems), max((len(one.prompt) for one in problems), default=1)
        prompt = torch.full((rows, longest), PAD)
        valid_prompt = torch.zeros(rows, longest, dtype=torch.bool)
        for row, one in enumerate(problems):
            prompt[row, longest - len(one.prompt) :] = one.prompt
            valid_prompt[row, longest - len(one.prompt) :] = True
        overlay = torch.full((rows, self.width), -1) if overlay is None else overlay
        given = overlay >= 0
        canvas = torch.cat([prompt, overlay.where(given, MASK)], 1)
        attention = torch.cat([valid_prompt, torch.ones_like(given)], 1)
        logits = self.policy(canvas, attention, torch.arange(canvas.numel())).view(*canvas.shape, VOCABULARY)[
            :, longest:
        ]
        chances = logits[..., : EOS + 1].float().softmax(-1)
        drawn = (chances.cumsum(-1) < uniforms(seeds, self.width)[..., None]).sum(-1).clamp(max=EOS)
        drawn = drawn.masked_fill((drawn == EOS) & (uniforms(seeds, self.width, stream=1) >= self.end_share), 0)
        completion = overlay.where(given, drawn)
        ends = completion == EOS
        valid = ends.cumsum(1) - ends.long() == 0
        correct = torch.tensor(
            [bool(self.judge(one, decode(text))) for one, text in zip(problems, completion, strict=True)],
            dtype=torch.bool,
        )
        return Rollouts(
            prompt=prompt,
            prompt_valid=valid_prompt,
            completion=completion,
            given=given,
            valid=valid,
            order=torch.zeros_like(completion).masked_fill(given, -1),
            confidence=torch.ones(rows, self.width),
            reward=correct.float(),
            correct=correct,
            verifiable=torch.ones(rows, dtype=torch.bool),
            group=torch.zeros(rows, dtype=torch.long),
            forwards=torch.ones(rows, dtype=torch.long),
            ended=ends.any(1),
        )
