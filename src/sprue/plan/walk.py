"""Carrying a recipe out: block after block, read, packed, written, dropped.

A block sees what the compressed blocks before it produce, and within a block each group of linears
sees the compressed groups before it. Beside that runs the original's own activation, so that each
matrix can be aimed at the original's output (`weights.target`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import Group, Source, Stream, Writer, lent, set_weight
from sprue.plan.moments import Pair
from sprue.plan.recipe import Recipe
from sprue.weights import packed
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.packed import Packed
from sprue.weights.target import shifted

_GRANT = 0.25  # bits a weight that a matrix may take over from those before it


@dataclass
class Ledger:
    """What matrices were allowed and took, so that what one leaves goes to the next.

    Attributes:
        exact: every matrix takes what the recipe says (a recipe that is run again).
        carry: bits allowed and not yet taken.
    """

    exact: bool = False
    carry: float = 0.0

    def grant(self, choice: Choice, weights: int) -> Choice:
        """The choice with its share of what is left over; grids of fixed rates stay."""
        if self.exact or choice.grid != "trellis":
            return choice
        return choice.with_bits(choice.bits + min(self.carry / weights, _GRANT))

    def book(self, planned: Choice, result: Packed) -> None:
        """Note what a matrix took of what it was planned to take."""
        if planned.grid == "trellis":
            out, width = result.shape
            self.carry += planned.bits * out * width - result.bits


@dataclass(frozen=True)
class Record:
    """What is kept of a packed matrix once it is written."""

    choice: Choice
    layout: dict[str, object]
    bits: int
    weights: int
    error: float


@dataclass
class Walk:
    """One run of a recipe over a model.

    Attributes:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        recipe: what to do.
        writer: where it goes.
        importance: module name -> [out], or empty.
        moments: second moments for embedding and head, or empty.
        ledger: bits allowed and taken.
        device: where blocks run.
        threads: matrices packed at the same time.
        batch: windows per forward.
        resident: bytes of activations beyond which they live in a file.
        progress: called after every group of linears.
        records: module name -> what came of it.
    """

    source: Source
    ids: Tensor
    recipe: Recipe
    writer: Writer
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    device: str = "cpu"
    threads: int = 1
    batch: int = 8
    resident: int | None = 256 << 20
    progress: Callable[[], None] = lambda: None
    records: dict[str, Record] = field(default_factory=dict)

    def run(self) -> dict[str, Record]:
        """Pack and write everything; the folder is not yet finished."""
        embedding = self._outer()
        stream = partial(
            Stream, self.source, self.ids, self.batch, self.device, resident=self.resident
        )
        compressed = stream(replaced=embedding)
        hidden = compressed.embed()
        original = stream().embed() if self.recipe.shift else None
        for i in range(compressed.blocks):
            self._block(compressed, i, hidden, original)
        self.writer.block("rest", self._rest())
        return self.records

    def _outer(self) -> dict[str, Tensor]:
        """Pack embedding and head; tensor name -> the dense embedding that blocks will see."""
        family, dense = self.source.family, {}
        for name in (family.embedding, family.head):
            if name not in self.recipe.tensors:
                continue
            W = self.source.weight(name)
            H = self.moments.get(name, torch.eye(W.shape[1]))
            result = self._pack(name, W, H)
            self.writer.block(_shard(name), self._stored(name, result))
            if name == family.embedding:
                dense[f"{name}.weight"] = packed.dense(result.meta, result.tensors)
        self.progress()
        return dense

    def _block(
        self, stream: Stream, i: int, hidden: Tensor, original: Tensor | None
    ) -> None:
        prefix, block = self.source.family.block(i), stream.load(i)
        tensors: dict[str, Tensor] = {}
        done: list[str] = []
        for group in self.source.family.groups(self.source.config):
            todo = [n for n in group.linears if f"{prefix}.{n}" in self.recipe.tensors]
            if todo:
                H, C = self._moments(stream, block, i, hidden, original, group, done)
                for local, result in zip(todo, self._group(prefix, todo, H, C), strict=True):
                    set_weight(block, local, packed.dense(result.meta, result.tensors))
                    tensors |= self._stored(f"{prefix}.{local}", result)
                done += todo
            self.progress()
        self.writer.block(f"{i:05d}", {**tensors, **self._kept(f"{prefix}.", tensors)})
        if i + 1 < stream.blocks:
            stream.run(block, i, hidden, out=hidden)
            if original is not None:
                with self._as_it_was(block, prefix, done):
                    stream.run(block, i, original, out=original)

    def _moments(
        self,
        stream: Stream,
        block: nn.Module,
        i: int,
        hidden: Tensor,
        original: Tensor | None,
        group: Group,
        done: list[str],
    ) -> tuple[Tensor, Tensor | None]:
        """Second moments of a group's input, now and against the original's."""
        pair, tap = Pair(), group.linears[0]
        prefix = self.source.family.block(i)
        for part in stream.parts(hidden):
            if original is not None:
                with self._as_it_was(block, prefix, done):
                    stream.observe(block, i, original[part], {tap: pair.original})
                stream.settle(original)
            stream.observe(block, i, hidden[part], {tap: pair.now})
            stream.settle(hidden)
        return pair.means()

    def _as_it_was(self, block: nn.Module, prefix: str, done: list[str]):  # type: ignore[no-untyped-def]
        return lent(block, done, lambda local: self.source.weight(f"{prefix}.{local}"))

    def _group(
        self, prefix: str, todo: list[str], H: Tensor, C: Tensor | None
    ) -> list[Packed]:
        """The packed linears of one group, in order; those of a group at the same time."""
        names = [f"{prefix}.{local}" for local in todo]
        planned = [self.recipe.tensors[name] for name in names]
        weights = [self.source.weight(name) for name in names]
        first = self.ledger.grant(planned[0], weights[0].numel())
        choices = [first, *planned[1:]]  # the same for every number of threads

        def one(name: str, W: Tensor, choice: Choice) -> Packed:
            aim = W if C is None else shifted(W, H, C, choice.damping)
            return self._decompose(name, aim, H, choice)

        with ThreadPoolExecutor(min(self.threads, len(names))) as pool:
            results = list(pool.map(one, names, weights, choices))
        for name, plan, choice, result in zip(names, planned, choices, results, strict=True):
            self._note(name, plan, choice, result)
        return results

    def _pack(self, name: str, W: Tensor, H: Tensor) -> Packed:
        planned = self.recipe.tensors[name]
        choice = self.ledger.grant(planned, W.numel())
        result = self._decompose(name, W, H, choice)
        self._note(name, planned, choice, result)
        return result

    def _decompose(self, name: str, W: Tensor, H: Tensor, choice: Choice) -> Packed:
        seed = self.recipe.seed + zlib.crc32(name.encode())
        importance = self.importance.get(name) if self.recipe.importance else None
        try:
            return decompose(W, H, choice, seed, importance, self.threads)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error

    def _note(self, name: str, planned: Choice, choice: Choice, result: Packed) -> None:
        self.ledger.book(planned, result)
        weights = result.shape[0] * result.shape[1]
        layout = packed.layout(result)
        self.records[name] = Record(choice, layout, result.bits, weights, result.error)

    def _stored(self, name: str, result: Packed) -> dict[str, Tensor]:
        return {f"{name}.{key}": tensor for key, tensor in result.tensors.items()}

    def _kept(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the source holds under `prefix` and no packed matrix replaces, as it is."""
        replaced = {f"{name}.weight" for name in self.recipe.tensors}
        return {
            name: self.source.tensor(name)
            for name in self.source.entries
            if name.startswith(prefix) and name not in replaced and name not in tensors
        }

    def _rest(self) -> dict[str, Tensor]:
        """Everything outside the blocks that stays as it is."""
        inside = f"{self.source.family.blocks}."
        kept = self._kept("", {})
        return {name: tensor for name, tensor in kept.items() if not name.startswith(inside)}


def _shard(name: str) -> str:
    return name.replace(".", "-")
