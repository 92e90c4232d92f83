"""Tokens per second of base6m and of what it was compressed to, timed in turns: A B A B.

Both models run in float32 on one thread, batch 1: reading a prompt of 128 tokens, then writing 64
with a key-value cache. Every round gives a ratio; the median of seven is shown with the interval
of the sign test. The windows that a model was calibrated on do not matter here, so they are few.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor

from sprue import data
from sprue.proof import load, speed

PROMPT, NEW_TOKENS, SEED = 128, 64, 0
CASES = {
    "trellis 2 bits": ["--bits", "2"],
    "trellis 3 bits": ["--bits", "3"],
    "trellis 4 bits": ["--bits", "4"],
    "int4 (gptq)": ["--preset", "gptq", "--bits", "4.31"],
    "int8 (rtn)": ["--preset", "rtn", "--bits", "8.31"],
}


def prompt() -> Tensor:
    """The first tokens of the test text, [1, PROMPT]."""
    tokenizer = load.tokenizer(common.BASE, common.BASE)
    documents = data.read([common.ASSETS / "text/legal/test.txt"])
    return data.windows(tokenizer, documents, PROMPT, 1)


def measure(original: Any, arguments: list[str], ids: Tensor) -> common.Json:
    """Compress, load, time in turns."""
    train = common.ASSETS / "text/legal/train.txt"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        command = ["compress", str(common.BASE), "--out", str(out), *arguments]
        options = ["--calibrate", str(train), "--windows", "8", "--context", "128"]
        ran = common.sprue([*command, *options, "--quiet", "--json"], Path(scratch) / "cost.json")
        result = load.model(out, "cpu")
    timed = speed.measure(original, result, ids, NEW_TOKENS)
    return {
        "arguments": arguments,
        "bytes": ran["printed"]["bytes"],
        "bits_per_weight": ran["printed"]["bits_per_weight"],
        "speed": asdict(timed),
    }


def show(name: str, found: common.Json) -> None:
    """One case in a line."""
    timed = found["speed"]
    a, b, ratio = timed["original"], timed["result"], timed["ratio"]
    prefill = timed["prefill_ratio"]
    print(
        f"{name:15} {found['bytes']:>9,} bytes  writing {a['tokens_per_second']:.0f} -> "
        f"{b['tokens_per_second']:.0f} tok/s, vs. {ratio['value']:.2f} ({ratio['low']:.2f} to "
        f"{ratio['high']:.2f})  prompt {a['prefill_tokens_per_second']:.0f} -> "
        f"{b['prefill_tokens_per_second']:.0f} tok/s, vs. {prefill['value']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="only show what was measured before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    if not common.fresh("speed", args.keep):
        original, ids, stamp = load.model(common.BASE, "cpu"), prompt(), common.stamp()
        cases = {name: measure(original, arguments, ids) for name, arguments in CASES.items()}
        settings = {"prompt": PROMPT, "new_tokens": NEW_TOKENS, "seed": SEED, "threads": 1}
        common.save("speed", {"cases": cases, "settings": settings, "stamp": stamp})
    found = common.load("speed")
    assert found is not None
    for name, case in found["cases"].items():
        show(name, case)


if __name__ == "__main__":
    main()
