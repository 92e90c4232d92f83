"""The verb `specialize`: of a language model the part that one capability needs.

Cut (vocabulary, then layers, heads and neurons), fitted by least squares, taught by the full model
on text of the capability, quantized, and admitted only where it is not worse there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sprue import __version__, data, demo, models
from sprue.compress import compress
from sprue.data.text import of_one_source
from sprue.errors import InputError
from sprue.fleet import adapters
from sprue.fleet.corpus import Parts, corpus
from sprue.fleet.flops import flops_of
from sprue.fleet.showing import Showing, Shown
from sprue.fleet.specialist import FILE, SpecialistReport, Talker
from sprue.fleet.spelled import Spelling
from sprue.fleet.teaching import Teaching
from sprue.models import Source, vocabulary
from sprue.outputs import check_writable
from sprue.plan.budget import parse_size
from sprue.plan.distill import Schedule
from sprue.plan.narrow import Narrowed, narrowed
from sprue.plan.workshop import Workshop
from sprue.proof import load

MINUTES = 15.0
CONTEXT = 256  # tokens of a passage, where the model allows more
_FITTED = 64  # windows that what is left is fitted to
_BYTES = 1.04  # for a weight, at most: 8 bits and their scales


@dataclass(frozen=True)
class Asked:
    """What a specialist has to be.

    Attributes:
        capability: its name.
        size: of all tensors: "40%" of the full model's, or bytes.
        flops: of linears and head for a token, as a share of the full model's; None: the size's.
        keep: share of the full model's quality on the capability.
        minutes: of training by the clock; or
        steps: of training; both None: 15 minutes. 0 minutes: none.
        vocabulary: tokens that stay; None: as few as hardly cost anything; 0: all.
        context: tokens of a passage; None: what the model allows, at most 256.
        seed: of everything that is random.
        base: folder of a base that adapters share: then the specialist is a low-rank part over it.
            Where there is no such folder, the base is made, of `size`.
        rank: of such parts.
    """

    capability: str
    size: str = "40%"
    flops: float | None = None
    keep: float = 0.99
    minutes: float | None = None
    steps: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    seed: int = 0
    base: str | None = None
    rank: int = 16

    def __post_init__(self) -> None:
        if not self.capability.strip():
            raise InputError("expected the name of a capability, got none")
        if not 0 < self.keep <= 1:
            raise InputError(f"expected a share to keep above 0 and up to 1, got {self.keep:g}")
        if self.flops is not None and not 0 < self.flops <= 1:
            raise InputError(f"expected a share of FLOPs above 0 and up to 1, got {self.flops:g}")
        if self.minutes is not None and self.steps is not None:
            raise InputError("training takes so many minutes or so many steps: state one of them")
        if self.rank < 1:
            raise InputError(f"expected a rank of 1 or more, got {self.rank}")
        if (self.minutes or 0) < 0 or (self.steps or 0) < 0 or (self.vocabulary or 0) < 0:
            raise InputError("minutes, steps and a vocabulary cannot be below 0")

    @property
    def schedule(self) -> Schedule | None:
        """Of the training; None: there is none."""
        if self.steps is not None:
            return Schedule(steps=self.steps) if self.steps else None
        minutes = MINUTES if self.minutes is None else self.minutes
        return Schedule(seconds=60 * minutes) if minutes else None


def specialize(
    model: str | Path,
    text: Sequence[str | Path],
    out: str | Path,
    asked: Asked,
    *,
    prove: Sequence[str | Path] = (),
    beside: Sequence[str | Path] = (),
    resume: bool = False,
    report: str | Path | None = None,
    figures: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> SpecialistReport:
    """Write a specialist into the new folder `out`, a model folder like any other.

    Args:
        model: folder of the full model, or a hub name.
        text: files or logs with text of the capability.
        out: folder to make.
        asked: what it has to be.
        prove: texts of the capability to prove it with; none: a part of `text` that is held back.
        beside: other texts, to tell what it has forgotten; none: the embedded ones.
        resume: go on where the same command was interrupted.
        report: write the page here.
        figures: write the figures here as JSON.
        progress: called with a few words before every step.

    Raises:
        InputError: a model or text that cannot be used.
        BudgetError: a budget that cannot be met.
        ResourceError: the disk is full.
    """
    check_writable(report, figures)
    source = models.open(model)
    found = corpus(text, asked.capability)
    parts = Parts.of(found, prove, asked.seed)
    key = _key(source, asked, parts)
    with Workshop(Path(out), key, resume) as workshop:
        kind = _Job if asked.base is None else _Light
        others = list(beside) or demo.test_files()
        job = kind(source, asked, parts, workshop, progress, others, Path(out))
        done = replace(job.run(), out=Path(out), model=str(model))
        told = json.dumps(done.as_dict(), indent=2) + "\n"
        (workshop.result / FILE).write_text(told, encoding="utf-8")
        workshop.finish()
    if report is not None:
        Path(report).write_text(done.html(), encoding="utf-8")
    if figures is not None:
        text_of = json.dumps(done.as_dict(full=True), indent=2) + "\n"
        Path(figures).write_text(text_of, encoding="utf-8")
    return done


def _key(source: Source, asked: Asked, parts: Parts) -> dict[str, Any]:
    texts = [[d.text for d in some] for some in (parts.learn, parts.watch, parts.prove)]
    return {
        "version": __version__,
        "model": source.fingerprint(),
        "budget": asdict(asked),
        "text": _digest(texts),
    }


def _digest(told: object) -> str:
    """sha256 of something JSON-able."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass
