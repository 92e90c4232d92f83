"""`compress`: a language model in, a smaller one out."""

from __future__ import annotations

import platform
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from sprue import __version__, data, demo, models, runtime
from sprue.errors import BudgetError, InputError
from sprue.models import Source, Stream, Writer
from sprue.plan import budget, design
from sprue.plan.design import Matrices
from sprue.plan.forecast import RESIDENT, Forecast, forecast
from sprue.plan.presets import PRESETS
from sprue.plan.recipe import Recipe, read
from sprue.plan.survey import Survey, survey
from sprue.plan.walk import Ledger, Record, Walk
from sprue.weights import kernels

if TYPE_CHECKING:
    _Bar = tqdm[None]

DEFAULT_BITS = 4.0
DEFAULT_WINDOWS = 128
_LONGEST = 512  # tokens in a calibration window, where the model allows more
_SURVEYED = 32  # windows that the survey runs


@dataclass(frozen=True)
class CompressReport:
    """What came of a compression.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
        forecast: what was said before.
    """

    out: Path
    artifact: Mapping[str, Any]
    forecast: Forecast

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "out": str(self.out),
            **{k: self.artifact[k] for k in ("bytes", "bits_per_weight", "original", "seed")},
            "tensors": self.artifact["tensors"],
            "fallbacks": self.artifact["fallbacks"],
            "forecast": self.forecast.as_dict(),
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        before, after = self.artifact["original"]["bytes"], self.artifact["bytes"]
        bits = self.artifact["bits_per_weight"]
        return "\n".join(
            [
                f"{self.out}: {after:,} bytes of tensors, {100 * after / before:.1f}% of "
                f"{before:,}",
                f"bits per weight: {bits['linears']:.3f} of the linears, {bits['file']:.3f} of "
                "the file",
                f"next: sprue verify {self.artifact['original']['name']} {self.out} --data FILE",
            ]
        )


def compress(
    model: str,
    out: Path,
    *,
    preset: str | None = None,
    bits: float | None = None,
    size: str | None = None,
    recipe: Path | None = None,
    calibrate: Sequence[Path] = (),
    seed: int = 0,
    device: str = "cpu",
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    progress: bool = True,
) -> CompressReport:
    """Write a smaller `model` into the new folder `out`.

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        out: folder to make.
        preset: "rtn", "gptq", "svd" or "caldera"; None: what the solver finds best.
        bits: bits per weight over the linears of the blocks, everything stored counted.
        size: of all tensors: "30%" of the original's, or bytes ("1964544", "2MB").
        recipe: YAML that says how each matrix is stored; takes the place of a budget.
        calibrate: texts that the model should stay good at; none: a small embedded text.
        seed: of everything that is random.
        device: where blocks run ("cpu", "cuda").
        windows: calibration windows to sample.
        context: tokens in a window; None: what the model allows, at most 512.
        progress: whether to show progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used.
        BudgetError: a budget that cannot be met.
        ResourceError: less memory or disk than the work takes.
    """
    _one_budget(bits, size, recipe, preset)
    source = models.open(model)
    parts = design.matrices(source)
    limit = None if size is None else budget.parse_size(size, source.nbytes)
    fixed = None if recipe is None else _checked(read(recipe), parts)
    measure = preset is None if fixed is None else fixed.importance
    with Writer(Path(out)) as writer:
        texts = list(calibrate) or _embedded()
        ids = _windows(source, texts, windows, context, seed)
        ahead = forecast(source, parts, ids.shape, limit or source.nbytes, measure, preset is None)
        _say(ahead.line(), progress)
        ahead.check(writer.out.parent)
        with _bar(source, measure, progress) as bar:
            found = _survey(source, ids, seed, device, bar) if measure else None
            plan = fixed or _design(parts, bits, limit, seed, found, preset)
            walk = Walk(
                source,
                ids,
                plan,
                writer,
                importance=found.importance if found else {},
                moments=found.moments if found else {},
                ledger=Ledger(exact=fixed is not None),
                device=device,
                threads=torch.get_num_threads(),
                resident=RESIDENT,
                progress=bar.update,
            )
            records = walk.run()
        _within(writer.nbytes, limit)
        done = replace(plan, tensors={name: r.choice for name, r in records.items()})
        artifact = _artifact(source, done, records, writer.nbytes)
        artifact["data"] = _data(texts, ids)
        _finish(source, writer, done, artifact, records)
    return CompressReport(Path(out), artifact, ahead)


def _one_budget(
    bits: float | None, size: str | None, recipe: Path | None, preset: str | None
) -> None:
    given = [n for n, v in (("bits", bits), ("size", size), ("recipe", recipe)) if v is not None]
    if len(given) > 1:
        raise InputError(f"give one of bits, size and recipe, not {' and '.join(given)}")
    if recipe is not None and preset is not None:
        raise InputError("a recipe already says how each matrix is stored: leave out the preset")
    if preset is not None and preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    if bits is not None and not 0 < bits <= 16:
        raise BudgetError(f"bits per weight must be above 0 and at most 16, received {bits:g}")


