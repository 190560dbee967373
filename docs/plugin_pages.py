"""Writes plugins/KIND.md, "Your first ...", for every kind of plug-in, from what `igpo new` copies and the checks promise.

    python docs/plugin_pages.py

A test holds the pages to it, and runs what they show.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import igpo_data.testing
import igpo_rl.testing
import igpo_sampling.testing
from igpo_cli import scaffold

FOLDER = Path(__file__).parent / "plugins"
NAMES = {
    "model": "both-sides",
    "sampler": "speed-up",
    "chunker": "equal-parts",
    "injection": "middle",
    "filter": "likely",
    "estimator": "window",
    "loss": "capped",
    "task": "sums",
    "verifier": "in-place",
}
"""What the plug-in of each page is called."""
CHECKS = {
    "igpo-sampling": igpo_sampling.testing,
    "igpo-rl": igpo_rl.testing,
    "igpo-data": igpo_data.testing,
}
SHORT = "--sft.steps 20 --steps 2 --prompts 4 --eval.heldout.limit 16 --eval.common.limit 16"


def page(kind: str) -> str:
    """The page of a kind."""
    name = NAMES[kind]
    ((path, code),) = scaffold.single_file(name, kind).items()
    checks = CHECKS[scaffold.LIBRARIES[kind]]
    check = getattr(checks, "check_task_source" if kind == "task" else f"check_{kind}")
    heading, *more = (ast.get_docstring(ast.parse(code)) or "").split("\n\n")
    promises = (inspect.getdoc(check) or "").split("\n\n")[0]
    with_file = f"--plugin ./{path}"
    configured = scaffold.command(name, kind).replace("train", "config check", 1)
    return f"""\
# Your first {kind}

<!-- written by plugin_pages.py from the template that igpo new copies -->

{filled(*more)}

`igpo new` writes one that works. This one: {heading[0].lower()}{heading[1:]}

```console slow
$ igpo new {name} --kind {kind} --file
```

It is one file, `{path}`, to be changed into what you have in mind:

```python sketch
{code.rstrip()}
```

The class is frozen attrs. Its fields are options: each is a flag, a key in a TOML table and a line of `--help`, which is
the docstring below it. The hook at the end gives it a name.

## Use it

The file needs no installation. It is listed, its options are shown and checked, and it trains:

```console slow
$ igpo plugins {kind} {with_file}
$ igpo plugins show {kind} {name} {with_file}
$ igpo train --help --{kind} {name} {with_file}
$ {configured} {with_file}
$ {scaffold.command(name, kind)} {with_file} \\
    {SHORT}
$ igpo report runs/tiny-1
```

In a TOML file the same is `plugins = ["./{path}"]` at the top, and `name = "{name}"` in the table `[{kind}]`.

## What it promises

`{check.__module__}.{check.__name__}` raises where this does not hold:

{textwrap.indent(filled(promises), "> ")}

## As a package

Without `--file` the same class comes in a package with tests, for others to install; no `--plugin` is needed then:

```console installed
$ igpo new {name} --kind {kind}
$ pip install pytest -e {name}
$ pytest {name}
$ {configured}
```

[All kinds, and the rules that they share](../plugins.md)
"""


def filled(*paragraphs: str) -> str:
    """Text in lines of the width of the other pages."""
    return textwrap.fill(" ".join(" ".join(paragraphs).split()), 118)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for kind in NAMES:
        (FOLDER / f"{kind}.md").write_text(page(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
