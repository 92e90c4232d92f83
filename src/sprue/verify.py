"""The verb `verify`: a result, as it loads from disk, beside the original on the same text."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sprue import data as texts
from sprue import models, runtime
from sprue.errors import InputError, SprueWarning
from sprue.models import locate
from sprue.outputs import check_writable
from sprue.proof import energy, load, machine, memory, quality, speed
from sprue.proof.figures import verdict
from sprue.proof.report import Costs, Met, Report
from sprue.runtime.zeros import Zeros, counted

CONTEXT = 2048  # tokens of a window where a model allows more
PROMPT, NEW_TOKENS = 128, 32  # tokens read and written in a round of timing

_Advance = Callable[[int], object]


def verify(
    original: str | Path,
    result: str | Path,
    data: Sequence[str | Path],
    *,
    context: int | None = None,
    windows: int | None = None,
    keep: float | None = None,
    batch: int = 8,
    seed: int = 0,
    device: str = "cpu",
    costs: bool = True,
    report: str | Path | None = None,
    figures: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Measure what `result` kept of `original`, and what it costs to run.

    Args:
        original: a model folder or hub name.
        result: a folder: what `compress` made, or any model with the same vocabulary.
        data: text files; figures are given for each and for their mean.
        context: tokens of a window; None takes what both models allow, up to 2048.
        windows: at most so many of each file, a sample drawn with `seed`; None takes all.
        keep: share of the quality that must be kept; None asks for nothing.
        batch: windows run at once.
        seed: of the sample.
        device: "cpu" or "cuda".
        costs: whether to measure speed, memory and energy too.
        report: write the page here.
        figures: write every figure here as JSON, those of every window included.
        progress: show progress on a terminal.

    The verdict is also noted in the sprue.json of a result that `compress` made.

    Raises:
        ArtifactError: a damaged result.
        InputError: a model, a file or an argument that cannot be used; models that cannot be
            compared.
    """
    _check_arguments(keep, batch, windows, device, [report, figures])
    paths = [Path(path) for path in data]
    documents = texts.read(paths)
    pair = _Pair(locate.folder(str(original)), _result_folder(Path(result)), device, progress)
    size, batches = _windows(pair, documents, context, windows, seed)
    both = load.model(pair.original, device), load.model(pair.result, device)
    with counted(both[1]) as zeros:
        samples = _samples(pair, both, batches, batch)
    nbytes, bits = _sizes(pair, both[0])
    timed = _time(pair, both, next(iter(batches.values()))) if costs else None
    del both  # the memory of each is measured next, in a process of its own
    overall = quality.summarize(samples)
    found = Report(
        original=str(original),
        result=str(result),
        device=device,
        context=size,
        seed=seed,
        paths=tuple(str(path) for path in paths),
        fingerprint=texts.fingerprint(paths),
        samples=tuple(samples),
        files=tuple(quality.summarize([sample]) for sample in samples),
        quality=overall,
        verdict=quality.judge(overall, keep),
        nbytes=nbytes,
        bits_per_weight=bits,
        costs=_costs(pair, timed, nbytes, size) if timed else None,
        artifact=_artifact(pair.result),
        machine=machine.stamp(device),
        zeros=_met(zeros),
    )
    _write(found, report, figures)
    _record(pair.result, found)
    return found


@dataclass(frozen=True)
class _Pair:
    """The folders of both models, and how to run them."""

    original: Path
    result: Path
    device: str
    progress: bool

    @property
    def both(self) -> tuple[Path, Path]:
        return self.original, self.result


def _check_arguments(
    keep: float | None,
    batch: int,
    windows: int | None,
    device: str,
    outputs: Iterable[str | Path | None],
) -> None:
    if keep is not None and not 0 < keep <= 1:
        raise InputError(f"expected a share to keep above 0 and up to 1, got {keep}")
    if batch < 1:
        raise InputError(f"expected a batch of 1 window or more, got {batch}")
    if windows is not None and windows < 2:
        raise InputError(f"expected 2 windows or more of each file, got {windows}")
    check_writable(*outputs)
    models.check_device(device)


def _result_folder(result: Path) -> Path:
    if not result.is_dir():
        raise InputError(f"no such folder: {result}; expected the one that 'sprue compress' made")
    if (result / "sprue.json").is_file():  # a damaged tokenizer is to be called what it is
        runtime.check(result, weights=False)
    return result


