"""Changed bytes in the newest checkpoint: noticed when the run goes on, or of no consequence."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random

from drills.runs import Row, differences, finish, resumed
from igpo_rl.checkpoint import Checkpoints, fault


def drill(folder: Path, straight: Path, count: int, seed: int) -> Row:
    """Each time a copy of the run as it was before its end, with the newest checkpoint damaged, goes on."""
    rng, came = Random(f"damage {seed}"), Counter()
    wrong: list[str] = []
    for number in range(count):
        run, log = folder / f"damaged-{number}", folder / "damaged.log"
        shutil.copytree(straight, run)
        shutil.rmtree(run / "model")
        newest, *_ = Checkpoints(folder=run / "checkpoints").newest_first()
        file = rng.choice(sorted(newest.path.iterdir()))
        content = bytearray(file.read_bytes())
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        file.write_bytes(bytes(content))
        noticed = fault(newest.path) is not None
        before = log.stat().st_size if log.exists() else 0
        code = finish(resumed(run), log)
        said = f"{newest.path.name} is skipped" in log.read_text()[before:]
        found = [f"exit code {code}"] if code else differences(run, straight)
        if found or said != noticed:
            wrong.append(f"{number} ({file.name}): {', '.join(found) or 'not said'}")
            continue
        came["noticed, and the one before it used" if noticed else "harmless"] += 1
        shutil.rmtree(run)
    outcome = ", ".join(f"{what} {times}" for what, times in came.items())
    return Row("bytes changed in a checkpoint", count, f"{outcome}; wrong: {'; '.join(wrong) or 'none'}", not wrong)
