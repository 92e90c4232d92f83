"""A network that code of the user builds, and the safetensors file with its weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import tensorfile

_COUNTERS = "num_batches_tracked"  # of a norm: no output depends on it
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}


def is_factory(model: str) -> bool:
    """Whether this is written as package.module:factory."""
    module, colon, name = model.partition(":")
    parts = module.split(".")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in parts)


def built(model: str, weights: Path | None) -> nn.Module:
    """What the factory returns, in eval mode, with the weights of a file.

    Args:
        model: package.module:factory; modules are also looked for in the current folder. The
            factory is called without arguments.
        weights: a safetensors file with exactly the tensors of the network.

    Raises:
        InputError: no such module or factory, one that fails, or weights that do not fit.
    """
    factory = _factory(model)
    with torch.random.fork_rng(devices=[]):  # the code of others may draw its initial weights
        try:
            module = factory()
        except Exception as error:
            raise InputError(f"{model}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{model}() returned a {type(module).__name__}; expected a torch.nn.Module"
        )
    if weights is not None:
        load(module, read_weights(weights), str(weights))
    return module.float().eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floats as float32.

    Raises:
        InputError: no such file, a pickle, a damaged file, NaN or Inf.
    """
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is loaded: convert it with "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    if not path.is_file():
        raise InputError(f"no such file: {path}; expected a safetensors file with the weights")
    tensorfile.read_header(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    check_finite(found, str(path))
    return {n: t.float() if t.is_floating_point() else t for n, t in found.items()}


def load(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a network these weights.

    Raises:
        InputError: tensors that are missing, not of this network, or of other shapes.
    """
    mine = module.state_dict()
    missing = [name for name in mine if name not in tensors and not name.endswith(_COUNTERS)]
    unknown = [name for name in tensors if name not in mine]
    for names, what in ((missing, "lacks"), (unknown, "has, and the network does not,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{source} {what} {names[0]}{more}: it is of another network")
    for name, tensor in tensors.items():
        if tensor.shape != mine[name].shape:
            raise InputError(
                f"{name} in {source} has the shape {list(tensor.shape)}; the network expects "
                f"{list(mine[name].shape)}"
            )
    module.load_state_dict(dict(tensors), strict=False)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        InputError: NaN or Inf among them.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} in {source} holds NaN or Inf: the file is damaged")


def _factory(model: str) -> Callable[[], object]:
    module, _, name = model.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{model}: no module named {error.name!r}; it is looked for in the current folder and "
            "among the installed packages"
        ) from error
    except Exception as error:
        raise InputError(f"importing {module} failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InputError(f"{module} has no factory {name!r}: expected a function without arguments")
    factory: Callable[[], object] = found
    return factory
