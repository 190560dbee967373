"""`python -m drills [NAME ...]`: make runs fail in every way, and see that they go on as if they had not."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from drills import damage, disk, faults, kills, processes
from drills.runs import Row, prepare


def main() -> int:
    everything = {
        "kills": lambda: [kills.drill(folder, straight, options.kills, options.seed)],
        "damage": lambda: [damage.drill(folder, straight, options.damages, options.seed)],
        "disk": lambda: disk.drill(folder, straight, options.disks, options.seed),
        "faults": lambda: faults.drill(folder),
        "processes": lambda: processes.drill(folder),
    }
    parser = argparse.ArgumentParser(prog="python -m drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(everything)} (default: all)")
    parser.add_argument("--kills", type=int, default=50, help="how often a run is killed (50)")
    parser.add_argument("--damages", type=int, default=30, help="how many checkpoints are damaged (30)")
    parser.add_argument("--disks", type=int, default=3, help="how often a disk fills up (3)")
    parser.add_argument("--seed", type=int, default=0, help="of all moments and places (0)")
    parser.add_argument("--folder", type=Path, help="keep the runs and their logs here")
    options = parser.parse_args()
    if unknown := set(options.names) - set(everything):
        parser.error(f"no drill named {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="drills-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare()
    straight = kills.run_straight(folder / "straight")
    rows: list[Row] = []
    for name in options.names or everything:
        began = time.perf_counter()
        for row in everything[name]():
            rows.append(row)
            show(row, time.perf_counter() - began)
    failed = [row.drill for row in rows if not row.passed]
    print(f"{len(rows) - len(failed)} of {len(rows)} drills passed" + (f"; see {folder}" if failed else ""))
    if not failed and options.folder is None:
        shutil.rmtree(folder)
    return 1 if failed else 0


def show(row: Row, seconds: float) -> None:
    print(
        f"{'pass' if row.passed else 'FAIL'}  {row.drill:<28} {row.count:>3} x {seconds:5.0f} s  {row.happened}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
