"""Dense feed-forward layers into experts, block after block, aimed at the original's outputs.

A block sees what the converted blocks before it produce; beside that runs the original's own
activation. Neurons are grouped and the router is fitted on what the layer now reads, and the down
projections are fitted again so that the layer gives what the original's layer gave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from sprue.models import Source, Stream, Writer, get_weight
from sprue.plan.calibration import spaced
from sprue.plan.keeping import INTERVAL
from sprue.plan.room import RESIDENT, batch_of, tidy
from sprue.plan.split import Split, feed_forward
from sprue.plan.waiting import Waiting
from sprue.runtime.experts import Expert, Experts, like
from sprue.structure import experts as structure
from sprue.structure.experts import SHARED, Dense, Refit, Router

SAMPLE = 1 << 27  # bytes of neurons over tokens from which groups are made, at most
_ENOUGH = 1 << 14  # tokens
_TOKENS = 1024  # at once in a regression
_HELD = 6  # of so many parts one is held back


@dataclass(frozen=True)
class Layer:
    """What came of one feed-forward layer.

    Attributes:
        module: its name in the model.
        layout: of the experts.
        load: share of the calibration tokens that compute each routed expert.
        lost: |T - y|^2 / |T|^2 over the calibration tokens, before and after the repair.
        correlation: mean correlation of two neurons' amplitudes, by their experts.
    """

    module: str
    layout: dict[str, Any]
    load: list[float]
    lost: tuple[float, float]
    correlation: list[list[float]]


@dataclass
class Conversion:
    """One conversion of a model.

    Attributes:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        split: what to make.
        writer: where converted blocks wait, under `block_name(i)`.
        device: where blocks run.
        progress: called after every block.
        layers: what came of the blocks so far.
    """

    source: Source
    ids: Tensor
    split: Split
    writer: Writer
    device: str = "cpu"
    progress: Callable[[], object] = lambda: None
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._part = feed_forward(self.source)
        self._saved = time.monotonic()
        self._waiting = Waiting(self.writer)

    def run(self, state: Mapping[str, Any] | None = None) -> list[Layer]:
        """Convert every block from where `state` stopped."""
        stream = Stream(
            self.source, self.ids, batch_of(self.ids.shape[1]), self.device, resident=RESIDENT
        )
        original, now = self._start(stream, state or {})
        for i in range(len(self.layers), stream.blocks):
            self.layers.append(self._block(stream, i, original, now))
            self._save(stream, original, now)
            self.progress()
        return self.layers

    def _start(self, stream: Stream, state: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if not state.get("layers"):
            return stream.embed(), stream.embed()
        self.layers = [layer_of(row) for row in state["layers"]]
        self._waiting = Waiting(self.writer, state["waiting"])
        for _ in self.layers:
            self.progress()
        if len(self.layers) == stream.blocks:  # nothing is to come
            return stream.allocate(), stream.allocate()
        original, now = self._waiting.get(stream, ("original", "now"))
        return original, now

    def _save(self, stream: Stream, original: Tensor, now: Tensor) -> None:
        """All that going on takes, where the last time is long ago."""
        if time.monotonic() - self._saved < INTERVAL:
            return
        both, step = {"original": original, "now": now}, f"waiting{len(self.layers):05d}"
        self._waiting.put(stream, step, both)
        self.writer.save(self.state())
        self._saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What `run` takes up, JSON-able."""
        layers = [asdict(layer) for layer in self.layers]
        return {"layers": layers, "waiting": self._waiting.names}

    def _block(self, stream: Stream, i: int, original: Tensor, now: Tensor) -> Layer:
        block = stream.load(i)
        module = block.get_submodule(self._part.module)
        dense = dense_of(block, self._part)
        seen, aims = _Seen(stream, len(self.ids)), _Seen(stream, len(self.ids), dense)
        stream.run(block, i, original, {self._part.module: aims}, out=original)
        stream.observe(block, i, now, {self._part.module: seen})
        tidy()
        made, layer = self._converted(module, dense, seen.rows, aims.rows, i)
        block.set_submodule(self._part.module, made.to(self.device))
        stream.run(block, i, now, out=now)
        self.writer.keep(block_name(i), dict(block.state_dict()))
        return layer

    def _converted(
        self, module: nn.Module, dense: Dense, x: Tensor, target: Tensor, i: int
    ) -> tuple[Experts, Layer]:
        """The experts, and what is told of them."""
        some = _sample(x, dense.neurons)
        energies = structure.energy(dense, some)
        labels, router = grouped(dense, some, energies, self.split, self.split.seed + i)
        work = _Repair(dense, labels, router, self.split.picked, x, target)
        down, bias, lost = work.run(self.split.repair)
        layout = self._layout(dense, x.shape[1])
        made = like(module, layout, torch.float32, "cpu").eval()
        fill(made, dense, labels, router, down, bias)
        return made, Layer(
            module=f"{self.source.family.block(i)}.{self._part.module}",
            layout=layout,
            load=router.chosen(some, self.split.picked).mean(0).tolist(),
            lost=lost,
            correlation=structure.correlation(energies, labels, self.split.routed).tolist(),
        )

    def _layout(self, dense: Dense, width: int) -> dict[str, Any]:
        gated, bias = dense.gate is not None, dense.up_bias is not None
        layout = self.split.layout(dense.neurons, width, gated, bias)
        return layout | {"activation": self._part.activation}


