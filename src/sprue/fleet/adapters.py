"""The light kind of specialist: a low-rank part for each capability over one shared base.

y = W x + B (A x), with A [rank, in] and B [out, rank] (Hu et al. 2021, arXiv:2106.09685, section
4.1; the factor alpha / rank is 1). The folder is one that `peft` reads.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models.families import find
from sprue.proof import load

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class Adapted(nn.Module):
    """A linear with a low-rank part beside it.

    Args:
        base: stays as it is.
        rank: of the part; at first it adds nothing.
        generator: of A.
    """

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        width = base.in_features
        bound = 1 / math.sqrt(width)
        A = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
        self.A = nn.Parameter(A.to(base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in]; returns [..., out]."""
        y: Tensor = self.base(x)
        return y + (x @ self.A.T) @ self.B.T


def adapted(model: Any, rank: int, seed: int = 0) -> Any:
    """A model with a low-rank part at every linear of its blocks, sharing all else with `model`.

    Raises:
        InputError: a rank below 1, or a model whose blocks have no linears.
    """
    if rank < 1:
        raise InputError(f"expected a rank of 1 or more, got {rank}")
    generator = torch.Generator().manual_seed(seed)
    found = _twin(model)
    names = [name for name, _ in _linears(found)]
    if not names:
        raise InputError(f"{type(model).__name__} has no linears that could be adapted")
    for name in names:
        found.set_submodule(name, Adapted(found.get_submodule(name), rank, generator))
    return found


def _twin(model: Any) -> Any:
    """Modules of its own over the same tensors."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def _linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    inside = f"{find(model.config).blocks}."
    for name, module in model.named_modules():
        if name.startswith(inside) and type(module) is nn.Linear:
            yield name, module


def parts(model: Any) -> dict[str, nn.Parameter]:
    """The parameters of the low-rank parts, by name."""
    return {
        f"{name}.{which}": getattr(module, which)
        for name, module in model.named_modules()
        if isinstance(module, Adapted)
        for which in ("A", "B")
    }


def save(model: Any, folder: Path, base: Path, place: Path) -> None:
    """The low-rank parts of a model, in the layout of `peft`.

    Args:
        model: from `adapted`.
        folder: to write into; it is there.
        base: the folder of the model that it was made over.
        place: where `folder` will stand; the base is noted as it is seen from there.
    """
    tensors: dict[str, Tensor] = {}
    names = []
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            names.append(name.rpartition(".")[2])
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = module.A.detach().contiguous().cpu()
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = module.B.detach().contiguous().cpu()
    rank = len(next(iter(tensors.values())))
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": os.path.relpath(base, place),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(set(names)),
    }
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a low-rank part and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> Path:
    """The folder of the base that an adapter was made over.

    Raises:
        InputError: it does not say, or there is no such folder.
    """
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = folder / str(told["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG} names no base: make the adapter again") from error
    if not found.is_dir():
        raise InputError(f"{folder} was made over {found}, which is not there: put it back")
    return found.resolve()


def load_over(folder: Path, base: Any) -> Any:
    """A model of the base and the low-rank part in a folder.

    Args:
        folder: that `save` wrote.
        base: its base, dense; it is shared and stays.

    Raises:
        InputError: a damaged file, or parts of another base.
    """
    try:
        tensors: Mapping[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: make the adapter again") from error
    if not tensors:
        raise InputError(f"{folder / WEIGHTS} is empty: make the adapter again")
    rank = min(min(t.shape) for t in tensors.values())
    found = adapted(base, rank)
    mine = parts(found)
    theirs = {
        name.removeprefix(_PREFIX).replace(".lora_", ".").removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
    }
    if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        raise InputError(f"{folder} holds the adapter of another model than {base_of(folder)}")
    with torch.no_grad():
        for name, parameter in mine.items():
            if not torch.isfinite(theirs[name]).all():
                raise InputError(f"{folder / WEIGHTS}: {name} is not finite: make it again")
            parameter.requires_grad_(False).copy_(theirs[name])
    return found.eval()


@lru_cache(maxsize=2)
def shared_base(folder: Path, device: str) -> Any:
    """The dense model of a base, loaded once for all adapters over it."""
    from sprue.fleet.served import unpack

    model = load.model(folder, device)
    unpack(model)
    return model
