"""The documentation: its code runs, and what is generated from the code is current.

In README.md and docs/*.md every ```python block and every `$ sprue` line of a ```console block is
run, in order, in one namespace and one empty folder per page. A block that cannot run here stands
after a comment that says why: <!-- not run: the reason -->.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sprue import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?P<comment><!--[^>]*-->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
REASON = re.compile(r"<!-- not run: \S.* -->")


@dataclass(frozen=True)
class Block:
    """A fenced block that runs."""

    language: str
    body: str
    line: int


def blocks(text: str) -> list[Block]:
    """The blocks of a page that run; a block without a language is refused."""
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("body"))
        language, comment = match["language"], match["comment"] or ""
        assert language, f"line {line}: say what the block is: python, console, text ..."
        if language in ("python", "console") and not REASON.match(comment):
            found.append(Block(language, match["body"], line))
    return found


def commands(body: str) -> list[list[str]]:
    """The commands of a console block, as lists of words."""
    lines = re.sub(r"\\\n>?\s*", "", body).splitlines()
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]


def run(block: Block, names: dict[str, Any], page: str) -> None:
    """Run one block; a fault names the page and the line."""
    if block.language == "python":
        padding = "\n" * block.line
        exec(compile(padding + block.body, page, "exec"), names)
        return
    for words in commands(block.body):
        assert words[0] == "sprue", (
            f"{page}:{block.line}: only sprue commands run here, not {words[0]!r}: "
            "say why in a comment <!-- not run: ... --> before the block"
        )
        assert cli.main(words[1:]) == 0, f"{page}:{block.line}: {shlex.join(words)}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_code_on_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        run(block, names, page.name)


def load(path: Path) -> ModuleType:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_current() -> None:
    script = load(ROOT / "docs" / "make_cli.py")
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == script.page(), "run: python docs/make_cli.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_blocks_are_found_and_excused() -> None:
    text = (
        "a\n```python\nx = 1\n```\n\n<!-- not run: needs a network -->\n```console\n$ curl x\n```\n"
    )
    assert blocks(text) == [Block("python", "x = 1\n", 2)]
    assert commands("$ sprue a \\\n>   --b 'c d'\noutput\n$ sprue e\n") == [
        ["sprue", "a", "--b", "c d"],
        ["sprue", "e"],
    ]


def test_a_block_that_fails_fails_the_test() -> None:
    with pytest.raises(AssertionError):
        run(Block("python", "assert False\n", 1), {}, "page")
    with pytest.raises(AssertionError, match="only sprue commands"):
        run(Block("console", "$ rm x\n", 1), {}, "page")
    with pytest.raises(AssertionError, match="say what the block is"):
        blocks("```\nx\n```\n")