def _windows(
    pair: _Pair,
    documents: Sequence[texts.Document],
    context: int | None,
    count: int | None,
    seed: int,
) -> tuple[int, dict[str, Tensor]]:
    """The context, and for every file, under a short name that is unique, its windows."""
    configs = [load.config(folder) for folder in pair.both]
    load.check_vocabularies(*configs)
    size = _context(configs, context)
    tokenizer = load.tokenizer(*pair.both)
    sources = list(dict.fromkeys(document.source for document in documents))
    found = {}
    for source, name in zip(sources, _names(sources), strict=True):
        own = [document for document in documents if document.source == source]
        found[name] = texts.windows(tokenizer, own, size, count, seed).to(pair.device)
    vocabulary = configs[0].get_text_config().vocab_size
    largest = max(int(ids.max()) for ids in found.values())
    if largest >= vocabulary:
        raise InputError(
            f"the tokenizer of {pair.original} gives token {largest}, its model has {vocabulary}: "
            "the folder holds the tokenizer of another model"
        )
    return size, found


def _context(configs: Iterable[Any], asked: int | None) -> int:
    texts_of = [config.get_text_config() for config in configs]
    limits = [getattr(config, "max_position_embeddings", None) for config in texts_of]
    most = min((limit for limit in limits if limit is not None), default=None)
    if asked is None:
        return CONTEXT if most is None else min(most, CONTEXT)
    if asked < 2 or (most is not None and asked > most):
        raise InputError(
            f"expected a context of 2 to {most or 'any number of'} tokens, got {asked}: the models "
            "were not made for it"
        )
    return asked


def _names(sources: Sequence[str]) -> list[str]:
    """The paths without the folders that all of them share."""
    absolute = [Path(source).absolute() for source in sources]
    shared = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(shared).as_posix() for path in absolute]


def _samples(
    pair: _Pair, models: tuple[Any, Any], batches: Mapping[str, Tensor], batch: int
) -> list[quality.Sample]:
    original, result = models
    total = sum(len(ids) for ids in batches.values())
    with _bar("quality", total, "window", pair.progress) as advance:
        return [
            quality.compare(original, result, ids, name=name, batch=batch, advance=advance)
            for name, ids in batches.items()
        ]


def _met(zeros: Zeros) -> Met | None:
    return None if zeros.share is None else Met(zeros.share, zeros.shares)


def _sizes(pair: _Pair, original: Any) -> tuple[tuple[int, int], dict[str, float | None]]:
    """Bytes of all tensors of both; bits per weight as the artifact records them, or as stored."""
    a, b = (load.stored(folder) for folder in pair.both)
    recorded = (_artifact(pair.result) or {}).get("bits_per_weight")
    bits = recorded or load.bits_per_weight(original, b)
    sizes = load.nbytes(a), load.nbytes(b)
    return sizes, {"linears": bits["linears"], "file": bits["file"]}


def _time(pair: _Pair, models: tuple[Any, Any], windows: Tensor) -> speed.Speed:
    original, result = models
    context = windows.shape[1]
    new = min(NEW_TOKENS, context // 2)
    prompt = windows[:1, : min(PROMPT, context - new)]
    counter = energy.counter(pair.device)
    with _bar("speed", speed.ROUNDS + 1, "round", pair.progress) as advance:
        return speed.measure(original, result, prompt, new, counter=counter, advance=advance)


def _costs(pair: _Pair, timed: speed.Speed, nbytes: tuple[int, int], context: int) -> Costs:
    threads = torch.get_num_threads()
    a, b = memory.measure(pair.both, context=context, device=pair.device, threads=threads)
    used = (
        _energy(timed.original, nbytes[0], pair.device),
        _energy(timed.result, nbytes[1], pair.device),
    )
    both = None if used[0] is None or used[1] is None else (used[0], used[1])
    return Costs(timed, (a, b), both)


def _energy(pace: speed.Pace, nbytes: int, device: str) -> energy.Energy | None:
    counter = energy.counter(device)
    if pace.joules is not None and counter is not None:
        return energy.read(counter.source, pace.joules)
    if torch.device(device).type != "cpu":
        return None  # CPU seconds say nothing about an accelerator
    return energy.model(pace.cpu_seconds, nbytes)


def _artifact(folder: Path) -> dict[str, Any] | None:
    """sprue.json of a folder; it was checked when the model was loaded."""
    file = folder / "sprue.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _write(found: Report, report: str | Path | None, figures: str | Path | None) -> None:
    if report is not None:
        Path(report).write_text(found.html(), encoding="utf-8")
    if figures is not None:
        text = json.dumps(found.as_dict(full=True), indent=2)
        Path(figures).write_text(text + "\n", encoding="utf-8")


def _record(folder: Path, found: Report) -> None:
    """The verdict goes into sprue.json, so that it travels with what it was found on."""
    if found.artifact is None:
        return
    try:
        runtime.record_verdict(folder, verdict(found))
    except OSError as error:
        text = f"the verdict could not be noted in {folder / 'sprue.json'}: {error.strerror}"
        warnings.warn(text, SprueWarning, stacklevel=2)


@contextmanager
def _bar(what: str, total: int, unit: str, progress: bool) -> Iterator[_Advance]:
    """Progress with the time left on standard error; silent where that is no terminal."""
    with tqdm(total=total, desc=what, unit=unit, disable=None if progress else True) as bar:
        yield bar.update
