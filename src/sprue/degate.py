"""The verb `compress --target`: a smaller network for a stock engine, within a budget, proven.

What leaves the network and how it is stored are searched together, by what is measured on this
machine; the best is proven on examples that the search has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sprue import __version__
from sprue.data.examples import Examples
from sprue.degating import artifact
from sprue.degating.asked import DENSE, TARGETS, Asked, Given
from sprue.degating.bench import Bench
from sprue.degating.parts import Parts
from sprue.degating.picks import Limits, Trial, chain
from sprue.degating.report import report_of
from sprue.degating.trials import SHARES, Search, Stage
from sprue.degating.truth import true_classes
from sprue.errors import BudgetError, InputError
from sprue.formats.onnx_export import to_onnx
from sprue.models import nets
from sprue.models.plain_config import told_with
from sprue.models.wired import unwired
from sprue.plan import precision
from sprue.plan.budget import parse_size
from sprue.plan.coarsen import Coarsener
from sprue.plan.meaning import answers_of, loss_of
from sprue.plan.prune import Pruner
from sprue.plan.teach import Lessons, teach
from sprue.plan.uniform import sets_of
from sprue.plan.workshop import Workshop, sha256_of
from sprue.proof import energy
from sprue.proof.network_report import NetworkReport, judged
from sprue.structure.hardened import hardened, silus

__all__ = ["SHARES", "TARGETS", "Asked", "Given", "degate"]

_BATCH = 32
_LESSON, _SMALL_LESSON = 64, 8  # examples of a step of training, small ones and large
_TINY = 64  # pixels
_VECTOR = 16  # channels that the engines' kernels compute at once, float32 and 8 bits alike


def degate(
    given: Given,
    out: str | Path,
    asked: Asked,
    *,
    resume: bool = False,
    report: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> NetworkReport:
    """Write into `out` the fastest network that keeps enough, or the best that was found.

    Args:
        given: model and data.
        out: folder to make; must not exist.
        asked: target, quality and budget.
        resume: go on where the same command was interrupted.
        report: write the page here.
        progress: called with a few words before every step.

    Raises:
        InputError: a model or data that cannot be used; nothing of it can be cut or quantized.
        BudgetError: a budget that cannot be met by anything.
        ResourceError: the disk is full.
    """
    net = given.open()
    _check(given, asked)
    parts = Parts.read(given, net, asked)
    key = _key(given, asked, net, parts)
    with Workshop(Path(out), key, resume) as workshop:
        job = _Job(given, asked, net, parts, workshop, progress)
        found = job.run(str(out))
        workshop.finish()
    if report is not None:
        Path(report).write_text(found.html(), encoding="utf-8")
    return found


def _check(given: Given, asked: Asked) -> None:
    if asked.target not in TARGETS:
        raise InputError(f"expected a target among {', '.join(TARGETS)}, got {asked.target!r}")
    if given.calibrate is None and given.data is None:
        raise InputError(
            "a network is cut by examples: name some with --calibrate FILE, and others to prove it "
            "with by --data FILE"
        )


def _key(given: Given, asked: Asked, net: nets.Net, parts: Parts) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": sha256_of(net.source),
        "budget": asdict(asked),
        "data": [parts.fit.fingerprint, parts.prove.fingerprint],
        "reading": [str(given.preprocess), given.length, given.examples, net.task, net.decoder],
    }


@dataclass
class _Job:
    """One command at work."""

    given: Given
    asked: Asked
    net: nets.Net
    parts: Parts
    workshop: Workshop
    progress: Callable[[str], object]
    _pruners: dict[str, Pruner] = field(default_factory=dict)
    _coarseners: dict[str, Coarsener] = field(default_factory=dict)
    _networks: dict[str, tuple[nn.Module, float]] = field(default_factory=dict)

    def run(self, out: str) -> NetworkReport:
        """Search, prove, and put the folder together."""
        search, limits = self._search(), self._limits
        shares = SHARES if self.asked.flops is None else (self.asked.flops,)
        search.run(shares, 60 * self.asked.minutes)
        trials = [t for t in search.trials if self._allowed(t)]
        picks = chain(trials, self.asked.keep, limits)
        if not picks:
            raise BudgetError(
                f"nothing was found to cut: no trial of {self.given.model} is smaller or faster "
                f"than the original ({self._why(search)})"
            )
        return self._prove(picks, search, out)

    @cached_property
    def _limits(self) -> Limits:
        if self.asked.size is None:
            return self.asked.limits
        whole = precision.bytes_of(self._original)
        return replace(self.asked.limits, size=parse_size(self.asked.size, whole) / whole)

    def _allowed(self, trial: Trial) -> bool:
        """A stated share of FLOPs is a demand; the whole network in float32 is no result."""
        if self.asked.flops is not None and trial.share > self.asked.flops + 1e-6:
            return False
        return not (trial.share == 1 and trial.precision == precision.FP32)

    def _why(self, search: Search) -> str:
        return "; ".join(search.fallbacks) or "what was tried is in the table of trials"

    def _search(self) -> Search:
        self.progress("the original")
        return Search(
            net=self.net,
            bench=self._bench(self.parts.judge),
            calibration=self.parts.fit,
            make=self._made,
            workshop=self.workshop,
            keep=self.asked.keep,
            portable=self._portable,
            precisions=()
            if self.asked.target == DENSE
            else precision.offered(self.asked.engine, self._transformer),
            transformer=self._transformer,
            limits=self._limits,
            hard=self.asked.target != DENSE and silus(self.net.module) > 0,
            advance=self.progress,
        )

    def _bench(self, examples: Examples) -> Bench:
        return Bench(
            net=self.net,
            engine=self.asked.engine,
            original=self._original,
            examples=examples,
            threads=self.asked.threads,
            seed=self.asked.seed,
            counter=energy.counter(),
        )

    @cached_property
    def _original(self) -> Path:
        """The whole network as the engine runs it, in float32."""
        source = self.workshop.folder / "original.source.onnx"
        path = self.workshop.folder / f"original{precision.ending(self.asked.engine)}"
        check = self.parts.fit.batches(len(self.net.example[0]))[0]
        net = self.net
        to_onnx(net.module, net.example, net.inputs, net.varying, source, check)
        whole = precision.Source(source, net.inputs, [], self._transformer)
        precision.write(self.asked.engine, precision.FP32, whole, path, portable=False)
        return path

    @property
    def _portable(self) -> bool:
        return not precision.vnni() if self.asked.portable is None else self.asked.portable

    @cached_property
    def _transformer(self) -> bool:
        return has_attention(self.net.module)

    def _pruner(self, base: Stage | None) -> Pruner:
        """Of the original, or of what it became; read once."""
        name = "" if base is None else base.name
        if name not in self._pruners:
            self.progress("reading the network")
            self._pruners[name] = self._read(self._network(base)[0], self._batches)
        return self._pruners[name]

    @cached_property
    def _batches(self) -> list[tuple[Tensor, ...]]:
        """Of what networks are fitted to, all of one size."""
        size = _BATCH if self.net.varying and 0 in self.net.varying[0] else 1
        every = self.parts.fit.batches(size)
        return [b for b in every if len(b[0]) == size or size == 1] or every

    def _coarsener(self, base: Stage | None) -> Coarsener:
        name = "" if base is None else base.name
        if name not in self._coarseners:
            self.progress("reading which weights may be coarser")
            self._coarseners[name] = Coarsener(
                self._network(base)[0], self._batches, answers_of(self.net), self.asked.seed
            )
        return self._coarseners[name]

    def _bits(self, stage: Stage) -> dict[str, int]:
        """Layer -> bits of those that this stage makes coarser; kept for what is told of it."""
        bits = self._coarsener(stage.base).pick(stage.saved)
        self.workshop.note("bits", {**(self.workshop.noted("bits") or {}), stage.name: bits})
        return bits

    def _read(self, module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Pruner:
        """Widths of a dense result are such as its config can say, where that is enough."""
        given = (module, batches, answers_of(self.net), self.asked.seed, _VECTOR)
        if self.asked.target != DENSE or self.net.config is None:
            return Pruner(*given)
        least = 1.0 if self.asked.flops is None else self.asked.flops
        try:
            found = Pruner(*given, lambda groups: sets_of(module, groups))
            if found.least() <= least:
                return found
            why = f"what it says goes down to {found.least():.1%} of the FLOPs"
        except BudgetError:
            why = "it says the widths of nothing that can be cut"
        words = f"the result has no config.json: {why}; sprue.structure.cut.shaped loads it"
        self.workshop.note("uniform", words)
        return Pruner(*given)

    def _network(self, stage: Stage | None) -> tuple[nn.Module, float]:
        """And its share of the FLOPs; what was trained before is kept, or taken up from disk."""
        if stage is None:
            return self.net.module, 1.0
        if stage.name not in self._networks:
            self._networks[stage.name] = self._made(stage)
        return self._networks[stage.name]

    def _made(self, stage: Stage) -> tuple[nn.Module, float]:
        """A network with what this stage does to it, repaired, and trained if there is time."""
        base = stage.base
        module, flops = self._network(base)
        if stage.hard and not (base and base.hard):
            module = hardened(module, self._batches)
        if stage.saved > (base.saved if base else 0):
            module = self._coarsener(base).coarse(self._bits(stage))
        if stage.share < (base.share if base else 1.0):
            module, flops = self._pruned(stage)
        if stage.own:
            module = self._trained(module, stage)
        if stage.own or stage.hard:
            self._networks[stage.name] = module, flops
        self._saved(module, stage)
        return module, flops

    def _trained(self, module: nn.Module, stage: Stage) -> nn.Module:
        lessons = Lessons(
            loss_of(self.net),
            seconds=stage.own,
            batch=_LESSON if self._small else _SMALL_LESSON,
            mixed=self.net.task in (nets.IMAGES, nets.BOXES),
            truth=self._truth,
            seed=self.asked.seed,
            state=self.workshop.folder / f"{stage.name}.lesson",
        )
        return teach(
            self.net.module,
            module,
            self.parts.train.inputs,
            lessons,
            lambda done: self.progress(f"training, {100 * done:.0f}% done"),
        ).model

    @cached_property
    def _truth(self) -> Tensor | None:
        """Classes of the examples that it is trained on, and nothing is judged by."""
        return true_classes(self.net, self.parts.train) if self.asked.labels else None

    def _saved(self, module: nn.Module, stage: Stage) -> None:
        """The weights of a dense result, by the names that they have in the user's network."""
        if self.asked.target != DENSE:
            return
        tensors = {
            name: t.detach().contiguous().clone()
            for name, t in unwired(module)[0].state_dict().items()
        }
        save_file(tensors, self.workshop.folder / f"{stage.name}.safetensors", {"format": "pt"})

    @property
    def _small(self) -> bool:
        """Whether examples are small: texts, and images of up to 64 pixels."""
        x = self.net.example[0]
        return x.dim() != 4 or max(self.parts.fit.inputs[0].shape[-2:]) <= _TINY

    def _pruned(self, stage: Stage) -> tuple[nn.Module, float]:
        pruner, before = self._pruner(stage.base), self._network(stage.base)[1]
        least = pruner.least() * before
        if stage.share < least:
            raise BudgetError(
                f"{stage.share:.1%} of the FLOPs cannot be met: the least that this model can be "
                f"cut to is {least:.1%}"
            )
        found = pruner.prune(stage.share / before)
        noted = self.workshop.noted("left") or {}
        first = noted.get(f"{before:.6f}", {}) if stage.base else {}
        left = first | {
            name: (first.get(name, units)[0], units[1]) for name, units in found.left.items()
        }
        flops = found.flops * before
        self.workshop.note("left", {**noted, f"{flops:.6f}": left})
        return found.model, flops

    def _prove(self, picks: Sequence[Trial], search: Search, out: str) -> NetworkReport:
        """In turn, until one fails; the last that passed is the result, or else the first."""
        bench = self._bench(self.parts.prove)
        best, kept = picks[0], None
        for trial in picks:
            self.progress(f"proving {trial.precision} at {100 * trial.share:.4g}% of the FLOPs")
            found = bench.judge(self.workshop.folder / trial.file)
            passed = judged(found[0], self.asked.keep).passed
            if kept is None or passed:
                best, kept = trial, found
            if not passed:
                break
        assert kept is not None
        path = self._assembled(best, search)
        told = artifact.read(path.parent).told
        report = report_of(
            bench,
            path,
            kept,
            original=self.given.model,
            result=out,
            data=self.parts.files,
            keep=self.asked.keep,
            limits=asdict(self._limits),
            artifact=told,
            parameters=(self.net.parameters, best.parameters),
            trials=[asdict(t) for t in search.trials],
        )
        artifact.write_told(path.parent, _without_files(told) | {"verdict": report.as_dict()})
        return report

    def _assembled(self, trial: Trial, search: Search) -> Path:
        told: dict[str, Any] = {
            "target": self.asked.target,
            "asked": asdict(self.asked),
            "seed": self.asked.seed,
            "portable": self._portable,
            "data": {
                "calibration": {
                    "sha256": self.parts.fit.fingerprint,
                    "examples": len(self.parts.fit),
                },
                "proof": {
                    "sha256": self.parts.prove.fingerprint,
                    "examples": len(self.parts.prove),
                },
            },
            "bits": self._stored(trial),
            "pruned": (self.workshop.noted("left") or {}).get(f"{trial.share:.6f}", {}),
            "trials": [asdict(t) for t in search.trials],
            "fallbacks": [*search.fallbacks, *filter(None, [self.workshop.noted("uniform")])],
        }
        source = self.workshop.folder / trial.file
        beside = self._beside(trial) if self.asked.target == DENSE else {}
        return artifact.assemble(self.workshop.result, source, trial, self.net, told, beside)

    def _stored(self, trial: Trial) -> dict[str, int]:
        """Layer -> bits that its weights are stored in, where that is not the precision's."""
        noted = self.workshop.noted("bits") or {}
        return next((bits for name, bits in noted.items() if trial.file.startswith(f"{name}-")), {})

    def _beside(self, trial: Trial) -> dict[str, Path]:
        """Weights of a dense result, and its config where one says its sizes."""
        name = trial.file.split("-fp32")[0]
        weights = self.workshop.folder / f"{name}.safetensors"
        if not weights.is_file():
            return {}
        found = {"model.safetensors": weights}
        if self.net.config is not None:
            shapes = {name: tuple(t.shape) for name, t in load_file(weights).items()}
            told = told_with(unwired(self.net.module)[0], shapes)
            if told is not None:
                found["config.json"] = self.workshop.folder / "config.json"
                text = json.dumps(told, indent=2, default=str) + "\n"
                found["config.json"].write_text(text, encoding="utf-8")
        return found


def has_attention(module: nn.Module) -> bool:
    """Whether a network normalizes over features, as those with attention do."""
    return any(isinstance(m, nn.LayerNorm) for m in module.modules())


def _without_files(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "files"}
