"""What the site shows beyond docs/: READMEs and changelogs from where they are, and a page of API reference a module.

Pages stay Markdown that reads well in the repository; links and fences are brought into the site's form here.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGES = ("igpo-sampling", "igpo-rl", "igpo-data", "igpo-cli")
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    **{f"packages/{package}.md": f"packages/{package}/README.md" for package in PACKAGES},
    **{f"changes/{package}.md": f"packages/{package}/CHANGELOG.md" for package in PACKAGES},
}
"""Pages of the site whose source is outside of docs/, by the name that they have in the site."""
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^( *```\w+)(?: +(?P<words>\S.*))?$", re.MULTILINE)
NAME = re.compile(r"`(igpo_\w+(?:\.\w+)*)`")


def modules(package: str) -> list[str]:
    """Dotted names of a package's public modules; the package itself is first."""
    source = ROOT / "packages" / package / "src"
    paths = (path.relative_to(source).with_suffix("") for path in source.rglob("*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if not any(part.startswith("_") for part in name.split(".")))


def path_of(module: str) -> Path:
    """The file of a module."""
    base = ROOT / "packages" / module.partition(".")[0].replace("_", "-") / "src" / module.replace(".", "/")
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def first_line(module: str, name: str) -> str:
    """First sentence of what a module says of a name."""
    for node in ast.parse(path_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return one_cell(ast.get_docstring(node))
    return ""


def module_line(module: str) -> str:
    """First sentence of a module's docstring."""
    return one_cell(ast.get_docstring(ast.parse(path_of(module).read_text(encoding="utf-8"))))


def one_cell(docstring: str | None) -> str:
    """The first paragraph, in one cell of a table."""
    return (docstring or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def shown(module: str) -> str:
    """Options of a module's page: a package that only collects names of its modules shows none of them twice."""
    own = (ast.ClassDef, ast.FunctionDef)
    collects = not any(isinstance(node, own) for node in ast.parse(path_of(module).read_text(encoding="utf-8")).body)
    return "    options:\n      members: false\n" if path_of(module).name == "__init__.py" and collects else ""


def exported(package: str) -> dict[str, str]:
    """Where each name that a package offers is defined, from its stub."""
    module = package.replace("-", "_")
    stub = path_of(module).with_suffix(".pyi")
    return {
        f"{module}.{one.name}": f"{module}.{node.module}.{one.name}"
        for node in (ast.parse(stub.read_text(encoding="utf-8")).body if stub.exists() else [])
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("__")
        for one in node.names
    }


HOMES = {name: home for package in PACKAGES for name, home in exported(package).items()}


def canonical(name: str) -> str:
    """The name under which the reference knows `igpo_rl.IGPO.collect`: that of its module."""
    first = ".".join(name.split(".")[:2])
    if path_of(first).exists() and name != first:
        return name
    return HOMES.get(first, first) + name.removeprefix(first)


def overview(package: str) -> str:
    """The first page of a package: what it offers, its modules."""
    first, *others = modules(package)
    offered = [
        f"| [`{name}`][{home}] | {first_line(*home.rpartition('.')[::2])} |" for name, home in exported(package).items()
    ]
    inside = [f"| [`{name}`][{name}] | {module_line(name)} |" for name in others]
    names = ["", "| name | what |", "|---|---|", *offered] if offered else []
    return "\n".join([f"# {first}", *names, "", "## Modules", "", "| module | why |", "|---|---|", *inside, ""])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API reference into the navigation, and what mkdocs.yml does not place before it."""
    placed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = (path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
    if others := [page for page in found if f": {page}\n" not in placed]:
        config.nav.append({"More": others})
    reference: list[Any] = []
    for package in PACKAGES:
        first, *others = modules(package)
        pages = [{name.partition(".")[2]: f"api/{name}.md"} for name in others]
        reference.append({first: [f"api/{first}.md", *pages]})
    config.nav.append({"API reference": reference})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for package in PACKAGES:
        first, *others = modules(package)
        files.append(File.generated(config, f"api/{first}.md", content=overview(package)))
        for name in others:
            files.append(File.generated(config, f"api/{name}.md", content=f"::: {name}\n{shown(name)}"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Bring a page's links and fences into the form of the site."""
    here = page.file.src_uri
    source = ELSEWHERE.get(here, f"docs/{here}")
    pages = {origin: uri for uri, origin in ELSEWHERE.items()}
    pages |= {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    pages |= {f"packages/{package}": f"packages/{package}.md" for package in PACKAGES}

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found["text"], found["target"], found["anchor"] or ""
        origin = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if origin in pages:
            return f"[{text}]({posixpath.relpath(pages[origin], posixpath.dirname(here) or '.')}{anchor})"
        if named := NAME.fullmatch(text):
            return f"[{text}][{canonical(named[1])}]"
        if origin.endswith(".py") and "/src/" in origin:
            return f"[{text}][{origin.partition('/src/')[2].removesuffix('.py').replace('/', '.')}]"
        return text if text.strip("`") == origin else f"{text} (`{origin}`)"

    def fence(found: re.Match[str]) -> str:
        named = re.search(r"\bfile=(\S+)", found["words"] or "")
        return f'{found[1]} title="{named[1]}"' if named else found[1]

    return FENCE.sub(fence, LINK.sub(link, markdown))
