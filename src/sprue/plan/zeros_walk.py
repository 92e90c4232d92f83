"""Setting thresholds: block after block, on what the blocks before give with theirs.

Within a block each group of linears sees the thresholds of the groups before it. Beside that runs
the original's own activation, and each matrix is aimed at the original's output given the inputs
that its threshold leaves (`weights.target`): what is left of an input tells something of what was
taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import Group, Source, Stream, Writer, lent, set_weight, thresholded
from sprue.plan.blame import blamed
from sprue.plan.checkpoint import Checkpoint
from sprue.plan.ledger import Record
from sprue.plan.moments import Pair
from sprue.plan.room import RESIDENT, batch_of, tidy
from sprue.plan.zeros import sample
from sprue.weights import packed, threshold
from sprue.weights.choice import Choice
from sprue.weights.grids import columns
from sprue.weights.packed import Packed
from sprue.weights.target import correction

_DAMPING = 0.01  # at least
# What is left of inputs explains about a sixth of the power of what was taken away. The ridge that
# is best on other text is then (1 - 1/6) / (1/6) times the inputs over the tokens.
_NOISE = 5.0
_SAMPLED = 1 << 23  # inputs of a group on which its thresholds are set
_TOKENS = 1024  # on which the error of a matrix is measured


@dataclass
class _Place:
    """A block in the middle of its work: what it receives now and in the original."""

    stream: Stream
    block: nn.Module
    i: int
    prefix: str
    hidden: Tensor
    original: Tensor | None
    limits: dict[str, float] = field(default_factory=dict)  # of the linears that are done

    def name(self, local: str) -> str:
        """Of a module in the model."""
        return f"{self.prefix}.{local}"


@dataclass
class ZerosWalk:
    """One run of thresholds over a model.

    Attributes:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        shares: module name of every block linear -> share of its inputs that are to be zero.
        writer: where it goes.
        shift: aim each matrix at the original's outputs; else it stays as it is.
        device: where blocks run.
        resident: bytes of activations beyond which they live in a file.
        checkpoint: where an earlier run stopped, and where this one says how far it is.
        progress: called after every group of linears.
        records: module name -> what came of it.
    """

    source: Source
    ids: Tensor
    shares: Mapping[str, float]
    writer: Writer
    shift: bool = True
    device: str = "cpu"
    resident: int | None = RESIDENT
    checkpoint: Checkpoint | None = None
    progress: Callable[[], None] = lambda: None
    records: dict[str, Record] = field(default_factory=dict)

    def run(self) -> dict[str, Record]:
        """Set, pack and write everything; the folder is not yet finished."""
        batch = batch_of(self.ids.shape[1])
        stream = Stream(self.source, self.ids, batch, self.device, resident=self.resident)
        first, hidden, original = self._start(stream)
        for i in range(first, stream.blocks):
            self._block(stream, i, hidden, original)
            if self.checkpoint and i + 1 < stream.blocks:
                self.checkpoint.walked(i + 1, self.records, 0.0, stream, hidden, original)
        inside = f"{self.source.family.blocks}."
        self.writer.block("rest", self._kept(lambda name: not name.startswith(inside)))
        return self.records

    def _start(self, stream: Stream) -> tuple[int, Tensor, Tensor | None]:
        """The first block to do, and what it receives, with thresholds and in the original."""
        saved = self.checkpoint
        if saved is None or not saved.block:
            return 0, stream.embed(), stream.embed() if self.shift else None
        self.records |= saved.records()
        for _ in range(saved.block * len(self.source.family.groups(self.source.config))):
            self.progress()
        return saved.block, *saved.activations(stream, self.shift)

    def _block(self, stream: Stream, i: int, hidden: Tensor, original: Tensor | None) -> None:
        at = _Place(stream, stream.load(i), i, self.source.family.block(i), hidden, original)
        results: dict[str, Packed] = {}
        for group in self.source.family.groups(self.source.config):
            results |= self._group(at, group)
            self.progress()
        zeros = _advance(at)
        if original is not None and i + 1 < stream.blocks:
            with self._as_it_was(at):
                stream.run(at.block, i, original, out=original)
        self._write(at, results, zeros)

    def _group(self, at: _Place, group: Group) -> dict[str, Packed]:
        """The packed linears of a group, which now run in the block with their thresholds."""
        x = self._sample(at, group)
        new = {n: threshold.at_share(x, self.shares[at.name(n)]) for n in group.linears}
        results = {
            local: self._packed(at.name(local), W, x, new[local])
            for local, W in self._aims(at, new).items()
        }
        for local, result in results.items():
            set_weight(at.block, local, packed.dense(result.meta, result.tensors))
        at.limits |= new
        return results

    def _sample(self, at: _Place, group: Group) -> Tensor:
        """Inputs of a group, [tokens, in], evenly spaced."""
        kept: list[Tensor] = []
        tap = group.linears[0]
        width = self.source.shape(f"{at.name(tap)}.weight")[not self.source.family.transposed]
        tokens = max(1, _SAMPLED // width * at.stream.batch // len(at.hidden))
        with thresholded(at.block, at.limits):
            taps = {tap: lambda x: kept.append(sample(x, tokens))}
            at.stream.observe(at.block, at.i, at.hidden, taps)
        x = torch.cat(kept)
        if not torch.isfinite(x).all():
            raise InputError(
                f"{at.name(tap)}: what it receives on the calibration text is not finite in "
                "float32; the checkpoint may be damaged: fetch or train it again"
            )
        return x

    def _aims(self, at: _Place, new: Mapping[str, float]) -> dict[str, Tensor]:
        """What each matrix of a group should be, float32 [out, in]."""
        own = {local: self.source.weight(at.name(local)) for local in new}
        if at.original is None:
            return own
        pairs = self._pairs(at, at.original, new)
        return {local: self._aim(at.name(local), W, pairs.pop(local)) for local, W in own.items()}

    def _pairs(self, at: _Place, original: Tensor, new: Mapping[str, float]) -> dict[str, Pair]:
        """Second moments of what each linear of a group gets now, and against the original's."""
        pairs = {local: Pair() for local in new}
        tap = next(iter(new))

        def before(x: Tensor) -> None:
            for pair in pairs.values():
                pair.original(x)

        def now(x: Tensor) -> None:
            for local, pair in pairs.items():
                pair.now(threshold.applied(x, new[local]))

        for part in at.stream.parts(at.hidden):
            with self._as_it_was(at):
                at.stream.observe(at.block, at.i, original[part], {tap: before})
            at.stream.settle(original)
            with thresholded(at.block, at.limits):
                at.stream.observe(at.block, at.i, at.hidden[part], {tap: now})
            at.stream.settle(at.hidden)
        return pairs

    def _aim(self, name: str, W: Tensor, pair: Pair) -> Tensor:
        H, C = pair.means()
        assert C is not None
        tidy()
        damping = max(_DAMPING, _NOISE * W.shape[1] / self.ids.numel())
        with blamed(name):
            return W.addmm(W, correction(H, C, damping))

    def _as_it_was(self, at: _Place) -> AbstractContextManager[None]:
        return lent(at.block, at.limits, lambda local: self.source.weight(at.name(local)))

    def _packed(self, name: str, W: Tensor, x: Tensor, limit: float) -> Packed:
        """W as it is stored, with the share of the output's power that is lost on x."""
        dtype = self.source.dtype(f"{name}.weight")
        meta, tensors = columns.pack(W.to(dtype))
        some = sample(x, _TOKENS)
        whole = some @ self.source.weight(name).T
        lost = whole - threshold.applied(some, limit) @ packed.dense(meta, tensors).T
        error = float(lost.square().sum() / whole.square().sum().clamp(min=1e-30))
        return Packed((W.shape[0], W.shape[1]), meta, tensors, error)

    def _write(self, at: _Place, results: Mapping[str, Packed], zeros: Mapping[str, float]) -> None:
        tensors: dict[str, Tensor] = {}
        for local, result in results.items():
            name, weights = at.name(local), result.shape[0] * result.shape[1]
            layout = threshold.attach(packed.layout(result), at.limits[local], zeros[local])
            self.records[name] = Record(Choice("raw"), layout, result.bits, weights, result.error)
            tensors |= {f"{name}.{key}": tensor for key, tensor in result.tensors.items()}
        rest = self._kept(lambda name: name.startswith(f"{at.prefix}."))
        self.writer.block(f"{at.i:05d}", {**tensors, **rest})

    def _kept(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        """What the source holds and no packed matrix replaces, as it is."""
        replaced = {f"{name}.weight" for name in self.shares}
        return {
            name: self.source.tensor(name)
            for name in self.source.entries
            if wanted(name) and name not in replaced
        }


def _advance(at: _Place) -> dict[str, float]:
    """Take `hidden` through the block; local name -> the share of zeros that there was."""
    zero, seen = dict.fromkeys(at.limits, 0), dict.fromkeys(at.limits, 0)

    def count(local: str, dropped: Tensor) -> None:
        zero[local] += int(dropped.sum())
        seen[local] += dropped.numel()

    with thresholded(at.block, at.limits, count):
        at.stream.run(at.block, at.i, at.hidden, out=at.hidden)
    return {local: zero[local] / seen[local] for local in at.limits}
