"""What is asked of a network, and what is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sprue.data.examples import Examples
from sprue.data.feed import read_examples
from sprue.degating.picks import Limits
from sprue.models import nets
from sprue.models.open_net import open_net
from sprue.runtime.engines import ENGINES

DENSE = "dense"
TARGETS = (*ENGINES, DENSE)


@dataclass(frozen=True)
class Asked:
    """What a network is to become.

    Attributes:
        target: one of TARGETS.
        keep: share of the quality.
        limits: of what it costs.
        size: of all files, as `plan.budget` reads it: "30%", "900kB"; None: what `limits` say.
        flops: the one share of the FLOPs to try; None: several.
        minutes: of training, at most.
        labels: whether training also goes by what the examples say is true.
        portable: whether processors without VNNI must compute the same; None: this one decides.
        threads: of the engine.
        seed: of samples, splits and training.
    """

    target: str
    keep: float
    limits: Limits = field(default_factory=Limits)
    size: str | None = None
    flops: float | None = None
    minutes: float = 0.0
    labels: bool = True
    portable: bool | None = None
    threads: int = 1
    seed: int = 0

    @property
    def engine(self) -> str:
        """That measures: a dense network is measured in ONNX Runtime."""
        return self.target if self.target in ENGINES else ENGINES[0]


@dataclass(frozen=True)
class Given:
    """A model and data as the user named them.

    Attributes:
        model, weights, task, decoder, shape: as `models.open_net` takes them.
        calibrate, data: files or folders.
        preprocess, tokenizer, length: as `data.feed` takes them.
        examples: to calibrate on; None: as many as its size allows.
    """

    model: str
    weights: Path | None = None
    task: str | None = None
    decoder: str | None = None
    shape: tuple[int, ...] | None = None
    calibrate: Path | str | None = None
    data: Path | str | None = None
    preprocess: Path | None = None
    tokenizer: Path | None = None
    length: int | None = None
    examples: int | None = None

    def open(self) -> nets.Net:
        """The network."""
        return open_net(
            self.model,
            weights=self.weights,
            task=self.task,
            decoder=self.decoder,
            shape=self.shape,
        )

    def read(self, net: nets.Net, path: Path | str, count: int | None, seed: int) -> Examples:
        """Examples of a file."""
        return read_examples(
            net,
            path,
            preprocess=self.preprocess,
            count=count,
            seed=seed,
            length=self.length,
            tokenizer=self.tokenizer,
        )
