"""The demo of a fleet: usage, specialists for what is asked most, and the proof of what they save.

A log of requests is made from test texts, skewed as traffic is; it is ranked, the router that names
its capabilities being trained on other text; specialists are cut for the three that take most; and
the log is asked again, of the fleet and of the full model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from sprue import __version__, data, demo
from sprue.errors import InputError
from sprue.fleet.flops import flops_of
from sprue.fleet.made_up import Mix, write
from sprue.fleet.replay_report import ReplayReport
from sprue.fleet.router import Router
from sprue.fleet.scoring import Need, needs_of
from sprue.fleet.shadow import Risk
from sprue.proof import load
from sprue.rank import rank
from sprue.replay import Terms, replay
from sprue.specialize import CONTEXT, Asked, specialize

SIZE, KEEP, STEPS = "46%", 0.99, 4500
TOP = 3
LOG, SHADOW, ROUTER, FLEET, FIGURES = (
    "log.jsonl",
    "shadow.jsonl",
    "router.safetensors",
    "fleet.yaml",
    "demo-fleet.json",
)
_BESIDE = 4.0  # minutes beside the training of each specialist, and for all else
_STEP = 0.6  # of the time that the full model takes for a step of its own
_TRIED = 4  # steps: the first one also makes ready, and others may have to wait for the machine
_BESIDE_STEPS = 0.35  # of the time of the steps: cutting, writing, proving
_MARK = ".sprue-demo-fleet"
_ASSETS = "SPRUE_ASSETS"
_UNKNOWN = "wikitext2"
_SHARES = {"legal": 0.41, "code": 0.33, "security": 0.19, "stories": 0.04, _UNKNOWN: 0.03}
_SEVERAL, _NAMED = 0.12, 0.15
_SPILLED = 0.02  # of known text; each of these needs is answered by the full model


@dataclass(frozen=True)
class Texts:
    """Where the traffic comes from.

    Attributes:
        learn: capability -> text to learn from: router and specialists.
        shadow: name -> text of earlier traffic, which thresholds are found on.
        test: name -> text of the traffic.
        requests, shadowed: of the traffic, and of the earlier one.
        prompt, answer: tokens of a need.
    """

    learn: Mapping[str, Path]
    shadow: Mapping[str, Path]
    test: Mapping[str, Path]
    requests: int
    shadowed: int
    prompt: int
    answer: int

    @classmethod
    def found(cls) -> Texts:
        """Those of SPRUE_ASSETS; where there are none, the embedded ones.

        The embedded texts hold nothing that the full model does not know: stories, which the router
        is then not shown, stand for what is unknown, and needs are short, so that the texts last.
        """
        folder = Path(os.environ.get(_ASSETS, "../shared/assets")) / "text"
        names = demo.CAPABILITIES
        if all((folder / name / "test.txt").is_file() for name in (*names,)):
            unknown = folder / _UNKNOWN / "valid.txt"
            return cls(
                {name: folder / name / "train.txt" for name in names},
                {**{name: folder / name / "valid.txt" for name in names}, _UNKNOWN: unknown},
                {**{name: folder / name / "test.txt" for name in names}, _UNKNOWN: unknown},
                *(1200, 1000, 48, 80),
            )
        learn = dict(zip(names, demo.calibration_files(), strict=True))
        test = dict(zip(names, demo.test_files(), strict=True))
        del learn["stories"]
        return cls(learn, test, test, 1000, 200, 12, 24)


@dataclass(frozen=True)
class FleetReport:
    """What the demo measured.

    Attributes:
        out: the folder with everything in it.
        figures: what demo-fleet.json holds; JSON-able.
        replayed: of the log.
    """

    out: Path
    figures: dict[str, Any]
    replayed: ReplayReport = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The figures."""
        return self.figures

    def table(self) -> str:
        """For a terminal."""
        told = self.figures
        lines = ["what is asked for, by compute:"]
        lines += [
            f"  {one['name']:<12} {100 * one['share']:5.1f}%  {one['requests']:,} requests"
            for one in told["ranked"]
        ]
        lines += ["", "specialists:"]
        lines += [f"  {name}: {one['statement']}" for name, one in told["specialists"].items()]
        left = [name for name in told["specialists"] if name not in told["in_the_fleet"]]
        if left:
            lines.append(f"left to the full model, not being as good: {', '.join(left)}")
        lines += ["", self.replayed.table(), "", "where the compute goes, of the full model's:"]
        lines += [f"  {_words(k):<34} {100 * v:+6.1f}%" for k, v in told["replay"]["parts"].items()]
        lines += ["", "quantizing, which takes bytes and no FLOPs:"]
        lines += [f"  {name}: {_quantized(one)}" for name, one in told["specialists"].items()]
        lines += [
            "",
            f"{told['seconds']['all'] / 60:.1f} minutes, the specialists took "
            f"{told['seconds']['specialists'] / 60:.1f} of them; the next run takes them up",
            f"pages: {self.out / 'rank.html'}, {self.out / 'replay.html'}",
        ]
        return "\n".join(lines)


