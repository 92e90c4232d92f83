"""Carrying a recipe out: block after block, read, packed, written, dropped.

A block sees what the compressed blocks before it produce, and within a block each group of linears
sees the compressed groups before it. Beside that runs the original's own activation, so that each
matrix can be aimed at the original's output (`weights.target`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from sprue.models import Group, Source, Stream, Writer, lent, set_weight
from sprue.plan.blame import blamed
from sprue.plan.checkpoint import Checkpoint
from sprue.plan.ledger import Ledger, Record
from sprue.plan.moments import Pair
from sprue.plan.recipe import Recipe
from sprue.plan.room import RESIDENT, SMALL, batch_of, tidy
from sprue.plan.survey import Survey
from sprue.weights import packed
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.packed import Packed
from sprue.weights.target import correction


@dataclass
class Walk:
    """One run of a recipe over a model.

    Attributes:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        recipe: what to do.
        writer: where it goes.
        survey: what was measured, where the recipe weighs by it.
        exact: every matrix takes what the recipe says, and nothing that others left.
        device: where blocks run.
        threads: matrices packed at the same time; does not change the result.
        batch: windows per forward; None: as many as hold about a thousand tokens.
        resident: bytes of activations beyond which they live in a file.
        checkpoint: where an earlier run stopped, and where this one says how far it is.
        progress: called after every group of linears.
        records: module name -> what came of it.
    """

    source: Source
    ids: Tensor
    recipe: Recipe
    writer: Writer
    survey: Survey | None = None
    exact: bool = False
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)
    batch: int | None = None
    resident: int | None = RESIDENT
    checkpoint: Checkpoint | None = None
    progress: Callable[[], None] = lambda: None
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.exact)
        self._batch = self.batch or batch_of(self.ids.shape[1])
        self._given = self.survey.moments if self.survey else {}
        self._importance = self.survey.importance if self.survey else {}

    def run(self) -> dict[str, Record]:
        """Pack and write everything; the folder is not yet finished."""
        stream = self._stream({})
        first, hidden, original = self._start(stream)
        for i in range(first, stream.blocks):
            self._block(stream, i, hidden, original)
            if self.checkpoint and i + 1 < stream.blocks:
                self.checkpoint.walked(
                    i + 1, self.records, self._ledger.carry, stream, hidden, original
                )
        self.writer.block("rest", self._rest())
        return self.records

    def _start(self, stream: Stream) -> tuple[int, Tensor, Tensor | None]:
        """The first block to pack, and what it receives, compressed and original."""
        family, saved = self.source.family, self.checkpoint
        if saved is None or not saved.block:
            hidden = self._stream(self._outer(family.embedding)).embed()
            self._outer(family.head)
            self.progress()
            return 0, hidden, stream.embed() if self.recipe.shift else None
        self.records |= saved.records()
        self._ledger.carry = saved.carry
        for _ in range(1 + saved.block * len(family.groups(self.source.config))):
            self.progress()
        return saved.block, *saved.activations(stream, self.recipe.shift)

    def _stream(self, replaced: Mapping[str, Tensor]) -> Stream:
        return Stream(
            self.source,
            self.ids,
            self._batch,
            self.device,
            replaced=replaced,
            resident=self.resident,
        )

    def _outer(self, name: str) -> dict[str, Tensor]:
        """Pack embedding or head; tensor name -> the dense matrix, for the embedding alone."""
        if name not in self.recipe.tensors:
            return {}
        result = self._packed(name)
        self.writer.block(_shard(name), self._stored(name, result))
        if name == self.source.family.head:
            return {}
        return {f"{name}.weight": packed.dense(result.meta, result.tensors)}

    def _packed(self, name: str) -> Packed:
        """The matrix as it is stored; its own copy and its second moment are given back."""
        W = self.source.weight(name)
        H = self._given.get(name, torch.eye(W.shape[1]))
        return self._pack(name, W, H)

    def _block(self, stream: Stream, i: int, hidden: Tensor, original: Tensor | None) -> None:
        prefix, block = self.source.family.block(i), stream.load(i)
        tensors: dict[str, Tensor] = {}
        done: list[str] = []
        for group in self.source.family.groups(self.source.config):
            todo = [n for n in group.linears if f"{prefix}.{n}" in self.recipe.tensors]
            if todo:
                H, C = self._moments(stream, block, i, hidden, original, group, done)
                aims = self._aims([f"{prefix}.{local}" for local in todo], H, C)
                del C  # as large as H, and of no more use
                packs = self._group(prefix, todo, aims, H)
                del aims, H
                for local, result in zip(todo, packs, strict=True):
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
        # what nothing repairs is chosen by what the block gets before any of it is cut, as in Wanda
        # (Sun et al. 2023, section 3): scores that follow the cuts before them choose worse
        plans = [self.recipe.tensors.get(f"{prefix}.{local}") for local in group.linears]
        whole = done if all(c and c.pattern and not c.feedback for c in plans) else []
        for part in stream.parts(hidden):
            if original is not None:
                with self._as_it_was(block, prefix, done):
                    stream.observe(block, i, original[part], {tap: pair.original})
                stream.settle(original)
            with self._as_it_was(block, prefix, whole):
                stream.observe(block, i, hidden[part], {tap: pair.now})
            stream.settle(hidden)
        return pair.means()

    def _as_it_was(
        self, block: nn.Module, prefix: str, done: list[str]
    ) -> AbstractContextManager[None]:
        return lent(block, done, lambda local: self.source.weight(f"{prefix}.{local}"))

    def _group(self, prefix: str, todo: list[str], aims: list[Tensor], H: Tensor) -> list[Packed]:
        """The packed linears of one group, in order; small ones at the same time."""
        names = [f"{prefix}.{local}" for local in todo]
        planned = [self.recipe.tensors[name] for name in names]
        first = self._ledger.grant(planned[0], aims[0].numel())
        choices = [first, *planned[1:]]  # the same for every number of threads
        threads = 1 if H.numel() > SMALL else min(self.threads, len(names))
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(partial(self._decompose, H=H), names, aims, choices))
        for name, plan, choice, result in zip(names, planned, choices, results, strict=True):
            self._note(name, plan, choice, result)
        return results

    def _aims(self, names: list[str], H: Tensor, C: Tensor | None) -> list[Tensor]:
        """What each matrix should be: its own, or what gives the original's outputs now."""
        planned = [self.recipe.tensors[name] for name in names]
        aims = [self.source.weight(name) for name in names]
        if C is None:
            return aims
        tidy()
        # a regression on few tokens learns their noise: the ridge grows as the tokens get fewer
        damping = max(len(H) / self.ids.numel(), *(choice.damping for choice in planned))
        with blamed(names[0]):
            P = correction(H, C, damping)
        return [
            W if choice.grid == "raw" and choice.pattern is None else W.addmm(W, P)
            for W, choice in zip(aims, planned, strict=True)
        ]

    def _pack(self, name: str, W: Tensor, H: Tensor) -> Packed:
        planned = self.recipe.tensors[name]
        choice = self._ledger.grant(planned, W.numel())
        result = self._decompose(name, W, choice, H)
        self._note(name, planned, choice, result)
        return result

    def _decompose(self, name: str, W: Tensor, choice: Choice, H: Tensor) -> Packed:
        seed = self.recipe.seed + zlib.crc32(name.encode())
        importance = self._importance.get(name) if self.recipe.importance else None
        if choice.grid == "raw":
            W = W.to(self.source.dtype(f"{name}.weight"))
        tidy()
        with blamed(name):
            return decompose(W, H, choice, seed, importance, self.threads)

    def _note(self, name: str, planned: Choice, choice: Choice, result: Packed) -> None:
        self._ledger.book(planned, result)
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