def _checked(plan: Recipe, parts: Matrices) -> Recipe:
    known = {**parts.outer, **parts.linears}
    strange = [name for name in plan.tensors if name not in known]
    if strange:
        raise InputError(
            f"the recipe names {strange[0]!r}, which this model does not have; it has "
            f"{', '.join(list(known)[:3])} and so on"
        )
    return plan


def _embedded() -> list[Path]:
    warnings.warn(
        "calibrating on a small embedded text: text of your own (--calibrate FILE) keeps more of "
        "what you use the model for",
        stacklevel=3,
    )
    return list(demo.calibration_files())


def _windows(
    source: Source, texts: Sequence[Path], count: int, context: int | None, seed: int
) -> Tensor:
    """Calibration windows; every file gives its share."""
    limit = int(getattr(source.config, "max_position_embeddings", _LONGEST) or _LONGEST)
    if context is not None and context > limit:
        raise InputError(f"the model takes at most {limit} tokens, a context of {context} was given")
    documents = data.read(texts)
    return data.windows(
        tokenizer(source), documents, context or min(limit, _LONGEST), count, seed
    )


def tokenizer(source: Source) -> Any:
    """The model's own tokenizer.

    Raises:
        InputError: it has none, or one that cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source.path} has no tokenizer that can be read ({first}): put the files of the "
            "model's tokenizer beside its weights"
        ) from error


def _survey(source: Source, ids: Tensor, seed: int, device: str, bar: _Bar) -> Survey:
    """Survey evenly spaced windows, so that every text takes part."""
    some = ids[torch.linspace(0, len(ids) - 1, min(len(ids), _SURVEYED)).long()]
    stream = Stream(source, some, device=device, resident=RESIDENT)
    return survey(stream, seed=seed, progress=lambda _: bar.update())


def _design(
    parts: Matrices,
    bits: float | None,
    limit: int | None,
    seed: int,
    found: Survey | None,
    preset: str | None,
) -> Recipe:
    if limit is not None:
        return design.for_size(parts, limit, seed, found, preset or "best")
    return design.for_bits(parts, bits or DEFAULT_BITS, seed, found, preset or "best")


def _within(taken: int, limit: int | None) -> None:
    if limit is not None and taken > limit:
        raise BudgetError(
            f"the result takes {taken:,} bytes, {taken - limit:,} more than the budget of "
            f"{limit:,}: nothing was kept; give a little more"
        )


def _artifact(
    source: Source, plan: Recipe, records: Mapping[str, Record], nbytes: int
) -> dict[str, Any]:
    """The content of sprue.json, but for data and files."""
    outer = {source.family.embedding, source.family.head}
    linears = [r for name, r in records.items() if name not in outer]
    weights = sum(prod(source.shape(name)) for name in source.entries)
    return {
        "sprue": __version__,
        "original": {
            "name": source.name,
            "sha256": source.fingerprint(),
            "bytes": source.nbytes,
        },
        "recipe": plan.as_dict(),
        "seed": plan.seed,
        "versions": _versions(),
        "tensors": {name: _entry(r) for name, r in records.items()},
        "bytes": nbytes,
        "bits_per_weight": {
            "linears": sum(r.bits for r in linears) / max(sum(r.weights for r in linears), 1),
            "file": 8 * nbytes / weights,
        },
        "fallbacks": _fallbacks(),
        "verdict": None,
    }


def _entry(r: Record) -> dict[str, Any]:
    return {
        "bits": r.bits,
        "weights": r.weights,
        "bits_per_weight": r.bits / r.weights,
        "error": r.error,
        "grid": r.choice.grid,
    }


def _fallbacks() -> list[str]:
    if kernels.library() is None:
        return ["the C kernels were not built: numpy coded and torch decoded the trellis"]
    return []


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "safetensors", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _data(texts: Sequence[Path], ids: Tensor) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint(texts),
        "files": [path.name for path in texts],
        "windows": ids.shape[0],
        "context": ids.shape[1],
    }


def _finish(
    source: Source,
    writer: Writer,
    plan: Recipe,
    artifact: Mapping[str, Any],
    records: Mapping[str, Record],
) -> None:
    config = {k: v for k, v in source.raw.items() if k != "auto_map"}
    stored = next(iter(source.entries))
    config.setdefault("dtype", str(source.dtype(stored)).removeprefix("torch."))
    config["tie_word_embeddings"] = source.tied
    config["quantization_config"] = runtime.quantization_config(
        {name: r.layout for name, r in records.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "recipe.yaml"
        written.write_text(plan.to_yaml(), encoding="utf-8")
        writer.finish(config, artifact, [*source.companions(), written])


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr)


def _bar(source: Source, measure: bool, progress: bool) -> _Bar:
    groups = len(source.family.groups(source.config))
    steps = source.blocks * (groups + (3 if measure else 0)) + 1
    quiet = not progress or not sys.stderr.isatty()
    return tqdm(total=steps, desc="compress", unit="group", disable=quiet)