def _quantized(one: Mapping[str, Any]) -> str:
    """What it did to a specialist."""
    nbytes, ratios = one["bytes"], (one["before_quantization"]["ratio"], one["own"]["ratio"])
    before, after = (ratio["value"] for ratio in ratios)
    return (
        f"{100 * nbytes['specialist'] / nbytes['full']:.1f}% of the full model's bytes, perplexity "
        f"{before:.4f} times the full model's before it, {after:.4f} after it"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def run(
    out: Path,
    *,
    minutes: float | None = None,
    seed: int = 0,
    progress: Callable[[str], object] = lambda words: None,
) -> FleetReport:
    """Make log, fleet and proof in `out`; specialists that an earlier run left there are taken up.

    Args:
        out: folder to make, or of an earlier demo.
        minutes: of training for each specialist; None: STEPS, whatever they take.
        seed: of everything that is random.
        progress: called with a few words before every step.

    Raises:
        InputError: `out` exists and is not a demo's.
    """
    begin = time.monotonic()
    _make_room(out)
    texts = Texts.found()
    model = demo.model_path()
    progress("making the log")
    mix = _logs(out, texts, model, seed)
    progress("training the router")
    router = _router(out / ROUTER, texts, model, seed)
    progress("ranking the log")
    whole = flops_of(load.model(model, "cpu"))
    ranked = rank(
        [out / LOG],
        flops={"full": float(whole.body + whole.head)},
        classify=lambda some: [router.route(text).capability for text in some],
        report=out / "rank.html",
        seed=seed,
    )
    rows = [
        {
            "name": one.name or "unknown",
            "share": ranked.of(one.total),
            "requests": one.total.requests,
        }
        for one in ranked.capabilities
    ]
    top = [str(one.name) for one in ranked.capabilities if one.name in texts.learn][:TOP]
    training = time.monotonic()
    made = {}
    for i, name in enumerate(top):
        steps = STEPS if minutes is None else None
        asked = Asked(name, size=SIZE, keep=KEEP, minutes=minutes, steps=steps, seed=seed)
        words = f"specialist {i + 1} of {len(top)}, {name}"
        made[name] = _specialist(out, texts, model, asked, partial(_told, progress, words))
    training = time.monotonic() - training
    # what is worse than the full model is no specialist; where all are, the replay says how much
    admitted = [name for name in top if made[name]["admitted"]] or top
    fleet = {
        "full": os.path.relpath(model, out),
        "router": ROUTER,
        "specialists": {name: f"specialists/{name}" for name in admitted},
    }
    (out / FLEET).write_text(yaml.safe_dump(fleet, sort_keys=False), encoding="utf-8")
    done = replay(
        [out / LOG],
        out / FLEET,
        Terms(keep=KEEP, shadow=(out / SHADOW,), risk=Risk(), seed=seed),
        report=out / "replay.html",
        figures=out / "replay.json",
        progress=progress,
    )
    figures = {
        "seed": seed,
        "texts": {"prompt": texts.prompt, "answer": texts.answer, "mix": asdict(mix)["shares"]},
        "ranked": rows,
        "specialists": made,
        "in_the_fleet": admitted,
        "replay": done.as_dict(),
        "seconds": {"all": time.monotonic() - begin, "specialists": training},
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return FleetReport(out, figures, done)


def _told(progress: Callable[[str], object], which: str, words: str) -> None:
    progress(f"{which}: {words}")


def takes(out: Path, minutes: float | None = None) -> str:
    """How long it will take, in words.

    Args:
        out: folder to make, or of an earlier demo.
        minutes: of training for each specialist; None: STEPS, as fast as this machine is now.
    """
    made = len(list((out / "specialists").glob("*.key.json")))
    missing = max(0, TOP - made)
    if minutes is not None:
        each = minutes + _BESIDE
    elif missing:
        each = STEPS * _step_seconds() / 60 * (1 + _BESIDE_STEPS)
    else:
        each = 0.0
    return (
        f"this takes about {missing * each + _BESIDE:.0f} minutes, most of them to train "
        "specialists, which are kept for the next run"
    )


def _step_seconds() -> float:
    """That a step of training will take, about: tried with the full model."""
    model = load.model(demo.model_path(), "cpu").requires_grad_(True)
    ids = torch.arange(8 * CONTEXT).view(8, CONTEXT) % int(model.config.vocab_size)
    tried = []
    for _ in range(_TRIED):
        begin = time.monotonic()
        model(ids, labels=ids, use_cache=False).loss.backward()
        tried.append(time.monotonic() - begin)
    return _STEP * min(tried)


def _make_room(out: Path) -> None:
    ours = not out.exists() or (out / _MARK).is_file() or (out.is_dir() and not any(out.iterdir()))
    if not ours:
        raise InputError(
            f"{out} exists and is not an earlier demo of a fleet: give another --out, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()


def _logs(out: Path, texts: Texts, model: Path, seed: int) -> Mix:
    """The traffic, and what there was before it."""
    tokenizer = load.tokenizer(model, model)
    shares = {name: share for name, share in _SHARES.items() if name in texts.test}
    mix = Mix(shares, _SEVERAL, _NAMED, frozenset(texts.learn))
    size = (texts.prompt, texts.answer)
    shared = {name for name in texts.test if texts.test[name] == texts.shadow[name]}
    test, shadow = dict[str, list[Need]](), dict[str, list[Need]]()
    for name in shares:
        test[name] = needs_of(tokenizer, data.read([texts.test[name]]), *size)
        if name in shared:  # one text for both: every fifth passage is of the earlier traffic
            shadow[name] = test[name][::5]
            test[name] = [need for i, need in enumerate(test[name]) if i % 5]
        else:
            shadow[name] = needs_of(tokenizer, data.read([texts.shadow[name]]), *size)
    write(out / LOG, test, texts.requests, mix, size, seed)
    write(out / SHADOW, shadow, texts.shadowed, mix, size, seed + 1)
    return mix


def _router(file: Path, texts: Texts, model: Path, seed: int) -> Router:
    """Shown passages as long as requests, of the texts to learn from."""
    tokenizer = load.tokenizer(model, model)
    examples = [
        (need.prompt, name)
        for name, path in texts.learn.items()
        for need in needs_of(tokenizer, data.read([path]), texts.prompt, texts.answer, 800, seed)
    ]
    found = Router.train(examples, seed, _SPILLED)
    file.unlink(missing_ok=True)
    found.save(file)
    return found


def _specialist(
    out: Path, texts: Texts, model: Path, asked: Asked, progress: Callable[[str], object]
) -> dict[str, Any]:
    """Cut, or taken up where the same was cut before; a run that was cut short is gone on with."""
    folder = out / "specialists" / asked.capability
    key = {
        "version": __version__,
        "asked": asdict(asked),
        "text": hashlib.sha256(texts.learn[asked.capability].read_bytes()).hexdigest(),
    }
    noted = folder.parent / f"{asked.capability}.key.json"
    begun = folder.parent / f"{asked.capability}.begun.json"
    if folder.is_dir() and _holds(noted, key):
        found: dict[str, Any] = json.loads((folder / "specialist.json").read_text())
        return found
    own = texts.shadow[asked.capability]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    resume = _holds(begun, key)
    begun.write_text(json.dumps(key), encoding="utf-8")
    report = specialize(
        model,
        [texts.learn[asked.capability]],
        folder,
        asked,
        prove=[] if own == texts.test[asked.capability] else [own],
        resume=resume,
        report=out / f"{asked.capability}.html",
        progress=progress,
    )
    begun.replace(noted)
    return report.as_dict()


def _holds(file: Path, key: Mapping[str, Any]) -> bool:
    """Whether a file says just this."""
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == key
