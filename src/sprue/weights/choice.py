"""How one matrix is to be stored: the arguments of the one solver."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sprue.weights import patterns

GRIDS = ("trellis", "int", "none", "raw")
ROTATIONS = ("none", "in", "both")
ZEROS = ("joint", "sweep")


@dataclass(frozen=True)
class Choice:
    """One point of the solver: W^ = Q + L R.

    Attributes:
        grid: what Q is: "trellis" (any rate), "int" (2 to 8 bits with groups), "none" (no Q),
            "raw" (stored as it is).
        bits: trellis: bits a weight of everything stored, the low-rank part included.
            int: bits of a code.
        group_size: int: weights that share a scale; None: a whole row.
        symmetric: int: no zero points.
        feedback: move each column's error into those after it (GPTQ, LDLQ); else round to nearest.
        rotate: randomized Hadamard rotation of the inputs, of both sides or of none.
        rank: rank of L R; None: what it buys decides, 0 included.
        factor_bits: bits of the codes of L and R, 2 to 8 or 16; None: what they buy decides.
        refits: how often L is fitted again to what Q left, the best iterate kept.
        damping: added to the diagonal of H, as a share of its mean.
        state_bits: trellis: 2^state_bits states; time doubles with each, error falls by 2%.
        pattern: which weights of Q are zero together ("unstructured", "2:4", "16x1"; `patterns`);
            None: none are.
        sparsity: share of zeros; a pattern of N:M has its own.
        zeros: how they are found. "joint": the mask, what stays and the low-rank part together;
            "sweep": when the error feedback reaches them (SparseGPT). Without feedback, by
            |W| sqrt(diag H) (Wanda).
        mask_steps: joint: steps in each of its stages.
    """

    grid: Literal["trellis", "int", "none", "raw"] = "trellis"
    bits: float = 4.0
    group_size: int | None = 64
    symmetric: bool = True
    feedback: bool = True
    rotate: Literal["none", "in", "both"] = "none"
    rank: int | None = 0
    factor_bits: int | None = 8
    refits: int = 1
    damping: float = 0.01
    state_bits: int = 12
    pattern: str | None = None
    sparsity: float = 0.0
    zeros: Literal["joint", "sweep"] = "joint"
    mask_steps: int = 6

    def __post_init__(self) -> None:
        _one_of("grid", self.grid, GRIDS)
        _one_of("rotate", self.rotate, ROTATIONS)
        if self.grid == "int" and self.bits not in range(2, 9):
            raise ValueError(f"an integer grid has 2 to 8 bits, received {self.bits}")
        if self.grid == "trellis" and not 0 < self.bits <= 16:
            raise ValueError(f"a trellis takes above 0 and at most 16 bits, received {self.bits}")
        if self.grid == "trellis" and not 9 <= self.state_bits <= 16:
            raise ValueError(f"state_bits must lie in 9 .. 16, received {self.state_bits}")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size must be positive or None, received {self.group_size}")
        if self.rank is not None and self.rank < 0:
            raise ValueError(f"rank must not be negative, received {self.rank}")
        if self.factor_bits is not None and self.factor_bits not in (*range(2, 9), 16):
            raise ValueError(f"factor_bits must be 2 to 8, or 16, received {self.factor_bits}")
        if self.refits < 0:
            raise ValueError(f"refits must not be negative, received {self.refits}")
        if self.damping <= 0:
            raise ValueError(f"damping must be positive, received {self.damping}")
        if self.grid != "trellis" and self.rank is None:
            raise ValueError(f"the grid {self.grid!r} takes a stated rank, received None")
        self._check_zeros()

    def _check_zeros(self) -> None:
        _one_of("zeros", self.zeros, ZEROS)
        if self.mask_steps < 1:
            raise ValueError(f"mask_steps must be positive, received {self.mask_steps}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in 0 .. 1, below 1, received {self.sparsity}")
        if self.pattern is None:
            if self.sparsity:
                raise ValueError(f"a sparsity of {self.sparsity} takes a pattern, received None")
            return
        own = patterns.parse(self.pattern).sparsity
        if own is not None and self.sparsity not in (0, own):
            raise ValueError(
                f"the pattern {self.pattern} has {own:.4g} zeros, a sparsity of {self.sparsity} "
                "was given: leave it out"
            )
        object.__setattr__(self, "sparsity", self.sparsity if own is None else own)
        if self.grid == "none":
            raise ValueError("the grid 'none' holds no weights that could be zero")
        if self.rotate != "none":
            raise ValueError("a rotation would mix zeros with other weights: leave one of them out")
        if self.zeros == "sweep" and self.grid == "trellis":
            raise ValueError("a trellis takes zeros that are found jointly, received 'sweep'")

    def as_dict(self) -> dict[str, Any]:
        """Every field; JSON-able."""
        return asdict(self)

    def with_bits(self, bits: float) -> Choice:
        """The same at another rate."""
        return replace(self, bits=bits)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Choice:
        """The choice with these fields, the others at their defaults.

        Raises:
            ValueError: a field that does not exist, or a value that does not fit.
        """
        known = cls.__dataclass_fields__
        for name in fields:
            if name not in known:
                raise ValueError(f"unknown field {name!r}; known are {', '.join(known)}")
        return cls(**fields)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, received {value!r}")
