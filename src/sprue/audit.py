"""The verb `audit`: where the fat of a network is, before anything is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprue import data as texts
from sprue import demo
from sprue.data.examples import Examples
from sprue.data.feed import read_examples
from sprue.errors import InputError
from sprue.models import nets
from sprue.models.factory import check_finite, is_factory
from sprue.models.locate import folder as located
from sprue.models.open_net import open_net
from sprue.models.speaker import Speaker
from sprue.outputs import check_writable
from sprue.plan import inspect as inspecting
from sprue.plan.look import Asked
from sprue.plan.weigh import weigh
from sprue.proof import load, machine
from sprue.proof.audit_report import AuditReport
from sprue.structure import gauges, matrices
from sprue.structure.findings import Findings

LANGUAGE = "causal-language-modeling"
_CLASSES = ("ForCausalLM", "LMHeadModel")
_CONTEXT = 256  # tokens of a window where a model allows more
_WORK = 5e11  # multiplications of a pass over all examples: a few minutes with all that it takes
_EXAMPLES = 32, 1024  # at least and at most


@dataclass(frozen=True)
class Subject:
    """A network to look at, and how its data is read.

    Attributes:
        model, weights, task, decoder, shape: as `models.open_net` takes them; a folder of a causal
            language model needs none of the others.
        data: a file or folder; None: of a language model the embedded text, of others none.
        preprocess, tokenizer, length: as `data.feed` takes them; of a language model `length` is
            the tokens of a window.
        examples: at most so many; None: as many as a few minutes allow.
    """

    model: str
    weights: Path | None = None
    task: str | None = None
    decoder: str | None = None
    shape: tuple[int, ...] | None = None
    data: Path | str | None = None
    preprocess: Path | None = None
    tokenizer: Path | None = None
    length: int | None = None
    examples: int | None = None


def audit(
    subject: Subject,
    *,
    error: float = 0.01,
    share: float = 1e-3,
    r2: float = 0.99,
    seed: int = 0,
    report: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> AuditReport:
    """Look at every layer of a network, and change nothing.

    Args:
        subject: model and data.
        error, share, r2: what counts as little, as `plan.inspect` takes them.
        seed: of everything random.
        report: write the page here.
        progress: called with a few words before every step.

    Raises:
        InputError: a model, data or share that cannot be used.
    """
    _check(error=error, share=share, r2=r2)
    check_writable(report)
    progress("the network")
    net, examples, files = opened(subject, seed)
    check_finite(dict(net.module.named_parameters()), subject.model)
    if examples is None:
        found = weigh(net, Asked(error, share, r2))
    else:
        found = _inspected(net, examples, Asked(error, share, r2), seed, progress)
    speaks = _is_language(subject)
    done = AuditReport(
        model=subject.model,
        task=LANGUAGE if speaks else net.task,
        data=files,
        fingerprint="" if examples is None else examples.fingerprint,
        findings=found,
        machine=machine.stamp(),
        tokens=net.length if speaks else None,
    )
    if report is not None:
        Path(report).write_text(done.html(), encoding="utf-8")
    return done


def _inspected(
    net: nets.Net,
    examples: Examples,
    asked: Asked,
    seed: int,
    progress: Callable[[str], object],
) -> Findings:
    try:
        return inspecting.inspect(
            net,
            examples,
            error=asked.error,
            share=asked.share,
            r2=asked.r2,
            seed=seed,
            progress=progress,
        )
    except ValueError as error:  # what it reads is no number, or is written over as it runs
        raise InputError(f"{net.source} cannot be looked at: {error}") from error


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise InputError(f"--{name} must be a share above 0 and below 1, got {value:g}")


def opened(subject: Subject, seed: int) -> tuple[nets.Net, Examples | None, tuple[str, ...]]:
    """The network, its examples (None: there are none), and the files that they come from."""
    if _is_language(subject):
        return _language(subject, seed)
    net = open_net(
        subject.model,
        weights=subject.weights,
        task=subject.task,
        decoder=subject.decoder,
        shape=subject.shape,
    )
    if subject.data is None:
        return net, None, ()
    count = subject.examples
    if count is None:
        sample = read_examples(net, subject.data, **_reading(subject), count=2, seed=seed)
        count = _affordable(net.module, sample)
    examples = read_examples(net, subject.data, **_reading(subject), count=count, seed=seed)
    return net, examples, (str(subject.data),)


def _reading(subject: Subject) -> dict[str, Any]:
    return {
        "preprocess": subject.preprocess,
        "length": subject.length,
        "tokenizer": subject.tokenizer,
    }


def _affordable(module: nn.Module, sample: Examples) -> int:
    """Examples that can be run through a network as often as it takes."""
    profiles = gauges.profile(module, tuple(x[:1] for x in sample.inputs))
    cost = sum(
        profile.positions * matrices.matrix(module.get_submodule(name)).numel()
        for name, profile in profiles.items()
        if not matrices.is_embedding(module.get_submodule(name))
    )
    low, high = _EXAMPLES
    return int(min(high, max(low, _WORK / max(cost, 1.0))))


def _is_language(subject: Subject) -> bool:
    """Whether a folder, or hub name, holds a causal language model."""
    name = subject.model
    if subject.task is not None or name.lower().endswith(".onnx") or is_factory(name):
        return False
    try:
        told = json.loads((located(name) / "config.json").read_text(encoding="utf-8"))
        names = told.get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(name).endswith(_CLASSES) for name in names)


def _language(subject: Subject, seed: int) -> tuple[nets.Net, Examples | None, tuple[str, ...]]:
    folder = located(subject.model)
    model = load.model(folder, "cpu")
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or _CONTEXT
    if subject.length is not None and subject.length > limit:
        raise InputError(f"the model takes at most {limit} tokens, {subject.length} were asked for")
    context = subject.length or min(limit, _CONTEXT)
    paths = [Path(subject.data)] if subject.data is not None else list(demo.calibration_files())
    tokenizer = load.tokenizer(subject.tokenizer or folder, subject.tokenizer or folder)
    documents = texts.read(paths)
    module = Speaker(model).eval()
    net = nets.Net(
        module=module,
        task=nets.TOKENS,  # logits for every token
        inputs=("input_ids",),
        example=(torch.zeros(2, min(context, 16), dtype=torch.int64),),
        source=folder,
        varying=((0, 1),),
        length=context,
    )
    sample = Examples((torch.zeros(1, context, dtype=torch.int64),), None, "")
    count = subject.examples or _affordable(module, sample)
    ids = texts.windows(tokenizer, documents, context, count, seed)
    if int(ids.max()) >= config.vocab_size:
        raise InputError(
            f"the tokenizer of {folder} gives token {int(ids.max())}, its model has "
            f"{config.vocab_size}: the folder holds the tokenizer of another model"
        )
    examples = Examples((ids,), None, texts.fingerprint(paths))
    return net, examples, tuple(str(path) for path in paths)
