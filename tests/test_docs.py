"""The documents: every link leads somewhere, and every module and file that they name is there."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "nconnect"
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
PACKAGES = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
FOLDERS = ("nconnect", "tests", "netns_tests", "scripts", "docs", "lab", "requirements")
NO_MODULES = ("py", "md", "svg", "toml", "json", "sock", "lock")  # what ends so is a file

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT))
)


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    text = _without_code(document.read_text())
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        found = (document.parent / place).resolve() if place else document
        assert found.exists(), f"{document.name} links to {target}"
        assert found.is_relative_to(CHECKOUT)
        if anchor:
            assert anchor in _anchors(found.read_text()), f"{document.name} links to {target}"


@each_document
def test_commands_have_no_prompt_so_that_they_can_be_copied(document: Path) -> None:
    """What a terminal showed is in blocks of `text`."""
    for language, block in re.findall(
        r"^```(\w*)[^\n]*\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL
    ):
        prompts = re.findall(r"^ *\w*[$#] \S.*", block, re.MULTILINE) if language in ("", "sh") else []
        assert prompts == [], f"{document.name}: {prompts}"


@each_document
def test_every_module_that_is_named_is_there(document: Path) -> None:
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)(?:\(\))?`", document.read_text()):
        first, *rest = name.removeprefix("nconnect.").split(".")
        if first in PACKAGES and rest and rest[-1] not in NO_MODULES:
            assert _is_module(first, rest), f"{document.name}: `{name}`"


def _is_module(package: str, rest: list[str]) -> bool:
    """Whether this is a room or a module below the package, what is in one, or a public name of it."""
    places = [PACKAGE.joinpath(package, *rest[:length]) for length in range(1, len(rest) + 1)]
    public = (PACKAGE / package / "__init__.py").read_text()
    return (
        places[-1].is_dir()
        or any(place.with_suffix(".py").exists() for place in places)
        or bool(re.search(rf"\b{rest[0]}\b", public))
    )


@each_document
def test_every_file_that_is_named_is_there(document: Path) -> None:
    for name in re.findall(rf"`(?:\./)?((?:{'|'.join(FOLDERS)})/[\w./-]+)`", document.read_text()):
        assert (CHECKOUT / name).exists(), f"{document.name}: `{name}`"


def test_every_package_says_how_it_works() -> None:
    """A package's docstring is its theory of operation; docs/architecture.md sends readers there."""
    for path in sorted(PACKAGE.rglob("__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert text.count("\n") >= 10, f"{path.relative_to(CHECKOUT)} does not say how its package works"


def test_every_decision_is_in_the_index_in_order() -> None:
    folder = CHECKOUT / "docs" / "decisions"
    files = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()) == files
    assert len({name[:4] for name in files}) == len(files), "a number is a decision's alone"
    for name in files:
        assert (folder / name).read_text().startswith(f"# {name[:4]}: ")


def test_the_picture_of_the_floors_names_modules_that_are_there() -> None:
    """Each row: a package in bold, then its modules."""
    text = (CHECKOUT / "docs" / "pictures" / "floors.svg").read_text()
    package = ""
    for kind, words in re.findall(r'<text class="ink (b s|m)"[^>]*>([^<]*)</text>', text):
        if kind == "b s":
            package = words or package
        elif package in PACKAGES - {"cli"}:
            for module in re.sub(r"\([^)]*\)|·", " ", words).split():
                if package != "daemon" or module not in PACKAGES:
                    found = any((PACKAGE / package).rglob(f"{module}.py"))
                    assert found or _is_top(module), (package, module)


def test_every_document_can_be_found_from_the_readme() -> None:
    seen, todo = set(), [CHECKOUT / "README.md"]
    while todo:
        document = todo.pop()
        if document in seen:
            continue
        seen.add(document)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", _without_code(document.read_text())):
            if "://" not in target:
                todo.append((document.parent / target).resolve())
    tracked = subprocess.run(
        ["git", "ls-files", "docs"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.split()
    written = [CHECKOUT / name for name in tracked if name.endswith(".md")]
    assert [str(d.relative_to(CHECKOUT)) for d in written if d.exists() and d not in seen] == []


def _is_top(module: str) -> bool:
    return (PACKAGE / f"{module}.py").exists() or module in PACKAGES


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(text: str) -> set[str]:
    """The names of a document's headings, as they are made from their words."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
