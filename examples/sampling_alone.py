"""igpo_sampling used alone: a model made from nothing, generation, inpainting, and a directory that loads again.

The model is untrained, so it babbles; what is given stays.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from igpo_sampling import Canvas, LLaDA, LLaDASampler, Tiny


def main() -> list[str]:
    """Print the canvas of one row as it fills in, and return the two completions."""
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "."]
    model = Tiny(width=32, layers=2, heads=2)(vocabulary=words, seed=1)
    ids, text = model.tokenizer.convert_tokens_to_ids, model.tokenizer.decode

    prompts = [torch.tensor(ids(["the", "cat"])), torch.tensor(ids(["a", "dog", "ran"]))]  # padded on the left
    canvas = Canvas.blank(prompts, width=8, mask_id=model.mask_id, pad_id=model.pad_id)

    hints = torch.full((2, 8), -1)  # -1: leave blank
    hints[:, 3:5] = torch.tensor(ids(["on", "mat"]))

    sampler = LLaDASampler(steps=4, block=8, temperature=1.0)
    sample = sampler(
        model.denoiser,
        canvas.inpaint(hints),
        seeds=torch.tensor([11, 12]),  # a row's draws depend on its own seed alone
        mask_id=model.mask_id,
        eos_id=model.eos_id,
        watch=lambda step, tokens: print(step, text(tokens[0])),
    )
    print("committed at step", sample.order[0].tolist(), "in", sample.forwards.tolist(), "forwards")

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        again = LLaDA(path=folder)()  # the same format as published LLaDA checkpoints
        same = sampler(
            again.denoiser,
            canvas.inpaint(hints),
            torch.tensor([11, 12]),
            mask_id=again.mask_id,
            eos_id=again.eos_id,
        )
    assert torch.equal(sample.completion, same.completion)
    return [text(row) for row in sample.completion]


if __name__ == "__main__":
    print(*main(), sep="\n")
