"""The exact mode on base6m: greedy text beside the full model's own, and what it takes.

The specialist is base6m at 3 bits a weight. Prompts are pieces of the four test texts.

python benchmarks/bench_draft.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import common
from sprue.compress import compress
from sprue.fleet.draft import Cached, continued
from sprue.runtime.load import load

PROMPTS, LENGTH, NEW = 200, 64, 48
BITS = 3.0


def main() -> None:
    """Measure, and write results/draft.json."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    common.require_assets()
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        texts = [common.ASSETS / "text" / name / "train.txt" for name in common.TEXTS]
        compress(common.BASE, small, bits=BITS, calibrate=texts)
        full, specialist = load(common.BASE), load(small)
        made = _measured(full, specialist)
    common.save("draft", {"stamp": common.stamp(), **made})
    print(made)


def _measured(full: Any, specialist: Any) -> common.Json:
    same = passes = drafted = accepted = tokens = 0
    seconds = {"full": 0.0, "drafted": 0.0}
    for ids in _prompts():
        begin = time.perf_counter()
        own = _greedy(full, ids)
        middle = time.perf_counter()
        found = continued(Cached(full), Cached(specialist), ids, NEW)
        seconds["full"] += middle - begin
        seconds["drafted"] += time.perf_counter() - middle
        same += list(found.ids) == own
        passes, drafted = passes + found.passes, drafted + found.drafted
        accepted, tokens = accepted + found.accepted, tokens + len(found.ids)
    return {
        "prompts": PROMPTS,
        "identical": same,
        "tokens": tokens,
        "passes": passes,
        "drafted": drafted,
        "accepted": accepted,
        "bits": BITS,
        "seconds": seconds,
    }


def _prompts() -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(common.BASE, local_files_only=True)
    found: list[list[int]] = []
    each = PROMPTS // len(common.TEXTS)
    for name in common.TEXTS:
        text = (common.ASSETS / "text" / name / "test.txt").read_text(encoding="utf-8")
        ids = tokenizer(text[: 400 * each]).input_ids
        step = (len(ids) - LENGTH) // each
        found += [ids[i * step : i * step + LENGTH] for i in range(each)]
    return found


@torch.inference_mode()
def _greedy(model: Any, ids: list[int]) -> list[int]:
    """One token after another, keys and values kept."""
    new: list[int] = []
    step, cache = ids, None
    while len(new) < NEW:
        out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        step, cache = [int(out.logits[0, -1].argmax())], out.past_key_values
        new += step
    return new


if __name__ == "__main__":
    main()
