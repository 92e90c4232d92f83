"""`compress --target` and `verify` of networks for a terminal: what they share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sprue import cli_common
from sprue.errors import InputError

TARGETS = ("onnxruntime", "openvino", "dense")
_TASKS = (
    "image-classification",
    "text-classification",
    "token-classification",
    "question-answering",
    "sentence-embeddings",
    "object-detection",
)
_CLASSES = (
    *("ForImageClassification", "ForSequenceClassification", "ForTokenClassification"),
    *("ForQuestionAnswering", "ForObjectDetection", "BertModel", "MPNetModel", "RobertaModel"),
    *("DistilBertModel", "XLMRobertaModel", "AlbertModel", "ElectraModel", "NomicBertModel"),
)
_DECODERS = ("yolox", "yolov5", "yolov8", "detr")
_DEFAULT_KEEP = 0.99
NOT_MET = 1


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare how a network that is no language model is opened, and its data read."""
    group = parser.add_argument_group("networks: classifiers, encoders, detectors")
    add = group.add_argument
    add(
        "--weights",
        metavar="FILE",
        type=Path,
        help="safetensors, where the model is written package.module:factory",
    )
    add("--task", choices=_TASKS, help="what the network is for (default: what its files say)")
    add("--decoder", choices=_DECODERS, help="how a detector's output is read")
    add(
        "--input",
        metavar="CxHxW",
        dest="shape",
        type=_shape,
        help="one example of a factory's input, such as 3x32x32 (default: 3x224x224)",
    )
    add(
        "--preprocess",
        metavar="FILE",
        type=Path,
        help="YAML with size, mean, std, color ... of images (default: one beside the data, then "
        "what the model's files say)",
    )
    add("--tokenizer", metavar="DIR", type=Path, help="of texts, where the model has none")
    add(
        "--tokens",
        metavar="N",
        dest="length",
        type=cli_common.at_least(2, "a whole number of tokens"),
        help="that texts are cut to (default: what the model allows, up to 128)",
    )
    add(
        "--threads",
        metavar="N",
        type=cli_common.at_least(1, "a whole number of threads"),
        default=1,
        help="of the engine (default: %(default)s)",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare what a network can be compressed to."""
    group = parser.add_argument_group("networks: what for, and within which budget")
    add = group.add_argument
    add(
        "--target",
        choices=TARGETS,
        help="the engine that runs the result, searched and measured on this machine; dense: "
        "float32 for any",
    )
    for name, what in (("latency", "time of one example"), ("energy", "energy of one example")):
        add(
            f"--{name}",
            metavar="SHARE",
            type=cli_common.share,
            help=f"{what}, as a share of the original's, at most",
        )
    add(
        "--tune",
        metavar="MINUTES",
        type=cli_common.minutes,
        help="train what was cut to answer as the original does, and right where labels are known, "
        "for so long at most",
    )
    add(
        "--no-labels",
        dest="labels",
        action="store_false",
        help="train by the original's answers alone, whatever the examples say is true",
    )
    add(
        "--portable",
        action="store_true",
        default=None,
        help="8-bit weights that no processor without VNNI adds up wrongly (default: where this "
        "processor is one)",
    )
    add(
        "--examples",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of examples"),
        help="to calibrate on (default: as many as take a minute or two)",
    )
    add("--report", metavar="FILE", type=Path, help="write a report in one HTML file")


def is_network(model: str) -> bool:
    """Whether a model is one of these networks, by its name or its config."""
    from sprue.models.factory import is_factory

    path = Path(model)
    if model.lower().endswith(".onnx") or (is_factory(model) and not path.exists()):
        return True
    if not (path / "config.json").is_file():
        return False
    import json

    try:
        told = json.loads((path / "config.json").read_text(encoding="utf-8"))
        names = told.get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(name).endswith(_CLASSES) for name in names)


def given(args: argparse.Namespace, model: str) -> Any:
    """Model and data, as `degate` takes them."""
    from sprue.degate import Given

    return Given(
        model=model,
        weights=args.weights,
        task=args.task,
        decoder=args.decoder,
        shape=args.shape,
        calibrate=_one(getattr(args, "calibrate", []), "--calibrate"),
        data=_one(args.data, "--data"),
        preprocess=args.preprocess,
        tokenizer=args.tokenizer,
        length=args.length,
        examples=getattr(args, "examples", None),
    )


def compress(args: argparse.Namespace) -> int:
    """Run `compress --target`; returns the exit code."""
    _refuse(args, ("bits", "recipe", "preset", "sparsity", "pattern"))
    if args.target is None:
        raise InputError(
            f"{args.model} is no language model: state what it is for with "
            f"--target {'|'.join(TARGETS)}"
        )
    from sprue.degate import Asked, degate
    from sprue.degating.picks import Limits

    asked = Asked(
        target=args.target,
        keep=_DEFAULT_KEEP if args.keep is None else args.keep,
        limits=Limits(args.latency, None, args.energy),
        size=args.size,
        flops=args.flops,
        minutes=args.tune or 0.0,
        labels=args.labels,
        portable=args.portable,
        threads=args.threads,
        seed=args.seed or 0,
    )
    with cli_common.steps(not args.quiet) as progress:
        report = degate(
            given(args, args.model),
            args.out,
            asked,
            resume=args.resume,
            report=args.report,
            progress=progress,
        )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0 if report.passed else NOT_MET


def verify(args: argparse.Namespace) -> int:
    """Run `verify` for a network; returns the exit code."""
    from sprue.verify_network import verify_network

    with cli_common.steps(not args.quiet) as progress:
        report = verify_network(
            given(args, args.original),
            args.result,
            keep=args.keep,
            threads=args.threads,
            seed=args.seed,
            report=args.report,
            progress=progress,
        )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0 if report.passed else NOT_MET


def _refuse(args: argparse.Namespace, names: Sequence[str]) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name} is for language models; a network takes --keep, --latency, "
                "--size, --energy and --flops"
            )


def _one(paths: Sequence[Path], option: str) -> Path | None:
    if len(paths) > 1:
        raise InputError(f"a network takes one file or folder with {option}, got {len(paths)}")
    return paths[0] if paths else None


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected numbers such as 3x32x32, got {text!r}")
    return tuple(int(part) for part in parts)
