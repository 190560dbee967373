"""A vocabulary for the word problems: byte pairs of the SFT problems and their solutions.

Bytes alone would make canvases three times as long. Digits stay single, so that numbers are spelt in one way.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from igpo_data import Procedural

ENTRIES = 2048


def learned_tokenizer(folder: Path, file: Path) -> Path:
    """`folder` with a tokenizer of the problems that the configuration `file` names under [sft.task]; made once."""
    if folder.is_dir():
        return folder
    options = tomllib.loads(file.read_text(encoding="utf-8"))["sft"]["task"]
    options.pop("name")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator((f"{task.prompt}\n{task.trace}" for task in Procedural(**options)("train")), trainer)
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    core.save(str(aside / "tokenizer.json"))
    aside.rename(folder)
    return folder