def block_name(i: int) -> str:
    """Under which the writer keeps converted block `i`."""
    return f"block{i:05d}"


def layer_of(row: Mapping[str, Any]) -> Layer:
    """The opposite of `asdict`, after a walk through JSON."""
    return Layer(**{**row, "lost": tuple(row["lost"])})


class _Seen:
    """A tap that keeps what it sees, or what `through` makes of it, in the order of the tokens."""

    def __init__(
        self, stream: Stream, windows: int, through: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._all, self._stream, self._through = stream.allocate(windows), stream, through
        self._next = 0

    def __call__(self, x: Tensor) -> None:
        rows, x = self.rows[self._next : self._next + len(x)], x.to("cpu")
        rows.copy_(x if self._through is None else self._through(x))
        self._next += len(x)
        self._stream.settle(self._all)

    @property
    def rows(self) -> Tensor:
        """[tokens, width]"""
        return self._all.view(-1, self._all.shape[-1])


def dense_of(block: nn.Module, part: Any) -> Dense:
    """The matrices of a block's feed-forward layer."""
    module = block.get_submodule(part.module)
    up, down = (get_weight(module, name).to("cpu") for name in (part.up, part.down))
    bias = _bias(module, part.up)
    gate, gate_bias = None, None
    if part.gate == part.up:
        (gate, up), both = up.chunk(2), (None, None) if bias is None else bias.chunk(2)
        gate_bias, bias = both
    elif part.gate is not None:
        gate, gate_bias = get_weight(module, part.gate).to("cpu"), _bias(module, part.gate)
    activation = getattr(module, part.activation)
    return Dense(up, down, activation, gate, bias, gate_bias, _bias(module, part.down))


def _bias(module: nn.Module, name: str) -> Tensor | None:
    found = module.get_submodule(name).bias
    return None if found is None else cast(Tensor, found).detach().to("cpu", copy=True)


def _sample(x: Tensor, neurons: int) -> Tensor:
    """Evenly spaced rows, as many as may be in memory with all their neurons."""
    most = max(1, min(_ENOUGH, SAMPLE // (4 * neurons)))
    return spaced(x, most)


def grouped(
    dense: Dense, x: Tensor, energies: Tensor, split: Split, seed: int
) -> tuple[Tensor, Router]:
    """Labels of the neurons (`SHARED`, or the routed expert), and the router."""
    labels = torch.full((dense.neurons,), SHARED)
    rest = torch.ones(dense.neurons, dtype=torch.bool)
    always = sum(structure.sizes(dense.neurons, split.experts)[: split.shared])
    if always:
        rest[structure.shared_neurons(energies, always)] = False
    inner = energies[:, rest]
    if split.grouping == "random":
        labels[rest] = structure.by_chance(inner.shape[1], split.routed, seed)
    elif split.grouping == "weights":
        rows = torch.nn.functional.normalize(dense.opening[0][rest], dim=1)
        labels[rest] = structure.by_profile(rows, split.routed, seed)
    elif split.grouping == "coactivation":
        labels[rest] = structure.by_profile(structure.profiles(inner, seed), split.routed, seed)
    else:
        labels[rest] = structure.group(inner, x, split.routed, split.picked, seed)
    return labels, _router(dense, x, energies, labels, split, seed)


def _router(
    dense: Dense, x: Tensor, energies: Tensor, labels: Tensor, split: Split, seed: int
) -> Router:
    if split.router == "random":
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(split.routed, x.shape[1], generator=generator)
        return Router(weight, torch.zeros(split.routed))
    if split.router == "representative":
        picked = structure.representatives(energies, labels, split.routed, seed)
        rows, bias = dense.opening
        return Router(rows[picked], torch.zeros(split.routed) if bias is None else bias[picked])
    return structure.router(x, structure.strengths(dense, x, labels, split.routed))


@dataclass
class _Repair:
    """The down projection that makes up for what is not computed, and what is lost before it."""

    dense: Dense
    labels: Tensor
    router: Router
    active: int
    x: Tensor
    target: Tensor

    def run(self, repair: bool) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """(D [out, neurons], b [out], lost before and after); without `repair`, as it was."""
        down, bias = self.dense.down, self.dense.down_bias
        bias = torch.zeros(len(down)) if bias is None else bias
        before = self._lost(down, bias)
        if not repair:
            return down, bias, (before, before)
        refit = Refit(self.dense)
        for place, (h, aim) in enumerate(self._batches()):
            refit.add(h, aim, held=place % _HELD == _HELD - 1)
        down, bias = refit.solve()
        return down, bias, (before, self._lost(down, bias))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Masked neurons and aims, some tokens at a time."""
        size = max(1, min(_TOKENS, len(self.x) // _HELD))
        parts = torch.split(self.x, size), torch.split(self.target, size)
        for some, aim in zip(*parts, strict=True):
            chosen = self.router.chosen(some, self.active)
            # SHARED is -1, the column of ones
            mask = torch.cat([chosen, torch.ones(len(some), 1)], 1)[:, self.labels]
            yield self.dense.hidden(some).mul_(mask), aim

    def _lost(self, down: Tensor, bias: Tensor) -> float:
        wrong = whole = 0.0
        for h, aim in self._batches():
            wrong += float((torch.nn.functional.linear(h, down, bias) - aim).square().sum())
            whole += float(aim.square().sum())
        return wrong / max(whole, 1e-30)


@torch.no_grad()
def fill(
    made: Experts, dense: Dense, labels: Tensor, router: Router, down: Tensor, bias: Tensor
) -> None:
    """Give experts their weights."""
    made.router.weight.copy_(router.weight)
    made.router.bias.copy_(router.bias)
    made.bias.copy_(bias)
    made.gain.zero_()
    for e, expert in enumerate(made.experts):
        _fill(cast(Expert, expert), dense, down, (labels == e).nonzero().flatten())
    if made.shared is not None:
        _fill(made.shared, dense, down, (labels == SHARED).nonzero().flatten())


def _fill(expert: Expert, dense: Dense, down: Tensor, mine: Tensor) -> None:
    expert.up.weight.copy_(dense.up[mine])
    expert.down.weight.copy_(down[:, mine])
    if dense.up_bias is not None:
        expert.up.bias.copy_(dense.up_bias[mine])
    if expert.gate is not None and dense.gate is not None:
        expert.gate.weight.copy_(dense.gate[mine])
        if dense.gate_bias is not None:
            expert.gate.bias.copy_(dense.gate_bias[mine])
