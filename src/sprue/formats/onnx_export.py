"""A network as an ONNX file that stock engines run, compared with the network before it counts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sprue.errors import InputError
from sprue.extras import needed
from sprue.formats.onnx_folding import fold_slices

OPSET = 20  # what engines of the last two years read
_EXAMPLES, _TOKENS = "examples", "tokens"
_TOLERANCE = 2e-3  # of the outputs' largest magnitude: engines add up in other orders


def to_onnx(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    names: Sequence[str],
    varying: Sequence[Sequence[int]],
    path: Path,
    check: Sequence[torch.Tensor] | None = None,
    *,
    folded: bool = False,
) -> None:
    """Write a network.

    Args:
        module: in eval mode; tensors by position to one tensor.
        example: of each argument; two examples where their number varies.
        names: of the arguments.
        varying: for each argument the dimensions that may have other sizes: 0 and 1.
        path: of the file to make.
        check: arguments of real examples, on which file and network have to agree; None: noise.
        folded: whether what one operator can do becomes one (`formats.onnx_folding`).

    Raises:
        InputError: an operator that ONNX lacks, or a file that answers otherwise than the network.
    """
    require()
    shapes = _shapes(varying) if any(varying) else None
    arguments = tuple(x.clone() for x in example)  # one tensor twice would be one argument
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=["output"],
                dynamic_shapes=_nested(module, shapes),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever the tracer or the translator stumbles over
        reason = _reason(error)
        raise InputError(f"the network cannot be exported to ONNX: {reason}") from error
    _strip(path, folded)
    _compare(module, arguments if check is None else tuple(check), names, path)


def require() -> Any:
    """The `onnx` package.

    Raises:
        InputError: it is not installed.
    """
    needed("onnxscript", "onnx", "writing .onnx files")
    return needed("onnx", "onnx", "writing .onnx files")


def _shapes(varying: Sequence[Sequence[int]]) -> tuple[dict[int, Any], ...]:
    dims = {0: torch.export.Dim(_EXAMPLES, min=1), 1: torch.export.Dim(_TOKENS, min=1)}
    return tuple({d: dims[d] for d in mine} for mine in varying)


def _nested(module: nn.Module, shapes: tuple[dict[int, Any], ...] | None) -> Any:
    """As `torch.export` wants them: arguments taken as *inputs are one argument."""
    import inspect

    if shapes is None:
        return None
    parameters = list(inspect.signature(module.forward).parameters.values())
    starred = len(parameters) == 1 and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
    return (shapes,) if starred else shapes


def _strip(path: Path, folded: bool) -> None:
    """Without the places in the source code that every node came from: a third of a small file."""
    onnx = require()
    model = onnx.load(path)
    if folded:
        fold_slices(model)
    del model.metadata_props[:]
    model.doc_string = ""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        for part in [*graph.node, *graph.value_info]:
            part.doc_string = ""
            del part.metadata_props[:]
    for part in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        part.doc_string = ""
        del part.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]  # engines find the shapes themselves
    path.write_bytes(model.SerializeToString())


def _compare(
    module: nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str], path: Path
) -> None:
    """Refuse a file that does not answer as the network does."""
    from onnxruntime import InferenceSession, SessionOptions

    generator = torch.Generator().manual_seed(0)
    inputs = [_noise(x, generator) for x in example]
    with torch.no_grad():
        expected = module(*inputs).numpy()
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    wanted = {i.name for i in session.get_inputs()}
    found = session.run(None, {n: x for n, x in given.items() if n in wanted})[0]
    reach = float(np.abs(expected).max()) or 1.0
    apart = float(np.abs(found - expected).max()) / reach
    if not apart <= _TOLERANCE:
        raise InputError(
            f"the exported network answers otherwise than the original: {apart:.1e} of the largest "
            f"output, where {_TOLERANCE:.0e} is allowed; this model cannot be exported"
        )


def _noise(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Something instead of an example of nothing but zeros."""
    if x.is_floating_point() and not x.any():
        return torch.randn(x.shape, generator=generator)
    return x


def _reason(error: BaseException) -> str:
    """The innermost cause, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks on every channel that there is."""
    logger = logging.getLogger("torch.onnx")
    level, told = logger.level, os.environ.get("TORCH_LOGS")
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if told is not None:
            os.environ["TORCH_LOGS"] = told