class _Job:
    """One command at work."""

    source: Source
    asked: Asked
    parts: Parts
    workshop: Workshop
    progress: Callable[[str], object]
    beside: Sequence[str | Path]
    out: Path

    @cached_property
    def full(self) -> Any:
        return load.model(self.source.path, "cpu")

    @cached_property
    def tokenizer(self) -> Any:
        return load.tokenizer(self.source.path, self.source.path)

    @cached_property
    def context(self) -> int:
        limit = getattr(self.full.config.get_text_config(), "max_position_embeddings", None)
        most = limit or CONTEXT
        if self.asked.context is not None and not 16 <= self.asked.context <= most:
            raise InputError(
                f"expected a context of 16 to {most} tokens, which the model takes, got "
                f"{self.asked.context}"
            )
        return self.asked.context or min(most, CONTEXT)

    def run(self) -> SpecialistReport:
        begin = time.monotonic()
        limit = parse_size(self.asked.size, self.source.nbytes)
        student = self.workshop.folder / "student"
        if not self.workshop.noted("student"):
            shutil.rmtree(student, ignore_errors=True)
            self._student(student)
        taught = load.model(student, "cpu")
        weights = sum(p.numel() for p in taught.parameters())
        self.progress("quantizing")
        learned = self._as_file()
        compress(
            student,
            self.workshop.result,
            size=str(min(limit, int(_BYTES * weights))),
            calibrate=[learned],
            seed=self.asked.seed,
            context=self.context,
            progress=False,
        )
        made = self.workshop.result
        own = load.model(made, "cpu")
        return self._proven(own, load.tokenizer(made, made), taught, time.monotonic() - begin)

    @property
    def _stored(self) -> int:
        """Bytes of the specialist's tensors."""
        return load.nbytes(load.stored(self.workshop.result))

    def _as_file(self) -> Path:
        """What it learned from, as calibration reads it."""
        file = self.workshop.folder / "text.jsonl"
        lines = (json.dumps({"text": document.text}) for document in self.parts.learn)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def _student(self, folder: Path) -> None:
        """Cut and taught, in 16 bits or as the full model is stored."""
        cut = self._cut_vocabulary(folder)
        kept = None if cut is None else cut.kept
        small = self.full if cut is None else vocabulary.cut(self.full, cut)
        tokenizer = load.tokenizer(folder, folder)
        ids = data.windows(
            tokenizer, of_one_source(self.parts.learn), self.context, _FITTED, self.asked.seed
        )
        share = self._share(small)
        made = self._narrow(small, ids, share)
        self.progress("teaching")
        self._teaching.run(made.model, kept, tokenizer)
        self._save(made.model, folder)
        told = {"layers": list(made.layers), "kl_nats_before_teaching": made.kl_nats}
        self.workshop.note("student", told)

    def _cut_vocabulary(self, folder: Path) -> vocabulary.Vocabulary | None:
        """What stays of it, with its tokenizer written; None: all of it."""
        folder.mkdir(parents=True)
        self.progress("counting tokens")
        spelling = Spelling(
            self.full,
            self.tokenizer,
            self.source.path,
            self.workshop.folder / "tokenizer",
            self.asked.keep,
            self.context,
            self.asked.seed,
        )
        made = spelling.chosen(self.parts.learn, self.parts.watch, self.asked.vocabulary)
        if made.vocabulary is None:
            for file in self.source.companions():
                if file.name != "generation_config.json":
                    shutil.copyfile(file, folder / file.name)
        else:
            vocabulary.saved(made.vocabulary, self.source.path, folder)
        self.workshop.note("whole_vocabulary", made.why)
        self.workshop.note("outside", made.outside)
        return made.vocabulary

    def _share(self, small: Any) -> float:
        """Of the FLOPs that are left of a model with a smaller vocabulary."""
        whole, left = (flops_of(one) for one in (self.full, small))
        asked = self.asked.flops
        if asked is None:
            size = parse_size(self.asked.size, self.source.nbytes)
            asked = min(1.0, size / self.source.nbytes)
        return min(1.0, asked * (whole.body + whole.head) / (left.body + left.head))

    def _narrow(self, small: Any, ids: Tensor, share: float) -> Narrowed:
        if share >= 1:
            every = tuple(range(self.source.blocks))
            return Narrowed(copy.deepcopy(small), 1.0, every, {}, 0.0)
        return narrowed(small, ids, share, self.asked.seed, self.progress)

    @property
    def _teaching(self) -> Teaching:
        asked = self.asked
        return Teaching(
            self.full,
            self.parts,
            self.context,
            asked.schedule,
            self.workshop,
            asked.seed,
            self.progress,
        )

    def _save(self, student: Any, folder: Path) -> None:
        dtype = self.source.dtype(f"{self.source.family.embedding}.weight")
        student.to(dtype).save_pretrained(folder)

    def _proven(self, own: Any, tokenizer: Any, taught: Any, seconds: float) -> SpecialistReport:
        """Beside the full model.

        Args:
            own: the specialist, as it came back from disk.
            tokenizer: its own.
            taught: what it was before it was quantized.
            seconds: that making it took.
        """
        self.progress("proving it")
        mine = Talker(own, tokenizer, 2 * self.context)
        shown = Showing(
            Talker(self.full, self.tokenizer, self.context),
            mine,
            replace(mine, model=taught),
            self.context,
            self.asked.seed,
        )
        capability, prove = self.asked.capability, self.parts.prove
        return self._told(own, shown.run(capability, prove, self.beside, self.progress), seconds)

    def _told(self, own: Any, shown: Shown, seconds: float) -> SpecialistReport:
        a, b = flops_of(self.full), flops_of(own)
        student = self.workshop.noted("student")
        return SpecialistReport(
            out=self.workshop.result,
            capability=self.asked.capability,
            model="",
            keep=self.asked.keep,
            own=shown.own,
            forgotten=shown.forgotten,
            nbytes=(self.source.nbytes, self._stored),
            flops=(a.body + a.head, b.body + b.head),
            shape=_shape(self.full.config, own.config),
            outside=float(self.workshop.noted("outside")),
            looks=tuple(self.workshop.noted("looks")),
            losses=tuple(self.workshop.noted("losses")),
            seconds=seconds,
            told={
                **student,
                "before_quantization": shown.before.as_dict(),
                "whole_vocabulary": self.workshop.noted("whole_vocabulary"),
                "seed": self.asked.seed,
                "full_sha256": self.source.fingerprint(),
                "files": [path.name for path in self.parts.corpus.files],
                "documents": {
                    "learned": len(self.parts.learn),
                    "watched": len(self.parts.watch),
                    "proven": len(self.parts.prove),
                },
                "skipped_lines": self.parts.corpus.skipped,
            },
        )


