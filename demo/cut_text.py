"""Cut the small texts that ship with the package out of larger ones.

    python demo/cut_text.py TEXT [--out src/sprue/demo/text]

TEXT holds one folder per capability, each with train.txt (cut for calibration) and test.txt (cut
for evaluation), documents separated by <|endoftext|>. Documents are spread over the whole file and
long ones are cut at a line end, so that a small text shows as many of them as it can.
"""

from __future__ import annotations

import argparse
from pathlib import Path

CAPABILITIES = ("code", "legal", "security", "stories")
END = "<|endoftext|>"
SIZES = {"calibration": ("train.txt", 250_000, 12_000), "test": ("test.txt", 100_000, 16_000)}
# A path of the machine that built the standard library, and a name whose use has terms of its own.
UNWANTED = ("/.pyenv/", "Gutenberg")


def shorten(document: str, limit: int) -> str:
    """The first lines of `document` that fit into `limit` UTF-8 bytes."""
    kept: list[str] = []
    used = 0
    for line in document.splitlines(keepends=True):
        used += len(line.encode())
        if used > limit:
            break
        kept.append(line)
    return "".join(kept).strip()


def cut(text: str, size: int, longest: int) -> str:
    """At most `size` bytes of `text`: evenly spaced documents, none over `longest` bytes."""
    documents = [shorten(d, longest) for d in text.split(END)]
    documents = [d for d in documents if d and not any(word in d for word in UNWANTED)]
    total = sum(len(d.encode()) for d in documents)
    kept: list[str] = []
    used = seen = 0
    for document in documents:
        length = len(document.encode()) + len(END) + 4
        seen += length
        # Keep a document when the share kept so far lags behind the share of the text passed.
        if used + length <= size and used * total <= size * (seen - length):
            kept.append(document)
            used += length
    return f"\n\n{END}\n".join(kept) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/sprue/demo/text"))
    args = parser.parse_args()
    for kind, (name, size, longest) in SIZES.items():
        folder = args.out / kind
        folder.mkdir(parents=True, exist_ok=True)
        for capability in CAPABILITIES:
            source = (args.text / capability / name).read_text(encoding="utf-8")
            (folder / f"{capability}.txt").write_text(cut(source, size, longest), encoding="utf-8")


if __name__ == "__main__":
    main()
