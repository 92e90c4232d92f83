"""Dropping experts of a model that has some: measured block by block, as many in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import Mixture, Source, Stream, Writer
from sprue.models.tensorfile import read
from sprue.plan import artifact
from sprue.plan.room import RESIDENT, batch_of
from sprue.structure.dropping import Importance, kept

CRITERIA = ("reap", "random")


@dataclass(frozen=True)
class Dropped:
    """What came of the experts of one block.

    Attributes:
        module: of the block.
        importance: of every expert.
        load: share of the calibration tokens that were routed to it.
        kept: indices of those that stay.
    """

    module: str
    importance: list[float]
    load: list[float]
    kept: list[int]


def mixture(source: Source) -> Mixture:
    """How the experts of a model are named."""
    assert source.family.mixture is not None  # opened among MIXTURES
    return source.family.mixture


def count_kept(source: Source, share: float) -> int:
    """How many experts of every block stay when `share` of them is dropped.

    Raises:
        InputError: fewer than a token needs would stay, or none would go.
    """
    total, needed = _experts(source), int(source.config.num_experts_per_tok)
    stay = total - round(share * total)
    if stay < needed:
        raise InputError(
            f"dropping {100 * share:g}% of {total} experts leaves {stay}, and a token computes "
            f"{needed}: drop {100 * (total - needed) / total:g}% at most"
        )
    if stay == total:
        raise InputError(f"{100 * share:g}% of {total} experts is less than one: drop more")
    return stay


def measured(
    source: Source,
    ids: Tensor,
    stay: int,
    *,
    criterion: str = "reap",
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[], object] = lambda: None,
) -> list[Dropped]:
    """The experts that stay in every block that has some.

    Args:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        stay: how many experts stay.
        criterion: "reap", or "random" for comparison.
        seed: of the random one.
        device: where blocks run.
        progress: called after every block.

    Raises:
        InputError: NaN or infinite weights, ids outside the vocabulary.
    """
    stream = Stream(source, ids, batch_of(ids.shape[1]), device, resident=RESIDENT)
    hidden, found = stream.embed(), []
    generator = torch.Generator().manual_seed(seed)
    for i in range(stream.blocks):
        block = stream.load(i)
        name = source.family.block(i)
        if f"{name}.{mixture(source).experts}.down_proj" in source.stacked:
            importance = _watched(stream, block, i, hidden)
            value = importance.value()
            if criterion == "random":
                value = torch.rand(len(value), generator=generator, dtype=torch.float64)
            load = (importance.tokens / ids.numel()).tolist()
            found.append(Dropped(name, value.tolist(), load, kept(value, stay).tolist()))
        else:
            stream.run(block, i, hidden, out=hidden)
        progress()
    return found


def _watched(stream: Stream, block: nn.Module, i: int, hidden: Tensor) -> Importance:
    """Run a block in place, and see what its experts give."""
    module: Any = block.get_submodule(mixture(stream.source).experts)
    importance = Importance(len(module.down_proj))
    hook = module.register_forward_pre_hook(lambda m, inputs: _seen(m, inputs, importance))
    stream.run(block, i, hidden, out=hidden)
    hook.remove()
    return importance


def _seen(module: Any, inputs: tuple[Tensor, Tensor, Tensor], importance: Importance) -> None:
    x, chosen, gates = inputs
    for e in torch.unique(chosen).tolist():
        rows, places = (chosen == e).nonzero(as_tuple=True)
        gate, up = nn.functional.linear(x[rows], module.gate_up_proj[e]).chunk(2, -1)
        output = nn.functional.linear(module.act_fn(gate) * up, module.down_proj[e])
        importance.add(e, gates[rows, places].cpu(), output.cpu())


def write(writer: Writer, source: Source, found: list[Dropped]) -> None:
    """All tensors but those of the experts that go, under the names that they have on disk."""
    for block in [*found, None]:
        if block is not None:
            writer.block(block.module.replace(".", "-"), _block(source, block))
    inside = tuple(f"{block.module}." for block in found)
    rest = [n for n in source.entries if not n.startswith(inside)]
    writer.block("rest", {source.entries[n].name: source.tensor(n) for n in rest})


def _block(source: Source, block: Dropped) -> dict[str, Tensor]:
    names = mixture(source)
    router = f"{block.module}.{names.router}.weight"
    parts = _parts(source, block.module)
    tensors = {}
    for name, entry in source.entries.items():
        if not name.startswith(f"{block.module}.") or name in parts:
            continue
        value = source.tensor(name)
        tensors[entry.name] = value[block.kept].clone() if name == router else value
    experts = f"{block.module}.{names.stored}.experts"
    for new, old in enumerate(block.kept):
        for name in parts:
            if name.startswith(f"{experts}.{old}."):
                renamed = name.replace(f"{experts}.{old}.", f"{experts}.{new}.")
                tensors[renamed] = read(source.entries[name])
    return tensors


def _parts(source: Source, block: str) -> set[str]:
    """Names of the entries that belong to one expert each."""
    return {
        entry.name
        for name, rows in source.stacked.items()
        if name.startswith(f"{block}.")
        for row in rows
        for entry in row
    }


def finish(
    writer: Writer,
    source: Source,
    found: list[Dropped],
    share: float,
    seed: int,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Add everything beside the weights, whereupon the folder appears; the content of sprue.json.

    Raises:
        ResourceError: the disk is full.
    """
    stay = len(found[0].kept)
    told = {
        **artifact.origin(source),
        "target": "dense",
        "drop": {"share": share, "experts": _experts(source), "kept": stay},
        "layers": {b.module: {"kept": b.kept, "importance": b.importance} for b in found},
        "seed": seed,
        "versions": artifact.versions(),
        "data": dict(data),
        "tensors": {},
        "bytes": writer.nbytes,
        "fallbacks": [],
        "verdict": None,
    }
    config = {key: value for key, value in source.raw.items() if key != "auto_map"}
    counts = [key for key in mixture(source).counts if key in config]
    config |= dict.fromkeys(counts or mixture(source).counts[:1], stay)
    writer.finish(config, told, source.companions())
    return told


def _experts(source: Source) -> int:
    """Of every block that has some."""
    counts = {len(rows) for rows in source.stacked.values()}
    if len(counts) != 1:
        raise InputError(
            f"{source.path} stores its experts in a way that is not known, or no block has any; "
            "expected the matrices of every expert under names of their own, as in the original "
            "checkpoints"
        )
    return counts.pop()
