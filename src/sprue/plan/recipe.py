"""What is done to each matrix: frozen, readable, replayable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from sprue.errors import InputError
from sprue.weights.choice import Choice

VERSION = 1
_NUMBER, _WHOLE, _OR_NONE = (int, float), (int,), (int, type(None))
_KINDS: Mapping[str, tuple[type, ...]] = {
    "grid": (str,),
    "bits": _NUMBER,
    "group_size": _OR_NONE,
    "symmetric": (bool,),
    "feedback": (bool,),
    "rotate": (str,),
    "rank": _OR_NONE,
    "factor_bits": _OR_NONE,
    "refits": _WHOLE,
    "damping": _NUMBER,
    "state_bits": _WHOLE,
    "pattern": (str, type(None)),
    "sparsity": _NUMBER,
    "zeros": (str,),
    "mask_steps": _WHOLE,
    "version": _WHOLE,
    "preset": (str,),
    "seed": _WHOLE,
    "shift": (bool,),
    "importance": (bool,),
    "default": (dict, type(None)),
    "tensors": (dict,),
}
_FIELDS = ("version", "preset", "seed", "shift", "importance", "default", "tensors")


@dataclass(frozen=True)
class Recipe:
    """A choice for every matrix that is stored in another way.

    Attributes:
        tensors: module name -> how its matrix is stored. What is not named stays as it is.
        preset: the name under which it was made ("best", "rtn", ...).
        seed: of rotations, sketches and samples.
        shift: aim each matrix at the original model's outputs, given what the compressed blocks
            before it feed it; else at the outputs that its own weights give on that input.
        importance: weigh output rows by the model's Fisher information.
    """

    tensors: Mapping[str, Choice]
    preset: str = "best"
    seed: int = 0
    shift: bool = True
    importance: bool = True

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; choices stand as differences from the most common one."""
        rows = {name: choice.as_dict() for name, choice in self.tensors.items()}
        default = _most_common(rows)
        return {
            "version": VERSION,
            "preset": self.preset,
            "seed": self.seed,
            "shift": self.shift,
            "importance": self.importance,
            "default": default,
            "tensors": {
                name: {k: v for k, v in row.items() if v != default.get(k)}
                for name, row in rows.items()
            },
        }

    def to_yaml(self) -> str:
        """The same as YAML."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, width=100)


def read(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        InputError: missing, not YAML, of another version, or with fields that do not fit.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}: give a YAML file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the recipe {path} cannot be read as YAML: {reason}") from error
    try:
        return from_dict(content)
    except ValueError as error:
        raise InputError(
            f"the recipe {path} does not fit: {error}; 'recipe.yaml' beside a compressed model "
            "shows the form"
        ) from error


def from_dict(content: Any) -> Recipe:
    """The recipe that `as_dict` gave.

    Raises:
        ValueError: another version, or fields that do not fit.
    """
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"expected a mapping with 'version: {VERSION}'")
    _check_kinds("the recipe", content)
    unknown = [key for key in content if key not in _FIELDS]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    rows = content.get("tensors") or {}
    if not rows:
        raise ValueError("'tensors' names no module")
    default = content.get("default") or {}
    given = {k: content[k] for k in ("preset", "seed", "shift", "importance") if k in content}
    return Recipe({name: _choice(name, default, row) for name, row in rows.items()}, **given)


def check(recipe: Recipe, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a recipe that does not fit matrices of these names and shapes (out, in).

    Raises:
        InputError: an unknown name, or a group or rank larger than the matrix.
    """
    for name, choice in recipe.tensors.items():
        if name not in shapes:
            raise InputError(
                f"the recipe names {name!r}, which this model does not have (a head that is tied "
                f"to the embedding has no matrix); it has {', '.join(list(shapes)[:3])} and so on"
            )
        out, width = shapes[name]
        if choice.grid == "int" and (choice.group_size or 1) > width:
            raise InputError(
                f"the recipe gives {name!r} groups of {choice.group_size} weights, its rows have "
                f"{width}: take at most that, or null for a whole row"
            )
        if (choice.rank or 0) > min(out, width):
            raise InputError(
                f"the recipe gives {name!r} a rank of {choice.rank}; a matrix of {out} x {width} "
                f"has at most {min(out, width)}"
            )


def _choice(name: object, default: Mapping[str, Any], row: Any) -> Choice:
    if not isinstance(name, str) or not isinstance(row, dict | None):
        raise ValueError(f"'tensors' maps module names to fields, received {name!r}: {row!r}")
    fields = {**default, **(row or {})}
    try:
        _check_kinds(name, fields)
        choice = Choice.from_dict(fields)
        _check_finite(fields)
        return choice
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_kinds(where: str, fields: Mapping[Any, Any]) -> None:
    """Refuse values of another kind than their field's; a field that is not known comes later."""
    for key, value in fields.items():
        kinds = _KINDS.get(key, (object,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds[:1]):
            words = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise ValueError(f"{where}: {key} should be {words}, received {value!r}")


def _check_finite(fields: Mapping[str, Any]) -> None:
    """Refuse what no comparison of a choice has met; JSON would not hold it either."""
    for key, value in fields.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{key} should be a finite number, received {value!r}")


def _most_common(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fields = next(iter(rows.values()), {})
    return {k: Counter(row[k] for row in rows.values()).most_common(1)[0][0] for k in fields}
