"""What is done to each matrix: frozen, readable, replayable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sprue.errors import InputError
from sprue.weights.choice import Choice

VERSION = 1


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the recipe {path} cannot be read as YAML: {error}") from error
    try:
        return from_dict(content)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
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
    known = {"version", "preset", "seed", "shift", "importance", "default", "tensors"}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    default = content.get("default") or {}
    tensors = {
        name: Choice.from_dict({**default, **(fields or {})})
        for name, fields in (content.get("tensors") or {}).items()
    }
    if not tensors:
        raise ValueError("'tensors' names no module")
    return Recipe(
        tensors,
        str(content.get("preset", "recipe")),
        int(content.get("seed", 0)),
        bool(content.get("shift", True)),
        bool(content.get("importance", True)),
    )


def _most_common(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fields = next(iter(rows.values()), {})
    return {k: Counter(row[k] for row in rows.values()).most_common(1)[0][0] for k in fields}
