"""What an audit finds out about a network, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INT8, INT4, SPARSE, RANK = "int8", "int4", "2:4 zeros", "half rank"
QUARTER, HALF, DEAD = "a quarter of the inputs", "half of the inputs", "dead connections"
SPARE = "what is spare"
TECHNIQUES = (INT8, INT4, SPARSE, RANK, QUARTER, HALF, DEAD, SPARE)

INPUTS, DIRECTIONS, UNREAD = "inputs", "rank", "unread outputs"  # how a layer can do with less
DECADES = (-7.0, 1.0)  # of contributions
BINS = 32


@dataclass(frozen=True)
class Option:
    """A technique applied to one layer alone.

    Attributes:
        layer: its name.
        technique: one of TECHNIQUES.
        nbytes: what it saves of the layer's weights in float32.
        macs: multiplications that it saves for an example.
        nats: the damage that is predicted, for an example.
        spread: its standard error.
    """

    layer: str
    technique: str
    nbytes: float
    macs: float
    nats: float
    spread: float

    @property
    def worth(self) -> float:
        """Bytes saved for a nat."""
        return self.nbytes / max(self.nats, 1e-12)


@dataclass(frozen=True)
class LayerFindings:
    """One layer.

    Attributes:
        name: of its module; others with the same weight are not listed.
        kind: of its module.
        out, width: of its matrix; with groups, of the rows of all and the columns of one.
        parameters: of its weight.
        macs: multiplications for an example.
        positions: at which the second moments were taken.
        inputs: channels that it reads.
        spare_inputs: of these, how many can leave within the error, the rest being refitted; None
            where it was not looked at (groups, embeddings, very wide layers).
        rank: the smallest one within the error; None as before.
        dead_connections: weights that contribute next to nothing; None for embeddings.
        dead_inputs: channels whose contributions do, to all outputs; None for embeddings.
        dead_outputs: that nothing depends on, or that are always zero.
        repeated_outputs: outputs, before their activation, that a linear map of the others
            explains; None where there are too few positions for so many, or the layer is too wide.
        repeated_inputs: the same of its inputs, so after the activation before it.
        contributions: counts of weights by the decimal logarithm of their contribution, a share of
            the output's root mean square: BINS equal parts of DECADES.
        options: what techniques would save, and cost.
    """

    name: str
    kind: str
    out: int
    width: int
    parameters: int
    macs: float
    positions: int
    inputs: int
    spare_inputs: int | None
    rank: int | None
    dead_connections: int | None
    dead_inputs: int | None
    dead_outputs: int
    repeated_outputs: int | None
    repeated_inputs: int | None
    contributions: tuple[int, ...]
    options: tuple[Option, ...]

    @property
    def spare_by_inputs(self) -> int:
        """Parameters that leave with the spare inputs."""
        return round(self.parameters * (self.spare_inputs or 0) / self.inputs)

    @property
    def spare_by_rank(self) -> int:
        """Parameters that two factors of the rank do without."""
        if self.rank is None:
            return 0
        return max(0, self.parameters - self.rank * (self.out + self.width))

    @property
    def spare_by_outputs(self) -> int:
        """Parameters that leave with dead outputs."""
        return round(self.parameters * self.dead_outputs / self.out)

    @property
    def spare(self) -> int:
        """Parameters that can leave, by whichever of the three saves most."""
        return max(self.spare_by_inputs, self.spare_by_rank, self.spare_by_outputs)

    @property
    def spare_kind(self) -> str | None:
        """INPUTS, DIRECTIONS or UNREAD; None where nothing can leave."""
        if not self.spare:
            return None
        if self.spare_by_outputs == self.spare:
            return UNREAD
        return INPUTS if self.spare_by_inputs >= self.spare_by_rank else DIRECTIONS


@dataclass(frozen=True)
class Findings:
    """A network.

    Attributes:
        layers: in the order in which they run.
        idle: layers that never run, and the parameters of each.
        parameters: of the network, shared ones once.
        error: what a layer's output may lose where something is said to be spare, as
            `redundancy` counts it.
        share: of an output's root mean square, below which a contribution is dead.
        r2: share of a feature's variance that others explain where it is said to be repeated.
        examples: fitted to, and held out to measure with; (0, 0) where only weights were looked at.
        draws: of answers for each example held out.
        seed: of everything random.
    """

    layers: tuple[LayerFindings, ...]
    idle: tuple[tuple[str, int], ...]
    parameters: int
    error: float
    share: float
    r2: float
    examples: tuple[int, int]
    draws: int
    seed: int

    @property
    def measured(self) -> bool:
        """Whether it was run on examples."""
        return self.examples != (0, 0)

    @property
    def seen(self) -> int:
        """Parameters of the layers that were looked at."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> float:
        """Multiplications of all layers for an example."""
        return sum(layer.macs for layer in self.layers)

    @property
    def spare(self) -> int:
        """Parameters that can leave within the error, layer by layer, and those of idle layers."""
        return sum(layer.spare for layer in self.layers) + sum(count for _, count in self.idle)

    @property
    def options(self) -> list[Option]:
        """All that would save something, the most bytes for a predicted nat first."""
        found = [o for layer in self.layers for o in layer.options if o.nbytes > 0]
        return sorted(found, key=lambda o: (-o.worth, o.layer, o.technique))

    def everywhere(self, technique: str) -> Option:
        """A technique in all layers that it is offered for, the damages added up."""
        found = [o for layer in self.layers for o in layer.options if o.technique == technique]
        spread = sum(o.spread**2 for o in found) ** 0.5
        return Option(
            "all layers",
            technique,
            sum(o.nbytes for o in found),
            sum(o.macs for o in found),
            sum(o.nats for o in found),
            spread,
        )

    def offered(self) -> Sequence[str]:
        """Techniques that were tried in some layer."""
        tried = {o.technique for layer in self.layers for o in layer.options}
        return [technique for technique in TECHNIQUES if technique in tried]
