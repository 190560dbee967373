"""The options that the samplers share. Records of their own, which they inherit, so that each is written down once."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

AT_LEAST_ONE: Any = validators.optional(validators.ge(1))


@frozen(kw_only=True)
class Decoding:
    """How tokens are drawn and a canvas is walked; which of them are committed at a step is the samplers' own business."""

    block: int | None = field(default=32, validator=AT_LEAST_ONE)
    """Tokens of a block, filled one block after the other; the last may be short. none: the whole completion is one."""
    temperature: float = field(default=1.2, validator=validators.ge(0.0))
    """Sampling temperature; 0 takes the most probable token."""
    top_p: float = field(default=1.0, validator=[validators.gt(0.0), validators.le(1.0)])
    """Sample from the fewest tokens that hold this share of the probability; 1 is off."""
    top_k: int | None = field(default=None, validator=AT_LEAST_ONE)
    """Sample from the so many most probable tokens; none is off."""
    guidance: float = field(default=0.0, validator=validators.ge(0.0))
    """Classifier-free guidance: by how much logits move on, away from those without prompt and hints; 0 is off."""
    stop_at_eos: bool = False
    """Fill a row with EOS once a whole block is EOS and no hint follows."""
    eos_after: int = field(default=0, validator=validators.ge(0))
    """Completion tokens that come before the first sampled EOS, at least."""
    cache: Literal["none", "prefix", "dual"] = field(
        default="none", validator=validators.in_(("none", "prefix", "dual"))
    )
    """Keys and values kept while a block is filled: those before it (prefix), those behind it too (dual); none is exact."""
    max_rows: int = field(default=64, validator=validators.ge(1))
    """Rows of one forward; further rows move up as others are done."""


@frozen(kw_only=True)
class Scheduled(Decoding):
    """Those of samplers that commit a fixed number of tokens a step."""

    steps: int = field(default=128, validator=validators.ge(1))
    """Denoising steps of the whole completion, shared by its blocks."""
