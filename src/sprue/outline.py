"""The verb `plan`: what compressing a model would take and give, without doing it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from sprue.compress import DEFAULT_WINDOWS, bar
from sprue.errors import InputError
from sprue.plan import design
from sprue.plan.demands import Demands
from sprue.plan.forecast import Forecast
from sprue.plan.goal import Goal
from sprue.plan.job import Job
from sprue.plan.recipe import Recipe
from sprue.plan.survey import Survey
from sprue.plan.taken import Taken, taken
from sprue.weights.choice import Choice


@dataclass(frozen=True)
class PlanReport:
    """A pick and what is predicted of it.

    Attributes:
        model: its name.
        recipe: how each matrix would be stored.
        forecast: memory, disk and time.
        figures: bytes, bits, zeros, FLOPs and predicted damage; JSON-able.
        saved: where the recipe was written, or None.
    """

    model: str
    recipe: Recipe
    forecast: Forecast
    figures: Mapping[str, Any]
    saved: Path | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": self.model,
            **self.figures,
            "forecast": self.forecast.as_dict(),
            "recipe": self.recipe.as_dict(),
        }

    def table(self) -> str:
        """For a terminal: the totals, and a row for every kind of matrix."""
        told = self.figures
        lines = [
            f"{told['bytes']:,} bytes of tensors, {100 * told['share']:.1f}% of the original's; "
            f"{told['bits']:.3f} bits a weight of the linears",
            f"zeros in the linears: {100 * told['sparsity']:.1f}%; FLOPs of a token: "
            f"{100 * told['flops']:.1f}%",
        ]
        if told["damage"] is not None:
            lines.append(
                f"predicted, not measured: {told['damage']:.4f} nats a token, "
                f"{100 * told['kept']:.2f}% kept"
            )
        lines += [f"to carry it out: {self.forecast.line()}", "", *_rows(told["kinds"])]
        if self.saved is not None:
            lines += ["", f"next: sprue compress {self.model} --out DIR --recipe {self.saved}"]
        return "\n".join(lines)


def plan(
    model: str | Path,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    bits: float | None = None,
    size: str | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    flops: float | None = None,
    keep: float | None = None,
    calibrate: Sequence[str | Path] = (),
    seed: int | None = None,
    device: str = "cpu",
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    progress: bool = True,
) -> PlanReport:
    """What `compress` would do under these budgets; nothing of the model is written.

    Args:
        model, preset, bits, size, sparsity, pattern, flops, calibrate, seed, device, windows,
            context, progress: as for `compress`.
        out: YAML file for the recipe; must not exist.
        keep: the smallest size that is predicted to keep this share of the quality; stands in the
            place of bits and size.

    Raises:
        InputError, BudgetError, ResourceError: as for `compress`.
    """
    _check_arguments(out, keep, preset, bits, size)
    goal = Goal.stated(preset, bits, size, None, seed, Demands(sparsity, pattern, flops))
    job = Job.opened(model, replace(goal, keep=keep), device)
    texts = job.texts(calibrate, windows, context)
    ahead = job.forecast(texts.ids)
    with bar(job.measuring, progress, "plan") as advance:
        found = job.survey(texts.ids, advance)
    limit = job.limit if keep is None or found is None else _least(job, found, keep)
    recipe = job.goal.plan(job.parts, limit, found)
    if out is not None:
        Path(out).write_text(recipe.to_yaml(), encoding="utf-8")
    return PlanReport(
        str(model), recipe, ahead, _figures(job, recipe, found), None if out is None else Path(out)
    )


def _check_arguments(
    out: str | Path | None,
    keep: float | None,
    preset: str | None,
    bits: float | None,
    size: str | None,
) -> None:
    if keep is not None and (preset, bits, size) != (None, None, None):
        raise InputError("a share to keep decides the size: leave --bits, --size and --preset out")
    if keep is not None and not 0 < keep < 1:
        raise InputError(f"expected a share to keep above 0 and below 1, got {keep:g}")
    if out is not None and (Path(out).exists() or not Path(out).absolute().parent.is_dir()):
        raise InputError(f"cannot write {out}: expected a new file name in a folder that exists")


def _least(job: Job, found: Survey, keep: float) -> int:
    return job.curve(found).size(-math.log(keep))


def _figures(job: Job, recipe: Recipe, found: Survey | None) -> dict[str, Any]:
    parts = job.parts
    shapes = {**parts.outer, **parts.linears}
    rows = {
        name: taken(choice, shapes[name], _stored(job, name))
        for name, choice in recipe.tensors.items()
    }
    whole = {
        name: Taken(_stored(job, name) * prod(shape), prod(shape), 2 * prod(shape))
        for name, shape in shapes.items()
    }
    linears = [rows.get(name, whole[name]) for name in parts.linears]
    nbytes = parts.rest + math.ceil(sum(row.bits for row in ({**whole, **rows}).values()) / 8)
    damage = design.damage(found, recipe) if found and recipe.preset == design.BEST else None
    return {
        "bytes": nbytes,
        "share": nbytes / job.source.nbytes,
        "bits": sum(row.bits for row in linears) / parts.weights,
        "sparsity": 1 - sum(row.nonzeros for row in linears) / parts.weights,
        "flops": (sum(row.flops for row in linears) + 2 * prod(parts.head)) / parts.flops,
        "damage": damage,
        "kept": None if damage is None else math.exp(-damage),
        "sensitivity": dict(found.sensitivity) if found else {},
        "kinds": _kinds(job, recipe, rows),
    }


def _stored(job: Job, name: str) -> int:
    """Bits of a weight in the original."""
    return 8 * job.source.dtype(f"{name}.weight").itemsize


def _kinds(job: Job, recipe: Recipe, rows: Mapping[str, Taken]) -> list[dict[str, Any]]:
    """A row for every kind of matrix: the same local name in every block."""
    blocks = f"{job.source.family.blocks}."
    shapes = {**job.parts.outer, **job.parts.linears}
    kinds = defaultdict[str, list[str]](list)
    for name in recipe.tensors:
        inside = name.removeprefix(blocks)
        kinds[name if inside == name else inside.partition(".")[2]].append(name)
    return [
        {
            "kind": kind,
            **_kind(
                [recipe.tensors[n] for n in names],
                [rows[n] for n in names],
                [prod(shapes[n]) for n in names],
            ),
        }
        for kind, names in kinds.items()
    ]


def _kind(
    choices: Sequence[Choice], rows: Sequence[Taken], weights: Sequence[int]
) -> dict[str, Any]:
    each = [row.bits / count for row, count in zip(rows, weights, strict=True)]
    ranks = [choice.rank for choice in choices if choice.rank is not None]
    return {
        "matrices": len(choices),
        "bits": sum(row.bits for row in rows) / sum(weights),
        "bits_range": [min(each), max(each)],
        "sparsity": 1 - sum(row.nonzeros for row in rows) / sum(weights),
        "ranks": [min(ranks), max(ranks)] if len(ranks) == len(choices) else None,
        "patterns": sorted({choice.pattern for choice in choices if choice.pattern}),
    }


def _rows(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    width = max(len(kind["kind"]) for kind in kinds)
    lines = [f"{'matrix':{width}}  count   bits   from      to   zeros  rank"]
    for k in kinds:
        low, high = k["bits_range"]
        ranks = "found when packed" if k["ranks"] is None else "{} to {}".format(*k["ranks"])
        zeros = f"{100 * k['sparsity']:5.1f}%"
        lines.append(
            f"{k['kind']:{width}}  {k['matrices']:5}  {k['bits']:5.2f}  {low:5.2f}   {high:5.2f}  "
            f"{zeros}  {ranks}"
        )
    return lines
