"""Prune a model with llm-compressor's own SparseGPT or Wanda; runs in the peer's environment.

    python llmcompressor_sparsity.py MODEL IDS OUT --method sparsegpt --sparsity 0.5
    python llmcompressor_sparsity.py MODEL IDS OUT --method wanda --mask 2:4

IDS holds the calibration windows as token ids, int64 [windows, context], in a .npy file or under
the name "ids" in a .safetensors file. OUT becomes a plain Hugging Face folder in the dtype of
MODEL. Everything else stays as the peer has it (damping, blocks of 128 columns, sequential over
the decoder layers, errors propagated); the model runs in float32, which the peer gains by.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import json
import os
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# what computes is imported once the threads are set
import numpy as np  # noqa: E402
import torch  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.pruning import (  # noqa: E402
    SparseGPTModifier,
    WandaPruningModifier,
)
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

METHODS = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
BATCH = 4  # windows at once


def read_ids(path: Path) -> Tensor:
    """int64 [windows, context]."""
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path)).to(torch.int64)
    return load_file(path)["ids"].to(torch.int64)


def batches(ids: Tensor) -> DataLoader[Any]:
    """The windows in order, no padding."""
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    return DataLoader(rows, batch_size=BATCH, shuffle=False)  # type: ignore[arg-type]


def prune(model: Path, ids: Tensor, method: str, sparsity: float, mask: str, out: Path) -> None:
    """The peer's one-shot run over all linears but the head, stored as the model is."""
    dtype = AutoConfig.from_pretrained(model).dtype or torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    recipe = METHODS[method](
        sparsity=sparsity, mask_structure=mask, targets=["Linear"], ignore=["re:.*lm_head"]
    )
    oneshot(
        model=loaded, dataset=batches(ids), recipe=recipe, num_calibration_samples=len(ids),
        pipeline="sequential", shuffle_calibration_samples=False,
    )  # fmt: skip
    loaded.to(dtype)
    _save(loaded, out)


def _save(model: Any, out: Path) -> None:
    """As transformers writes it; the peer's own writer is for formats of its own."""
    out.mkdir(parents=True)
    tensors = {n: t.contiguous() for n, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=METHODS, default="sparsegpt")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--mask", default="0:0", help="N:M; 0:0 is unstructured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prune(args.model, read_ids(args.ids), args.method, args.sparsity, args.mask, args.out)
    names = ("llmcompressor", "compressed-tensors", "torch", "transformers")
    print(json.dumps({name: metadata.version(name) for name in names}))


if __name__ == "__main__":
    main()