class _Light(_Job):
    """A low-rank part over a shared base."""

    def run(self) -> SpecialistReport:
        begin = time.monotonic()
        base = Path(str(self.asked.base))
        if not base.exists():
            self.progress("compressing the base that adapters share")
            compress(
                self.source.path,
                base,
                size=self.asked.size,
                calibrate=[self._as_file(), *map(Path, self.beside)],
                seed=self.asked.seed,
                context=self.context,
                progress=False,
            )
        shared = adapters.shared_base(base.resolve(), "cpu")
        load.check_vocabularies(self.full.config, shared.config)
        student = adapters.adapted(shared, self.asked.rank, self.asked.seed)
        learns = set(adapters.parts(student))
        self._teaching.run(student, None, self.tokenizer, learns)
        made = self.workshop.result
        made.mkdir()
        adapters.save(student, made, base.resolve(), self.out.resolve())
        told = {"base": base.name, "base_bytes": load.nbytes(load.stored(base))}
        self.workshop.note("student", {**told, "rank": self.asked.rank})
        self.workshop.note("outside", 0.0)
        own = adapters.load_over(made, shared)
        return self._proven(own, self.tokenizer, student, time.monotonic() - begin)

    @property
    def _stored(self) -> int:
        return (self.workshop.result / adapters.WEIGHTS).stat().st_size


def _shape(full: Any, own: Any) -> Mapping[str, tuple[int, int]]:
    names = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "neurons": "intermediate_size",
        "vocabulary": "vocab_size",
    }
    a, b = (config.get_text_config() for config in (full, own))
    return {
        name: (int(getattr(a, key)), int(getattr(b, key)))
        for name, key in names.items()
        if getattr(a, key, None) is not None
    }
