"""What a file of a network is worth beside its original's, in the engine that will run both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.data.examples import Examples
from sprue.models import nets
from sprue.plan import precision
from sprue.proof import energy, latency, scores
from sprue.proof.energy import Counter, Energy
from sprue.proof.latency import Turns
from sprue.runtime.engines import Session, open_session

_BATCH = 32  # examples that are run at once where only answers matter
THROUGHPUT = 16  # examples at once where many are to be served
_FEW_ROUNDS = 7
_ROUNDING = 1e-4  # of the largest output: what engines differ by for the same float32 network


@dataclass(frozen=True)
class Costs:
    """Of a file beside the original's.

    Attributes:
        single: one example at a time.
        many: `THROUGHPUT` at a time; None where the network takes but one.
        energy: of an example, original and result.
    """

    single: Turns
    many: Turns | None
    energy: tuple[Energy, Energy]

    @property
    def energy_ratio(self) -> float:
        """Result over original, at the middle of both ranges."""
        before, after = (sum(e.joules_per_token) for e in self.energy)
        return after / before


@dataclass
class Bench:
    """A place to measure files of one network.

    Attributes:
        net: the original.
        engine: that runs all files.
        original: its file, float32.
        examples: to judge answers on.
        threads: of the engine.
        seed: of resampling.
    """

    net: nets.Net
    engine: str
    original: Path
    examples: Examples = field(repr=False)
    threads: int = 1
    seed: int = 0
    counter: Counter | None = None

    def session(self, path: Path, batch: int | None = None) -> Session:
        """A file, loaded; for a batch of a size that never changes, or for any."""
        shapes = None
        if batch is not None:
            shapes = [(batch, *x.shape[1:]) for x in self.examples.inputs]
        return open_session(
            path, self.net.inputs, engine=self.engine, threads=self.threads, shapes=shapes
        )

    def outputs(self, path: Path, advance: Callable[[], object] = lambda: None) -> NDArray[Any]:
        """Answers to all examples, [examples, ...]."""
        session, size = self.session(path), self._batch
        found = []
        for batch in self.examples.batches(size):
            found.append(session.run([x.numpy() for x in batch]))
            advance()
        return np.concatenate(found)

    @cached_property
    def metrics(self) -> tuple[scores.Metric, ...]:
        """What the task is scored by; the first is what has to be kept."""
        return scores.metrics_for(
            self.net.task,
            self.examples.truth,
            original=self._answers,
            decoder=self.net.decoder,
            size=self._size,
            classes=self.net.classes,
        )

    @cached_property
    def _answers(self) -> NDArray[Any]:
        return self.outputs(self.original)

    @cached_property
    def _got(self) -> list[Any]:
        return [m.read(self._answers, self.examples.truth) for m in self.metrics]

    def judge(self, path: Path) -> tuple[scores.Kept, ...]:
        """What a file kept, by every metric."""
        return self.judged(self.outputs(path))

    def judged(self, answers: NDArray[Any]) -> tuple[scores.Kept, ...]:
        """What answers to all examples kept, by every metric."""
        same = self._same(answers)
        return tuple(
            scores.paired(m, got, m.read(answers, self.examples.truth), seed=self.seed, same=same)
            for m, got in zip(self.metrics, self._got, strict=True)
        )

    def kept(self, path: Path) -> scores.Kept:
        """By the first metric alone."""
        metric, got = self.metrics[0], self._got[0]
        answers = self.outputs(path)
        read = metric.read(answers, self.examples.truth)
        return scores.paired(metric, got, read, seed=self.seed, same=self._same(answers))

    def _same(self, answers: NDArray[Any]) -> bool:
        """Whether these are the original's answers but for rounding."""
        most = float(np.abs(self._answers).max())
        return float(np.abs(answers - self._answers).max()) <= _ROUNDING * most

    def turns(self, path: Path, batch: int = 1, rounds: int = _FEW_ROUNDS) -> Turns:
        """Both files in turns, on the first examples."""
        calls = []
        inputs = [x[:batch].numpy() for x in self.examples.inputs]
        size = len(inputs[0])
        for file in (self.original, path):
            session = self.session(file, size)
            calls.append(lambda session=session: session.run(inputs))
        return latency.measure(*calls, rounds=rounds, counter=self.counter)

    def costs(self, path: Path, rounds: int = latency.ROUNDS) -> Costs:
        """Latency, throughput and energy."""
        single = self.turns(path, 1, rounds)
        many = None
        if self._batch > 1 and len(self.examples) >= THROUGHPUT:
            many = self.turns(path, THROUGHPUT, rounds)
        return Costs(single, many, self.energies(single, path))

    def energies(self, turns: Turns, path: Path) -> tuple[Energy, Energy]:
        """Of an example: read where there is a counter, else modelled."""
        found = []
        for pace, file in ((turns.original, self.original), (turns.result, path)):
            if self.counter is not None and pace.joules is not None:
                found.append(energy.read(self.counter.source, pace.joules))
            else:
                found.append(energy.model(pace.cpu_seconds, precision.bytes_of(file)))
        return found[0], found[1]

    @property
    def _size(self) -> tuple[int, int] | None:
        """(height, width) of images."""
        x = self.examples.inputs[0]
        return (x.shape[-2], x.shape[-1]) if x.dim() == 4 else None

    @property
    def _batch(self) -> int:
        return _BATCH if self.net.varying and 0 in self.net.varying[0] else 1


def energy_ratio(pair: Sequence[Energy]) -> float:
    """Result over original, at the middle of both ranges."""
    before, after = (sum(e.joules_per_token) for e in pair)
    return after / before
