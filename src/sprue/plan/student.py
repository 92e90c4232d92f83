"""A teacher and its converted student in memory, and what each step of a distillation reads."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sprue.models import Source, Writer
from sprue.plan.convert import Layer, block_name
from sprue.plan.split import feed_forward
from sprue.runtime.experts import like


def student_of(teacher: Any, source: Source, layers: Sequence[Layer], writer: Writer) -> Any:
    """A copy of `teacher` (float32) with the converted layers in it; the rest shares nothing."""
    student, part = copy.deepcopy(teacher), feed_forward(source)
    for i, layer in enumerate(layers):
        prefix = f"{part.module}."
        kept = writer.kept(block_name(i))
        made = like(student.get_submodule(layer.module), layer.layout, torch.float32, "cpu")
        made.load_state_dict(
            {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}
        )
        student.set_submodule(layer.module, made.to(teacher.device))
    return student.eval()


def trained(student: nn.Module, layers: Sequence[Layer], what: str) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name: "all", or those of the "experts" alone."""
    prefixes = tuple(f"{layer.module}." for layer in layers)
    found = {}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(what == "all" or name.startswith(prefixes))
        if parameter.requires_grad:
            found[name] = parameter
    return found


def paces(parameters: Iterable[str], layers: Sequence[Layer]) -> dict[str, float]:
    """Routers learn at a tenth of the rate: every change of theirs moves tokens between experts."""
    routers = tuple(f"{layer.module}.router." for layer in layers)
    return {name: 0.1 for name in parameters if name.startswith(routers)}


class Windows:
    """step -> windows of tokens; every epoch sees each window once, in an order of its own."""

    def __init__(self, ids: Tensor, seed: int, tokens: int, at_once: int) -> None:
        self._ids, self._seed, self._at_once = ids, seed, at_once
        self._count = max(1, min(len(ids), tokens // ids.shape[1]))

    def __call__(self, step: int) -> list[Tensor]:
        """Batches [windows, context] int64."""
        per_epoch = len(self._ids) // self._count
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(self._seed + epoch)
        order = torch.randperm(len(self._ids), generator=generator)
        some = order[place * self._count : (place + 1) * self._count]
        return list(torch.split(self._ids[some], self._at_once))


def converted(source: Source, layers: Sequence[Layer], writer: Writer) -> Iterator[
    tuple[str, dict[str, Tensor]]
]:  # fmt: skip
    """Shard name -> tensors of a converted model that was not taught, block by block."""
    part, replaced = feed_forward(source), []
    for i, layer in enumerate(layers):
        prefix, local = source.family.block(i), f"{part.module}."
        dtype = source.dtype(f"{layer.module}.{part.down}.weight")
        mine = {n: source.tensor(n) for n in source.entries if n.startswith(f"{prefix}.")}
        mine = {n: t for n, t in mine.items() if not n.startswith(f"{layer.module}.")}
        kept = writer.kept(block_name(i))
        mine |= {f"{prefix}.{n}": t.to(dtype) for n, t in kept.items() if n.startswith(local)}
        replaced.append(prefix)
        yield prefix.replace(".", "-"), mine
    inside = f"{source.family.blocks}."
    yield "rest", {n: source.tensor(n) for n in source.entries if not n.startswith(inside)}


def taught(source: Source, layers: Sequence[Layer], student: nn.Module) -> Iterator[
    tuple[str, dict[str, Tensor]]
]:  # fmt: skip
    """The same of a student that was taught."""
    part = feed_forward(source)
    state = student.state_dict()
    inside = f"{source.family.blocks}."
    for i, layer in enumerate(layers):
        prefix = source.family.block(i)
        dtype = source.dtype(f"{layer.module}.{part.down}.weight")
        mine = {n: t for n, t in state.items() if n.startswith(f"{prefix}.")}
        yield (
            prefix.replace(".", "-"),
            {n: t.to(source.dtype(n) if n in source.entries else dtype) for n, t in mine.items()},
        )
    rest = {n: state[n].to(source.dtype(n)) for n in source.entries if not n.startswith(inside)}
    yield "rest", rest
