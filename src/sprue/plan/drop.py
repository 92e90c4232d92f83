"""Dropping experts of a model that has some: measured block by block, as many in each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import Mixture, Source, Stream, Writer
from sprue.models.tensorfile import read
from sprue.plan import artifact
from sprue.plan.keeping import INTERVAL
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.waiting import Waiting
from sprue.structure.dropping import Importance, kept


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


@dataclass
class Measuring:
    """One walk over the blocks of a model that has experts.

    Attributes:
        source: the original.
        ids: calibration windows, int64 [windows, context].
        stay: how many experts of a block stay.
        writer: where the state is saved.
        criterion: "reap", or "random" for comparison.
        seed: of the random one.
        device: where blocks run.
        progress: called after every block.
        found: what came of the blocks that have experts, so far.
    """

    source: Source
    ids: Tensor
    stay: int
    writer: Writer
    criterion: str = "reap"
    seed: int = 0
    device: str = "cpu"
    progress: Callable[[], object] = lambda: None
    found: list[Dropped] = field(default_factory=list)

    def run(self, state: Mapping[str, Any] | None = None) -> list[Dropped]:
        """Every block, from where `state` stopped.

        Raises:
            InputError: NaN or infinite weights, ids outside the vocabulary.
        """
        stream = Stream(
            self.source, self.ids, batch_of(self.ids.shape[1]), self.device, resident=RESIDENT
        )
        first, hidden = self._start(stream, state or {})
        for i in range(first, stream.blocks):
            self._block(stream, i, hidden)
            self._save(stream, i + 1, hidden)
            self.progress()
        return self.found

    def _start(self, stream: Stream, state: Mapping[str, Any]) -> tuple[int, Tensor]:
        self._saved, self._waiting = time.monotonic(), Waiting(self.writer)
        if not state:
            return 0, stream.embed()
        self.found = [Dropped(**row) for row in state["found"]]
        self._waiting = Waiting(self.writer, state["waiting"])
        for _ in range(state["next"]):
            self.progress()
        return int(state["next"]), self._waiting.get(stream, ("hidden",))[0]

    def _block(self, stream: Stream, i: int, hidden: Tensor) -> None:
        block, name = stream.load(i), self.source.family.block(i)
        if f"{name}.{mixture(self.source).experts}.down_proj" not in self.source.stacked:
            stream.run(block, i, hidden, out=hidden)
            return
        importance = _watched(stream, block, i, hidden)
        value = importance.value()
        if self.criterion == "random":
            generator = torch.Generator().manual_seed(self.seed + i)
            value = torch.rand(len(value), generator=generator, dtype=torch.float64)
        load = (importance.tokens / self.ids.numel()).tolist()
        self.found.append(Dropped(name, value.tolist(), load, kept(value, self.stay).tolist()))

    def _save(self, stream: Stream, after: int, hidden: Tensor) -> None:
        """All that going on takes, where the last time is long ago."""
        if time.monotonic() - self._saved < INTERVAL:
            return
        self._waiting.put(stream, f"waiting{after:05d}", {"hidden": hidden})
        found = [asdict(block) for block in self.found]
        self.writer.save({"next": after, "found": found, "waiting": self._waiting.names})
        self._saved = time.monotonic()


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
