"""What is given and what is blank.

Sampling is inpainting of a canvas: plain generation is a canvas whose completion is all blank, a hinted rollout one
whose completion is partly given. What is given is written down, never inferred from mask ids.
Letters: B rows, P prompt width (left-padded), L completion width, T = P + L.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor


@frozen(eq=False)
class Canvas:
    """Rows of tokens, what of them is attended, and what of them is given."""

    tokens: Tensor
    """(B, T) long; what stands in a blank cell does not matter."""
    attention: Tensor
    """(B, T) bool: False on left padding, and only there."""
    given: Tensor
    """(B, T) bool: True on the prompt (its padding too) and on hints, the cells that no sampler changes."""
    width: int
    """L, the completion's tokens: the last L columns."""

    def __attrs_post_init__(self) -> None:
        shape = self.tokens.shape
        if len(shape) != 2 or self.attention.shape != shape or self.given.shape != shape:
            raise ValueError(
                "tokens, attention and given must all be (B, T), but are "
                f"{tuple(shape)}, {tuple(self.attention.shape)} and {tuple(self.given.shape)}."
            )
        kinds = (self.tokens.dtype, self.attention.dtype, self.given.dtype)
        if kinds != (torch.long, torch.bool, torch.bool):
            raise ValueError(f"tokens, attention and given must be long, bool and bool, but are {kinds}.")
        if not 1 <= self.width <= shape[1]:
            raise ValueError(f"width = {self.width} must lie between 1 and the canvas width, {shape[1]}.")
        prompt = shape[1] - self.width
        if not self.given[:, :prompt].all():
            raise ValueError("the prompt holds blanks. Only completion cells may be blank.")
        if not self.attention[:, prompt:].all() or (self.attention[:, :-1] & ~self.attention[:, 1:]).any():
            raise ValueError("attention may be False on the left of a prompt only. Pad on the left.")

    @classmethod
    def blank(cls, prompts: Sequence[Tensor | Sequence[int]], width: int, *, mask_id: int, pad_id: int) -> Canvas:
        """Prompts (P_i,) long, or lists of ids, of any lengths, each followed by `width` blanks."""
        if width < 1:
            raise ValueError(f"width = {width} must be at least 1.")
        rows = [torch.as_tensor(prompt, dtype=torch.long) for prompt in prompts]
        device = rows[0].device if rows else None
        lengths = torch.tensor([len(prompt) for prompt in rows], dtype=torch.long, device=device)
        P = max(map(len, rows), default=0)
        column = torch.arange(P + width, device=device)
        tokens = torch.full((len(rows), P + width), pad_id, device=device)
        for row, prompt in enumerate(rows):
            tokens[row, P - len(prompt) : P] = prompt
        tokens[:, P:] = mask_id
        attention = column >= P - lengths[:, None]
        return cls(tokens, attention, (column < P).repeat(len(rows), 1), width)

    def inpaint(self, overlay: Tensor) -> Canvas:
        """Overlay (B, L) long: token ids to give, -1 = leave as it is."""
        if overlay.shape != self.completion.shape:
            raise ValueError(
                f"the overlay is {tuple(overlay.shape)}, the completion {tuple(self.completion.shape)}: both must be (B, L)."
            )
        hint = overlay >= 0
        P = self.tokens.shape[1] - self.width
        if (overlay < -1).any():
            raise ValueError(f"the overlay holds {int(overlay.min())}; a cell is a token id or -1 (leave as it is).")
        if (hint & self.given[:, P:] & (overlay != self.completion)).any():
            raise ValueError("the overlay changes a token that is already given.")
        tokens, given = self.tokens.clone(), self.given.clone()
        tokens[:, P:] = torch.where(hint, overlay, self.completion)
        given[:, P:] |= hint
        return evolve(self, tokens=tokens, given=given)

    @property
    def completion(self) -> Tensor:
        """(B, L) long, a view."""
        return self.tokens[:, self.tokens.shape[1] - self.width :]

    @property
    def blanks(self) -> Tensor:
        """(B, L) bool: the completion cells that are not given."""
        return ~self.given[:, self.tokens.shape[1] - self.width :]

    def to(self, device: torch.device | str) -> Canvas:
        """The same canvas on another device."""
        return evolve(
            self, tokens=self.tokens.to(device), attention=self.attention.to(device), given=self.given.to(device)
        )

    def __len__(self) -> int:
        return int(self.tokens.shape[0])
