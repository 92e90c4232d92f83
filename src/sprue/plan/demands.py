"""What a result must be beside small: how many zeros, in which pattern, how few FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from sprue.errors import BudgetError, InputError
from sprue.plan.presets import Shape, Shapes, Zeros
from sprue.weights import patterns
from sprue.weights.choice import Choice
from sprue.weights.patterns import UNSTRUCTURED

DAMPING = 0.001
# Shares of zeros that are tried on every matrix where it may have any; the program mixes them.
LEVELS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_REPAIR = 8  # the smaller side over this is the rank that is tried beside zeros, and none
_FACTOR_BITS = 4


@dataclass(frozen=True)
class Demands:
    """Budgets beside size; None: none was stated.

    Attributes:
        sparsity: share of zeros among the weights of the linears, at least.
        pattern: in which they stand; unstructured where only a number is asked for.
        flops: floating-point operations of all linears and the head for a token, as a share of
            the original's, at most.
    """

    sparsity: float | None = None
    pattern: str | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise BudgetError(
                f"a sparsity must lie between 0% and 100%, received {100 * self.sparsity:g}%"
            )
        if self.flops is not None and not 0 < self.flops <= 1:
            raise BudgetError(
                f"FLOPs must lie above 0% and at most at 100% of the original's, received "
                f"{100 * self.flops:g}%"
            )
        try:
            own = patterns.parse(self.pattern or UNSTRUCTURED).sparsity
        except ValueError as error:
            raise InputError(str(error)) from error
        asked = self.sparsity or 0.0
        if own is not None and asked > own + 1e-9:
            raise BudgetError(
                f"the pattern {self.pattern} makes {100 * own:g}% zeros, {100 * asked:g}% were "
                "asked for: give less, or a pattern that keeps fewer"
            )
        if self.pattern is not None and own is None and not (self.sparsity or self.flops):
            raise InputError(
                f"the pattern {self.pattern} does not say how many zeros: add --sparsity 50%"
            )

    def __bool__(self) -> bool:
        return (self.sparsity, self.pattern, self.flops) != (None, None, None)

    @property
    def form(self) -> str:
        """The pattern of zeros, where there are any."""
        return self.pattern or UNSTRUCTURED

    def uniform(self) -> Zeros | None:
        """The same zeros for every matrix, as presets make them; None: none were asked for.

        Raises:
            InputError: FLOPs were stated, which only the solver shares out.
        """
        if self.flops is not None:
            raise InputError(
                "a budget of FLOPs is shared out by the solver: leave the preset out, or state a "
                "--sparsity"
            )
        if not self:
            return None
        own = patterns.parse(self.form).sparsity
        return Zeros(self.form, own if own is not None else self.sparsity or 0.0)

    @property
    def everywhere(self) -> bool:
        """Whether every matrix is to have the pattern's own zeros."""
        own = patterns.parse(self.form).sparsity
        asked = self.sparsity is None or (own is not None and self.sparsity > own - 1e-9)
        return own is not None and asked and self.flops is None

    def menu(self, shape: Shape) -> list[Choice]:
        """The zeros that a matrix may have, with the ranks beside them; rates are not stated."""
        if not self:
            return []
        own = patterns.parse(self.form).sparsity
        shares = LEVELS if own is None else (own,)
        return [
            Choice(
                rank=rank,
                factor_bits=_FACTOR_BITS,
                damping=DAMPING,
                pattern=self.form,
                sparsity=share,
            )
            for share in shares
            for rank in (0, min(shape) // _REPAIR)
        ]

    def limits(self, linears: Shapes, heads: Mapping[str, Shape]) -> dict[str, float]:
        """What `program` calls the budgets, and how much of each the linears may take.

        Args:
            linears: module name -> (out, in).
            heads: the output layer, whose FLOPs are those of the original.

        Raises:
            BudgetError: the head alone takes more FLOPs.
        """
        weights = sum(prod(shape) for shape in linears.values())
        found: dict[str, float] = {}
        if self.sparsity is not None:
            found["nonzeros"] = (1 - self.sparsity) * weights
        if self.flops is not None:
            head = 2 * sum(prod(shape) for shape in heads.values())
            found["FLOPs"] = self.flops * (2 * weights + head) - head
            if found["FLOPs"] <= 0:
                raise BudgetError(
                    f"the output layer alone takes {head / (2 * weights + head):.1%} of the FLOPs, "
                    f"{self.flops:.1%} were asked for: give more"
                )
        return found


NONE = Demands()
