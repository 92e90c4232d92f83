"""What the user asked for, and the recipe that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sprue.errors import BudgetError, InputError
from sprue.plan import budget, design, presets
from sprue.plan import recipe as recipes
from sprue.plan.demands import NONE, Demands
from sprue.plan.design import BEST, Matrices
from sprue.plan.forecast import Search
from sprue.plan.recipe import Recipe
from sprue.plan.survey import Survey

DEFAULT_BITS = 4.0
_MOST_BITS = 16.0
_SEEDS = 2**32
_MEASURED = (BEST, "slim")  # presets that weigh rows by the model's Fisher information


@dataclass(frozen=True)
class Goal:
    """A budget, or a recipe in its place.

    Attributes:
        preset: by which method; "best": what the solver finds best.
        bits: bits per weight over the linears, where neither size nor recipe is given.
        size: of all tensors, as the user wrote it.
        recipe: how each matrix is to be stored.
        seed: of everything that is random.
        demands: zeros and FLOPs that are asked for beside.
        keep: share of the quality that is to be kept; None: not stated.
    """

    preset: str
    bits: float
    size: str | None
    recipe: Recipe | None
    seed: int
    demands: Demands = NONE
    keep: float | None = None

    @classmethod
    def stated(
        cls,
        preset: str | None,
        bits: float | None,
        size: str | None,
        recipe: str | Path | None,
        seed: int | None,
        demands: Demands = NONE,
    ) -> Goal:
        """The goal that these arguments of `compress` state; a recipe is read.

        Raises:
            InputError: arguments that contradict each other, an unknown preset, a bad recipe.
            BudgetError: bits or a size out of range.
        """
        _check_one({"bits": bits, "size": size, "recipe": recipe}, preset)
        if preset is not None:
            presets.known(preset)
            presets.check_zeros(preset, demands.uniform())
        if preset in presets.UNCODED and (bits is not None or size is not None):
            raise InputError(
                f"what {preset} keeps stays at 16 bits, so that its size follows from the zeros: "
                "leave --bits and --size out, or take the preset slim"
            )
        if recipe is not None and demands:
            raise InputError("a recipe already says which zeros: leave out what else you ask for")
        if bits is not None and not 0 < bits <= _MOST_BITS:
            raise BudgetError(
                f"bits per weight must be above 0 and at most {_MOST_BITS:g}, received {bits:g}"
            )
        given = None if recipe is None else recipes.read(Path(recipe))
        if given is not None and seed is not None:
            given = replace(given, seed=seed)
        drawn = given.seed if given is not None else seed or 0
        if not 0 <= drawn < _SEEDS:
            raise InputError(f"expected a seed of 0 to {_SEEDS - 1}, received {drawn}")
        return cls(preset or BEST, bits or DEFAULT_BITS, size, given, drawn, demands)

    @property
    def measures(self) -> bool:
        """Whether the model is surveyed before it is packed."""
        return self.preset in _MEASURED if self.recipe is None else self.recipe.importance

    @property
    def refines(self) -> bool:
        """Whether predictions are put right by what is measured in the compressed context.

        Zeros do more than predictions for small errors say, and a share to keep takes predictions
        that are right by themselves. Those for bits alone are right within a sixth of one another:
        the shares that follow would hardly change.
        """
        asked = bool(self.demands) or self.keep is not None
        return self.recipe is None and self.preset == BEST and asked

    @property
    def trellis(self) -> bool:
        """Whether matrices are coded on the trellis, which takes longest."""
        if self.recipe is None:
            return self.preset in (BEST, "caldera", "slim")
        return any(choice.grid == "trellis" for choice in self.recipe.tensors.values())

    def searches(self, m: Matrices) -> Search | None:
        """Where masks and what stays are found together; None: nowhere."""
        if self.recipe is not None:
            some = any(c.pattern and c.zeros == "joint" for c in self.recipe.tensors.values())
            return Search() if some else None
        if not self.demands or self.preset not in _MEASURED:
            return None
        first = next(iter(m.linears.values()))
        return Search(len(self.demands.menu(first)) if self.preset == BEST else 0)

    def limit(self, original: int) -> int | None:
        """Bytes that all tensors may take; None: not stated.

        Raises:
            InputError: a size that is not understood.
            BudgetError: nothing, or more than the original's bytes.
        """
        return None if self.size is None else budget.parse_size(self.size, original)

    def plan(self, m: Matrices, limit: int | None, survey: Survey | None) -> Recipe:
        """The recipe.

        Args:
            m: the matrices of the model.
            limit: bytes of all tensors, from `limit`.
            survey: what was measured, with the preset "best".

        Raises:
            InputError: a recipe that does not fit the matrices.
            BudgetError: a budget that cannot be met.
        """
        if self.recipe is not None:
            recipes.check(self.recipe, {**m.outer, **m.linears})
            return self.recipe
        if self.preset in presets.UNCODED:
            return design.with_zeros_alone(m, self.seed, self.preset, self.demands)
        found = survey if self.preset in _MEASURED else None
        rest = self.seed, found, self.preset, self.demands
        if limit is not None:
            return design.for_size(m, limit, *rest)
        return design.for_bits(m, self.bits, *rest)

    def check(self, m: Matrices, limit: int | None) -> None:
        """Refuse, before any work, what is known to be impossible without a survey.

        Raises:
            InputError, BudgetError: as for `plan`.
        """
        if self.recipe is not None or self.preset != BEST:
            self.plan(m, limit, None)
        else:
            design.check(m, self.bits if limit is None else None, limit)
            self.demands.limits(m.linears, m.heads)


def _check_one(budgets: Mapping[str, object], preset: str | None) -> None:
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"give one of bits, size and recipe, not {' and '.join(given)}")
    if budgets["recipe"] is not None and preset is not None:
        raise InputError("a recipe already says how each matrix is stored: leave out the preset")
