"""The model's own classes without weights: every parameter on the meta device."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprue.errors import InputError


def configure(folder: Path) -> Any:
    """The `transformers` config of a folder with a config.json; no remote code.

    Raises:
        InputError: values that the architecture's config class refuses.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each config class raises its own kinds
        raise InputError(f"{folder / 'config.json'} cannot be used: {_line(error)}") from error


def skeleton(config: Any) -> Any:
    """The causal language model of `config`, float32, eval, all parameters on meta.

    `config` is copied: nothing that is done to the skeleton shows in it.

    Raises:
        InputError: the configuration describes no model that can be built.
    """
    from transformers import AutoModelForCausalLM

    own = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                own, dtype=torch.float32, trust_remote_code=False
            )
    except Exception as error:  # model classes check with whatever comes to hand
        raise InputError(f"config.json describes no usable model: {_line(error)}") from error
    return model.eval().requires_grad_(False)


def is_tied(model: Any) -> bool:
    """Whether the head of a skeleton is the embedding's matrix."""
    return head(model).weight is embedding(model).weight


def embedding(model: Any) -> nn.Embedding:
    """The token embedding."""
    module: nn.Embedding = model.get_input_embeddings()
    return module


def head(model: Any) -> nn.Linear:
    """The output layer."""
    module: nn.Linear = model.get_output_embeddings()
    return module


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}"
