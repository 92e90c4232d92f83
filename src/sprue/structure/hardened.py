"""SiLU replaced by HardSwish, which costs engines a fraction of it, and what this breaks repaired.

x sigmoid(x) becomes x clip(x / 6 + 1/2, 0, 1) (Howard et al. 2019, arXiv:1905.02244, section 5.2).
Engines compute activations in float32 even where all products have 8 bits, and a sigmoid is an
exponential: of a small detector in 8 bits it takes nearly half of the time. Once replaced, each
layer is fitted to what it gave before (`structure.adapt`), which brings most of it back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from sprue.formats.onnx_import import OnnxModule
from sprue.structure.adapt import Adapter, fittable


def hardened(
    model: nn.Module,
    batches: Sequence[tuple[Any, ...]],
    progress: Callable[[], None] = lambda: None,
) -> nn.Module:
    """A copy with HardSwish in the place of every SiLU, repaired.

    Args:
        model: in eval mode; stays.
        batches: arguments of it, all of one shape, to repair by.
        progress: called after every layer.

    Raises:
        ValueError: a model that has no graph.
    """
    other = copy.deepcopy(model)
    _replace(other)
    layers = [name for name, module in other.named_modules() if fittable(module)]
    Adapter(model, other, batches, progress=progress).run(layers)
    return other


def silus(model: nn.Module) -> int:
    """How many modules of a model are SiLU; what a forward calls as a function is not seen."""
    count = 0
    for module in model.modules():
        count += module.silus if isinstance(module, OnnxModule) else _is_silu(module)
    return count


def _replace(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, OnnxModule):
            module.harden()
        for name, child in module.named_children():
            if _is_silu(child):
                setattr(module, name, nn.Hardswish(inplace=getattr(child, "inplace", False)))


def _is_silu(module: nn.Module) -> bool:
    """Of torch, or of `transformers`, which is not imported for it."""
    return isinstance(module, nn.SiLU) or type(module).__name__ == "SiLUActivation"
