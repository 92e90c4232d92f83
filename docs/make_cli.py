"""Write docs/cli.md from the parsers of the command line.

python docs/make_cli.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue.cli import build_parser

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# The command line

<!-- Made by docs/make_cli.py; change src/sprue/cli.py and run `make docs` instead of editing. -->

Results go to standard output, progress and errors to standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `--keep` was not met (`sprue verify`, `sprue sweep --pick`) |
| 2 | something to mend: the last line says what was expected, what came and what to do |
| 70 | a fault of sprue itself, with a traceback |
| 130 | interrupted |
"""


def page() -> str:
    """The whole page."""
    sections = [section(name, parser) for name, parser in commands().items()]
    return "\n".join([HEAD, *sections])


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    actions = build_parser()._actions
    (found,) = (a for a in actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def section(name: str, parser: argparse.ArgumentParser) -> str:
    """One command: what it does, its arguments, its examples."""
    lines = [f"## sprue {name}", "", parser.description or "", ""]
    for group in parser._mutually_exclusive_groups:
        names = [f"`{action.option_strings[0]}`" for action in group._group_actions]
        lines += ["At most one of " + ", ".join(names) + " can be given.", ""]
    lines += ["| argument | meaning |", "|---|---|"]
    lines += [row(parser, action) for action in parser._actions if action.dest != "help"]
    examples = [line.strip() for line in (parser.epilog or "").splitlines()[1:]]
    lines += ["", "<!-- not run: the paths stand for yours -->", "```console"]
    lines += [f"$ {example}" for example in examples]
    return "\n".join([*lines, "```", ""])


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One line of the table of arguments."""
    value = action.metavar or "|".join(action.choices or ())
    names = " ".join([", ".join(action.option_strings), str(value)]).strip()
    meaning = (action.help or "") % {"default": action.default, "prog": parser.prog}
    required = " (required)" if action.required and action.option_strings else ""
    cells = (f"`{names}`", meaning + required)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
