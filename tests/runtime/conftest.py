"""Tiny random models and artifacts made of them by hand."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from sprue.runtime import quantization_config
from sprue.weights import factors, packed
from sprue.weights.grids import integer, raw

VOCABULARY, WIDTH = 99, 32

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
}
_CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**_SHAPE, attention_bias=True),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=4
    ),
    "gemma2": lambda: transformers.Gemma2Config(**_SHAPE, query_pre_attn_scalar=8),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=56,
        max_position_embeddings=64,
    ),
}
Made = tuple[Path, Any, dict[str, packed.Packed]]


@pytest.fixture(scope="session")
def hand_made() -> SimpleNamespace:
    """The functions below."""
    return SimpleNamespace(model=model, substituted=substituted)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Made]:
    """(folder, the model, its packed modules), made once for each family."""
    made: dict[tuple[str, bool], Made] = {}

    def once(family: str, tied: bool) -> Made:
        if (family, tied) not in made:
            of_class = model(family, tied)
            modules = packed_modules(of_class, tied)
            folder = tmp_path_factory.mktemp(family) / "artifact"
            artifact(folder, of_class, modules, tied)
            made[family, tied] = folder, of_class, modules
        return made[family, tied]

    return once


def model(family: str, tied: bool, seed: int = 0) -> Any:
    """A random model of the real class, float32; its biases count, and its logits are near 1."""
    config = _CONFIGS[family]()
    config.tie_word_embeddings = tied
    config.bos_token_id = config.eos_token_id = 0
    config.pad_token_id = None
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            else:
                parameter *= 5
    return made


def packed_modules(made: Any, tied: bool) -> dict[str, packed.Packed]:
    """Every linear and embedding of `made`, packed in turn on each kind of grid."""
    modules, turn = {}, 0
    for name, module in made.named_modules():
        head = module is made.get_output_embeddings()
        if isinstance(module, nn.Embedding) or (head and not tied):
            stored = integer.round_to_nearest(module.weight.detach(), 8, None, True)
        elif isinstance(module, nn.Linear | Conv1D) and not head:
            weight = module.weight.detach()
            stored = _packed(weight.T if isinstance(module, Conv1D) else weight, turn)
            turn += 1
        else:
            continue
        shape = tuple(stored[0]["shape"])
        modules[name] = packed.Packed((shape[0], shape[1]), *stored, 0.0)
    return modules


def _packed(W: torch.Tensor, turn: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if turn % 4 == 0:
        return raw.pack(W.to(torch.bfloat16))
    if turn % 4 == 1:
        return integer.round_to_nearest(W, 3, None, False)
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    L, R = U[:, :4] * S[:4].sqrt(), S[:4, None].sqrt() * V[:4]
    if turn % 4 == 2:
        grid = integer.round_to_nearest(W - L @ R, 4, 16, True)
        return factors.attach(*grid, L, R, 8)
    return factors.attach({"grid": "none", "shape": list(W.shape)}, {}, L, R, 16)


def substituted(made: Any, modules: dict[str, packed.Packed]) -> Any:
    """`made` with the dense W^ in the place of every packed matrix."""
    dense = copy.deepcopy(made)
    for name, stored in modules.items():
        module = dense.get_submodule(name)
        W = packed.dense(stored.meta, stored.tensors)
        with torch.no_grad():
            module.weight.copy_(W.T if isinstance(module, Conv1D) else W)
    return dense


def artifact(folder: Path, made: Any, modules: dict[str, packed.Packed], tied: bool) -> None:
    """Two shards with an index, config.json and sprue.json, as the real writer leaves them."""
    folder.mkdir()
    head = [] if not tied else ["lm_head"]
    tensors = {
        name: tensor.contiguous()
        for name, tensor in made.state_dict().items()
        if name.rpartition(".")[0] not in (*head, *modules) or name.endswith(".bias")
    }
    for name, stored in modules.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in stored.tensors.items()}
    names = sorted(tensors)
    shards = {"model-a.safetensors": names[::2], "model-b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({k: tensors[k] for k in keys}, folder / shard, metadata={"format": "pt"})
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = made.config.to_dict() | {
        "architectures": [type(made).__name__],
        "quantization_config": quantization_config(
            {name: packed.layout(stored) for name, stored in modules.items()}
        ),
    }
    (folder / "config.json").write_text(json.dumps(config))
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    (folder / "sprue.json").write_text(json.dumps({"sprue": "0.1.0", "files": files}))
