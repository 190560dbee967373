"""The options that all models share which are read from a directory: a record that they inherit, each written down once."""

from __future__ import annotations

from attrs import field, frozen, validators


@frozen(kw_only=True)
class Stored:
    """Where a model is read from, and how."""

    path: str
    """A directory, or a name on the Hugging Face hub (downloaded once)."""
    mask_id: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The mask token, where neither the model's config nor its tokenizer names one."""
    compile: bool = False
    """Compile the layers with torch.compile: minutes at first use, faster after."""
