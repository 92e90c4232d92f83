"""Stock engines that run a network from a file: ONNX Runtime and OpenVINO.

Both compute in float32 what is not quantized, also on processors that could take bfloat16, so that
an original and its result are compared with nothing but their files apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.extras import missing

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
ENGINES = (ONNXRUNTIME, OPENVINO)
_ENDINGS = {".onnx": ONNXRUNTIME, ".xml": OPENVINO}
_EXTRAS = {ONNXRUNTIME: "onnx", OPENVINO: "openvino"}


class Session(Protocol):
    """A network that an engine has loaded."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Its first output, [examples, ...], for arguments in the order of `names`."""


def engine_of(path: Path) -> str:
    """The engine that a file is for.

    Raises:
        InputError: for none that is known.
    """
    engine = _ENDINGS.get(path.suffix.lower())
    if engine is None:
        raise InputError(f"{path} is for no known engine: expected {' or '.join(_ENDINGS)}")
    return engine


def open_session(
    path: Path,
    names: Sequence[str],
    *,
    engine: str | None = None,
    threads: int = 1,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Session:
    """Load a network.

    Args:
        path: .onnx, which both engines run, or .xml, which is OpenVINO's.
        names: of the arguments, in the order in which they will be given.
        engine: one of ENGINES; None: the one that the file's ending says.
        threads: of the engine.
        shapes: of the arguments, when they never change: OpenVINO plans for them.

    Raises:
        InputError: the engine is not installed, or does not take the file.
    """
    engine = engine or engine_of(path)
    try:
        if engine == OPENVINO:
            return _OpenVino(path, names, threads, shapes)
        return _OnnxRuntime(path, names, threads)
    except ImportError as error:
        raise missing(error.name or engine, _EXTRAS[engine], f"running {path}") from error
    except Exception as error:  # each engine has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{engine} cannot run {path}: {reason}") from error


def version(engine: str) -> str:
    """Of an engine that is installed."""
    import importlib.metadata

    return importlib.metadata.version(engine)


class _OnnxRuntime:
    def __init__(self, path: Path, names: Sequence[str], threads: int) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a spinning thread would take the core that the other model of a pair is timed on
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        known = {i.name for i in self._session.get_inputs()}
        self._names = [(i, name) for i, name in enumerate(names) if name in known]

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        found = self._session.run(None, {name: inputs[i] for i, name in self._names})[0]
        return np.asarray(found, np.float32)


class _OpenVino:
    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        threads: int,
        shapes: Sequence[Sequence[int]] | None,
    ) -> None:
        core = core_of_openvino()
        model = core.read_model(str(path))
        known = {name: port for port in model.inputs for name in port.get_names()}
        self._names = [(i, name) for i, name in enumerate(names) if name in known]
        if shapes is not None:
            model.reshape({known[name]: list(shapes[i]) for i, name in self._names})
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        found = self._request.infer({name: inputs[i] for i, name in self._names})[0]
        return np.array(found, np.float32)


def core_of_openvino() -> Any:
    """OpenVINO's core."""
    with unreported():
        import openvino

    return openvino.Core()


@contextmanager
def unreported() -> Iterator[None]:
    """Within a `with`: OpenVINO and NNCF may be imported; alone they would report that, unasked."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"  # what their reporting looks at
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
