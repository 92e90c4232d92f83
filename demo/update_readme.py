"""Put the figures that a demo measured into README.md.

python demo/update_readme.py OUT [--readme README.md]

OUT is a folder that `sprue demo --out OUT` made.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from sprue import demo_run

BLOCK = re.compile(r"(<!-- figures: [^>]* -->\n).*?(<!-- /figures -->)", re.DOTALL)


def figures(report: demo_run.DemoReport) -> str:
    """The part of the page between the two marks."""
    table = demo_run.before_and_after(report.figures["verify"])
    return (
        f"`sprue demo` printed this in {report.figures['seconds']:.0f} seconds "
        f"({report.figures['machine']}):\n\n```text\n{table}\n```\n"
    )


def update(page: str, text: str) -> str:
    """The page with `text` between its marks."""
    if len(BLOCK.findall(page)) != 1:
        raise SystemExit("expected one <!-- figures: ... --> ... <!-- /figures --> in the page")
    return BLOCK.sub(lambda match: match[1] + text + match[2], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    args = parser.parse_args()
    page = args.readme.read_text(encoding="utf-8")
    text = figures(demo_run.read(args.out))
    args.readme.write_text(update(page, text), encoding="utf-8")


if __name__ == "__main__":
    main()
