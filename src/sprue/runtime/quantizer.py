"""The quantizer by which `AutoModelForCausalLM.from_pretrained(DIR)` loads an artifact.

transformers builds the model without memory (on the meta device), this quantizer puts packed
modules in the place of the listed ones, and transformers loads their buffers by name. Before that,
every file is compared with its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sprue.errors import ArtifactError
from sprue.runtime import artifact
from sprue.runtime.experts import like
from sprue.runtime.linear import Layout, PackedEmbedding, PackedLinear, TiedLinear


@register_quantization_config(artifact.METHOD)
class SprueConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """config.json's "quantization_config"; `artifact.quantization_config` makes it.

    It takes whatever it is given, so that a damaged file is reported as such and not as a
    missing argument.
    """

    def __init__(
        self,
        modules: Mapping[str, Layout] | None = None,
        version: int | None = None,
        experts: Mapping[str, Layout] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = artifact.METHOD
        self.version = version
        self.modules = modules
        self.experts = experts

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        return artifact.quantization_config(self.modules or {}, self.experts)


@register_quantizer(artifact.METHOD)
class SprueQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed modules into a model before its weights are loaded."""

    quantization_config: SprueConfig

    def __init__(self, quantization_config: SprueConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise ArtifactError(
                "sprue loads models that are compressed already; run 'sprue compress' on this one"
            )

    def update_attn_implementation(self, config: Any) -> Any:
        """The one moment at which the config is seen before the model's dtype is chosen.

        Where the config names none, transformers would take that of the first floating tensor it
        meets, which may be a float16 scale of ours.
        """
        if getattr(config, "dtype", None) is None:
            config.dtype = torch.float32
        return config

    def _process_model_before_weight_loading(
        self, model: nn.Module, *, checkpoint_files: list[str] | None, **_: Any
    ) -> None:
        # The first moment at which the folder is known; no memory was taken for the model yet.
        # There are no files where the caller gave a state dict. The argument has no default: a
        # transformers that does not pass it must fail rather than load without the check.
        if checkpoint_files:
            artifact.check(Path(checkpoint_files[0]).parent)
        config = self.quantization_config
        if config.version != artifact.VERSION or not (config.modules or config.experts):
            raise ArtifactError(
                f"config.json: expected version {artifact.VERSION} of the packed format and a "
                f"list of modules, received version {config.version}. Update sprue, or compress "
                "the model again."
            )
        replace_experts(model, config.experts or {})
        replace(model, config.modules or {})

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        own = _is_own_class(model)
        for name, module in model.named_modules():
            stored = module.tensors if isinstance(module, PackedLinear | PackedEmbedding) else {}
            rest = dict(module.named_parameters(recurse=False)) if own else {}
            for key, tensor in {**stored, **rest}.items():
                # transformers marks what it loaded, and fills what it did not with random values.
                if tensor.device.type != "meta" and not hasattr(tensor, "_is_hf_initialized"):
                    raise ArtifactError(
                        f"tensor {name}.{key} is in none of the safetensors files. Compress the "
                        "model again."
                    )
        return model

    def is_serializable(self, **_: Any) -> bool:
        """`save_pretrained` works; `sprue.runtime.seal` then lists the new files' hashes."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters can be trained: gradients pass through packed modules to their inputs."""
        return True


def replace_experts(model: nn.Module, experts: Mapping[str, Layout]) -> None:
    """Puts experts (uninitialized, on the meta device) in the place of the listed layers.

    Raises:
        ArtifactError: the model has no such layer, or one of another kind.
    """
    for listed, layout in experts.items():
        name = _name_in(model, listed)
        if name is None:
            continue
        old = model.get_submodule(name)
        dtype = next((p.dtype for p in old.parameters()), torch.float32)
        _set(model, name, like(old, layout, dtype))


def replace(model: nn.Module, modules: Mapping[str, Layout]) -> None:
    """Puts packed modules (uninitialized, on the meta device) in the place of the listed ones.

    A head that is tied to a packed embedding and not listed then multiplies with the embedding's
    tensors. `model` is a transformers model, changed in place.

    Raises:
        ArtifactError: the model has no such module, or one of another shape.
    """
    done: dict[str, str] = {}
    for listed, layout in modules.items():
        name = _name_in(model, listed)
        if name is not None:
            _set(model, name, _packed_for(listed, model.get_submodule(name), layout))
            done[name] = listed
    _tie(model, set(done))


def _name_in(model: nn.Module, listed: str) -> str | None:
    """The name of a listed module in this model; None where another class lacks it (a head)."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    present = {name for name, _ in model.named_modules()}
    for name in (listed, listed.removeprefix(prefix), prefix + listed):
        if name in present:
            return name
    if _is_own_class(model):
        raise ArtifactError(
            f"config.json lists module {listed!r}, which {type(model).__name__} does not have. "
            "Compress the model again with this version of transformers."
        )
    return None


def _is_own_class(model: nn.Module) -> bool:
    """Whether the model is of the class that was compressed, not a part or a variant of it."""
    return type(model).__name__ in (getattr(model.config, "architectures", None) or ())


def _packed_for(name: str, old: nn.Module, layout: Layout) -> nn.Module:
    weight = getattr(old, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise ArtifactError(f"config.json lists {name!r}, which is no linear and no embedding")
    shape = list(weight.T.shape if isinstance(old, Conv1D) else weight.shape)
    if shape != list(layout["shape"]):
        raise ArtifactError(
            f"config.json lists {name!r} with shape {list(layout['shape'])}; the model has {shape}"
        )
    with torch.device("meta"):
        if isinstance(old, nn.Embedding):
            return PackedEmbedding.like(old, layout)
        bias = getattr(old, "bias", None) is not None
        return PackedLinear(layout, bias, dtype=weight.dtype)


def _tie(model: nn.Module, done: set[str]) -> None:
    """Takes ties of packed modules out of the model's own list, which is one of parameters."""
    ties = cast(dict[str, str], model.all_tied_weights_keys)
    for target, source in list(ties.items()):
        head, embedding = (key.removesuffix(".weight") for key in (target, source))
        if not done & {head, embedding}:
            continue
        del ties[target]
        if head in done:
            continue  # a matrix of its own
        old, new = model.get_submodule(head), model.get_submodule(embedding)
        if not isinstance(old, nn.Linear) or not isinstance(new, PackedEmbedding):
            raise ArtifactError(
                f"{head!r} is tied to {embedding!r}, which is packed: expected a linear tied to an "
                f"embedding. Compress the model again, with {head!r} listed."
            )
        _set(model, head, TiedLinear(new, old.bias))
    _forget_ties(model)


def _forget_ties(model: nn.Module) -> None:
    """Keeps `tie_weights`, which makes the list anew, from finding the ties of packed modules."""
    for name, module in model.named_modules():
        declared = getattr(module, "_tied_weights_keys", None)
        if isinstance(declared, Mapping):
            prefix = f"{name}." if name else ""
            module._tied_weights_keys = {
                target: source
                for target, source in declared.items()
                if not _is_packed(model, prefix + target) and not _is_packed(model, prefix + source)
            }


def _is_packed(model: nn.Module, key: str) -> bool:
    module: nn.Module | None = model
    for part in key.removesuffix(".weight").split("."):
        module = module._modules.get(part) if module is not None else None
    return isinstance(module, PackedLinear | PackedEmbedding | TiedLinear)


def _set(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, local = name.rpartition(".")
    setattr(model.get_submodule(parent), local, new)
