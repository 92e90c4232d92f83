"""Whatever a user names as a network: a folder, an ONNX file, or a factory in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sprue.errors import InputError
from sprue.models import nets
from sprue.models.factory import built, is_factory
from sprue.models.locate import folder
from sprue.models.wired import open_folder

DECODERS = ("yolox", "yolov5", "yolov8", "detr")


def open_net(
    model: str | Path,
    *,
    weights: Path | None = None,
    task: str | None = None,
    decoder: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> nets.Net:
    """Open a network.

    Args:
        model: a Hugging Face folder or hub name, an .onnx file, or package.module:factory.
        weights: safetensors for a factory.
        task: one of `nets.TASKS`; None: what the model itself says, else image classification.
        decoder: of a detector, one of DECODERS; None: what its outputs look like.
        shape: of one example of a factory's input, such as (3, 32, 32).

    Raises:
        InputError: what cannot be opened, and why.
    """
    if task is not None and task not in nets.TASKS:
        raise InputError(f"expected a task among {', '.join(nets.TASKS)}, got {task!r}")
    if decoder is not None and decoder not in DECODERS:
        raise InputError(f"expected a decoder among {', '.join(DECODERS)}, got {decoder!r}")
    name = str(model)
    if is_factory(name) and not Path(name).exists():
        return _of_factory(name, weights, task or nets.IMAGES, decoder, shape)
    if weights is not None:
        raise InputError(f"--weights belongs to package.module:factory, and {name} is none")
    if name.lower().endswith(".onnx"):
        return _of_onnx(Path(name), task, decoder)
    return open_folder(folder(name), task)


def _of_factory(
    model: str,
    weights: Path | None,
    task: str,
    decoder: str | None,
    shape: tuple[int, ...] | None,
) -> nets.Net:
    if task not in (nets.IMAGES, nets.BOXES):
        raise InputError(f"a factory can be opened for {nets.IMAGES} or {nets.BOXES}, not {task}")
    if weights is None:
        raise InputError(f"{model} needs its weights: add --weights FILE.safetensors")
    if task == nets.BOXES and decoder is None:
        raise InputError(f"say how the outputs of {model} are read: --decoder {'|'.join(DECODERS)}")
    return nets.Net(
        module=built(model, weights),
        task=task,
        inputs=("x",),
        example=(torch.zeros(2, *(shape or (3, 224, 224))),),
        source=weights,
        varying=((0,),),
        decoder=decoder,
    )


def _of_onnx(path: Path, task: str | None, decoder: str | None) -> nets.Net:
    from sprue.formats.onnx_import import read_onnx

    module = read_onnx(path)
    example = _examples(module, path)
    with torch.no_grad():
        outputs = module(*example)
    if not isinstance(outputs, torch.Tensor):
        raise InputError(
            f"{path} has {len(outputs)} outputs ({', '.join(module.output_names)}); export the one "
            "that the task reads"
        )
    found = task or _task_of(example, outputs, path)
    return nets.Net(
        module=module,
        task=found,
        inputs=tuple(module.input_names),
        example=example,
        source=path,
        varying=_varying(module, example),
        decoder=decoder
        or (_decoder_of(example[0], outputs, path) if found == nets.BOXES else None),
        length=example[0].shape[1] if not example[0].is_floating_point() else None,
    )


def _examples(module: Any, path: Path) -> tuple[torch.Tensor, ...]:
    """Zeros of the shapes that the file says."""
    batch = 1 if module.fixed_batch else 2
    found = []
    for name, shape, dtype in zip(
        module.input_names, module.input_shapes, module.input_dtypes, strict=True
    ):
        if not shape:
            raise InputError(f"the input {name} of {path} has no dimensions; expected examples")
        default = 224 if len(shape) == 4 else 16
        rest = [
            n or (3 if len(shape) == 4 and i == 0 else default) for i, n in enumerate(shape[1:])
        ]
        found.append(torch.zeros(batch, *rest, dtype=dtype))
    return tuple(found)


def _varying(module: Any, example: tuple[torch.Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    found = []
    for shape, x in zip(module.input_shapes, example, strict=True):
        tokens = not x.is_floating_point() and len(shape) == 2 and shape[1] is None
        first = () if module.fixed_batch else (0,)
        found.append((*first, 1) if tokens else first)
    return tuple(found)


def _task_of(example: tuple[torch.Tensor, ...], outputs: torch.Tensor, path: Path) -> str:
    if example[0].dim() == 4 and outputs.dim() == 2:
        return nets.IMAGES
    if example[0].dim() == 4 and outputs.dim() == 3:
        return nets.BOXES
    if not example[0].is_floating_point() and outputs.dim() == 2:
        return nets.TEXTS
    raise InputError(
        f"what {path} is for cannot be told from its shapes ({list(example[0].shape)} to "
        f"{list(outputs.shape)}): state --task, one of {', '.join(nets.TASKS)}"
    )


def _decoder_of(example: torch.Tensor, outputs: torch.Tensor, path: Path) -> str:
    """Told by how many anchors there are for an image of this size."""
    _, a, b = outputs.shape
    height, width = example.shape[-2:]
    cells = sum(-(-height // s) * -(-width // s) for s in (8, 16, 32))
    known = {(a, 1): "yolox", (a, 3): "yolov5", (b, 1): "yolov8"}
    for (anchors, each), decoder in known.items():
        if anchors == each * cells:
            return decoder
    raise InputError(
        f"{path} gives {a} rows of {b} numbers: say how they are read, with "
        f"--decoder {'|'.join(DECODERS)}"
    )
