"""`python -m benchmarks [CASE ...] [--quick]`: run the cases, print their tables, keep them in docs/performance.md."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
import time

from benchmarks import harness


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of: {', '.join(harness.cases())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes; printed, not written to the report")
    parser.add_argument("--apart", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        print(json.dumps(run_here(options.apart, options.quick)))
        return
    unknown = set(options.cases) - set(harness.cases())
    if unknown:
        parser.error(f"no case named {', '.join(sorted(unknown))}; there are {', '.join(harness.cases())}")
    failed = []
    for case in options.cases or harness.cases():
        start = time.perf_counter()
        try:
            result = harness.run_apart(case, options.quick)
        except subprocess.CalledProcessError as error:  # it has said why; the other cases are worth as much without it
            failed.append(f"{case} (exit code {error.returncode})")
            continue
        print(f"{case}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if "skipped" in result:
            print(f"{case}: {result['skipped']}", end="\n\n", flush=True)
            continue
        text = harness.section(result)
        print(text, end="\n\n", flush=True)
        if not options.quick:
            harness.write(case, text)
    if failed:
        sys.exit(f"These cases failed, and their tables are as they were: {', '.join(failed)}")


def run_here(case: str, quick: bool) -> dict[str, object]:
    """The case's result, in this process."""
    import torch

    module = importlib.import_module(f"benchmarks.{case}")
    try:
        rows = module.run(quick)
    except harness.SkippedError as reason:
        return {"skipped": str(reason)}
    machine = (
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {"name": module.NAME, "about": inspect.getdoc(module) or "", "rows": rows, "machine": machine}


if __name__ == "__main__":
    main()
