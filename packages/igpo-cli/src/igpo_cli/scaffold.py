"""A new plug-in from the templates: a package that passes its own checks at once, or a single file.

A template is a module with a class and its hook. In a package the hook moves to `plugin.py`, so that listing plug-ins
imports nothing else.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from igpo_cli.errors import UsageError
from igpo_cli.plugins import KINDS, Catalogue

LIBRARIES = {
    **dict.fromkeys(("model", "sampler"), "igpo-sampling"),
    **dict.fromkeys(("chunker", "injection", "filter", "estimator", "loss"), "igpo-rl"),
    **dict.fromkeys(("task", "verifier"), "igpo-data"),
}
"""The distribution that defines a kind."""
TRY = {"task": "--sft.split train --eval.common.split test --width 64 --sampler.block 64 --verifier numeric"}
"""What a run of the preset `tiny` needs besides the plug-in: another task has other splits and longer solutions."""


def package(name: str, kind: str) -> dict[Path, str]:
    """The files of a new package, by their path from the working directory."""
    module = module_of(name)
    code, hook = divided(template(kind, name, f"{module}.{kind}"))
    spec = f"from {LIBRARIES[kind].replace('-', '_')}.hookspecs import hookimpl"
    about = summary(code)
    files = {
        "pyproject.toml": PYPROJECT.format(name=name, about=about, library=LIBRARIES[kind], module=module),
        "README.md": README.format(name=name, kind=kind, about=about, module=module, run=command(name, kind)),
        f"src/{module}/__init__.py": f'"""{about}"""\n',
        f"src/{module}/plugin.py": f"{PLUGIN}\n\nfrom __future__ import annotations\n\n{spec}\n\n\n{hook}",
        f"src/{module}/{kind}.py": code,
        f"tests/test_{module}.py": template(f"check_{kind}", name, f"{module}.{kind}", kind),
        "tests/test_plugin.py": TEST.format(
            name=name, hook=KINDS[kind].hook, module=module, kind=kind, cls=class_of(name)
        ),
    }
    return {Path(name, path): text for path, text in files.items()}


def single_file(name: str, kind: str) -> dict[Path, str]:
    """The one file of a plug-in for `--plugin`."""
    return {Path(f"{module_of(name)}.py"): template(kind, name, module_of(name))}


def template(stem: str, name: str, module: str, kind: str | None = None) -> str:
    """A template's text with the user's names in it; `kind` where the text is that of another template's tests."""
    text = (resources.files("igpo_cli.templates") / f"{stem}.py").read_text(encoding="utf-8")
    text = text.replace(f"igpo_cli.templates.{kind or stem}", module)
    return re.sub(r"\bMine\b", class_of(name), text).replace('"mine"', f'"{name}"')


def divided(text: str) -> tuple[str, str]:
    """A module's class without its hook, and the hook."""
    code, _, hook = text.partition("\n\n\n@hookimpl\n")
    code = re.sub(r"from igpo_\w+\.hookspecs import hookimpl\n", "", code).replace("\n\n\nif ", "\n\nif ")
    return f"{code}\n", f"@hookimpl\n{hook}"


def summary(code: str) -> str:
    """The first line of the class's docstring."""
    found = re.search(r'^class .*\n    """(.+?)(?:"""|\n)', code, re.MULTILINE)
    assert found is not None
    return found[1]


def command(name: str, kind: str) -> str:
    """A short run with the plug-in."""
    return " ".join(filter(None, (f"igpo train --{kind} {name}", TRY.get(kind, ""))))


def module_of(name: str) -> str:
    return name.replace("-", "_")


def class_of(name: str) -> str:
    """my-idea -> MyIdea."""
    return "".join(part.capitalize() for part in name.split("-"))


def check_name(name: str, kind: str, catalogue: Catalogue) -> None:
    """UsageError where the name is no good for a distribution, a module and a plug-in at once."""
    module = module_of(name)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise UsageError(
            f"'{name}' is no name for a plug-in. Use small letters, digits and single hyphens, such as my-idea."
        )
    if name in catalogue.names(kind):
        raise UsageError(
            f"there is a {kind} named '{name}' already ({catalogue.find(kind, name)}). Choose another name."
        )
    if importlib.util.find_spec(module) is not None:
        raise UsageError(f"'{name}' would hide the module '{module}', which is installed. Choose another name.")


def write(files: Mapping[Path, str]) -> None:
    """Write files into folders that do not exist yet; where one does, or a file of the working directory, nothing is written."""
    for path in dict.fromkeys(Path(path.parts[0]) for path in files):
        if path.exists():
            raise UsageError(f"{path} exists and is left as it is. Choose another name, or move it away.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


PLUGIN = '"""What this distribution adds to igpo: names and where their classes stand. Nothing is imported before it is used."""'

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
description = "{about}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["attrs>=24.2", "{library}>=0.1,<0.2"]

# The line that makes it a plug-in.
[project.entry-points.igpo]
{name} = "{module}.plugin"

[dependency-groups]
dev = ["pytest>=8.3"]

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]
"""

README = """\
# {name}

A plug-in of `igpo`: the {kind} `{name}`. {about}

```console
$ pip install pytest -e .
$ pytest
$ igpo plugins show {kind} {name}
$ {run}
```

The class is in `src/{module}/{kind}.py`: its fields are the options, the docstring under a field is its `--help`. Its name
for igpo stands in `src/{module}/plugin.py`, which the entry point in `pyproject.toml` points at.
"""

TEST = """\
\"\"\"igpo finds the plug-in.\"\"\"

from __future__ import annotations

from importlib.metadata import entry_points


def test_the_entry_point_leads_to_the_class() -> None:
    (point,) = entry_points(group="igpo", name="{name}")
    assert point.load().{hook}() == {{"{name}": "{module}.{kind}:{cls}"}}
"""
