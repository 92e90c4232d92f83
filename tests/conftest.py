"""What every test shares: one thread, no network, the embedded model, tiny random ones."""

from __future__ import annotations

import os
import random
import shutil

# Before torch is imported, which reads them once. Two processes with two threads each stall one
# another on two cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue import demo

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def base6m() -> Path:
    """The embedded model's folder."""
    return demo.model_path()


# Tiny random instances of the real classes: a few blocks, all their peculiarities.
VOCABULARY, CONTEXT = 96, 24


def _llama_like(**changes: Any) -> dict[str, Any]:
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return fields | changes


TINY: dict[str, dict[str, Any]] = {
    "llama": _llama_like(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-rope3": _llama_like(
        model_type="llama",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "mistral": _llama_like(sliding_window=8),
    "ministral": _llama_like(
        head_dim=16,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "qwen2": _llama_like(use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": _llama_like(head_dim=16, tie_word_embeddings=True),
    "gemma": _llama_like(head_dim=16),
    "gemma2": _llama_like(head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3_text": _llama_like(
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi": _llama_like(num_key_value_heads=4, partial_rotary_factor=0.5, qk_layernorm=True),
    "phi3": _llama_like(sliding_window=8),
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": _llama_like(rotary_pct=0.25),
    "gpt_neox-serial": _llama_like(model_type="gpt_neox", use_parallel_residual=False),
    "opt": _llama_like(ffn_dim=48),
    "opt-narrow": _llama_like(
        model_type="opt", ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "stablelm": _llama_like(use_qkv_bias=True, partial_rotary_factor=0.25),
    "stablelm-parallel": _llama_like(
        model_type="stablelm", use_parallel_residual=True, qk_layernorm=True
    ),
    "olmo2": _llama_like(),
    "granite": _llama_like(
        embedding_multiplier=3.0,
        logits_scaling=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        tie_word_embeddings=True,
    ),
    "smollm3": _llama_like(no_rope_layers=[1, 0, 1]),
}

# Models of experts, which drop some of them; no other command takes them.
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _llama_like(num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": _llama_like(
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=16,
        mlp_only_layers=[1],
    ),
    "qwen3_moe": _llama_like(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8
    ),
    "olmoe": _llama_like(num_experts=4, num_experts_per_tok=2),
}


def config_of(name: str, **changes: Any) -> Any:
    """The `transformers` config of a tiny model."""
    from transformers import AutoConfig

    fields = (TINY | MIXTURES)[name] | changes
    return AutoConfig.for_model(fields.pop("model_type", name), **fields)


def build(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny model with weights large enough that every part shows in the output."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config_of(name, **changes), dtype=dtype)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `tiny`, or `mixture`, runs once for every tiny model of the kind."""
    if "tiny" in metafunc.fixturenames:
        metafunc.parametrize("tiny", TINY)
    if "mixture" in metafunc.fixturenames:
        metafunc.parametrize("mixture", MIXTURES)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """name -> a saved tiny model; read only, shared by all tests."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def make(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            path = tmp_path_factory.mktemp(name)
            build(name, dtype).save_pretrained(path)
            made[name, dtype] = path
        return made[name, dtype]

    return make


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    """Five windows of token ids."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(VOCABULARY, (5, CONTEXT), generator=generator)


@pytest.fixture(scope="session")
def tiny_types() -> set[str]:
    """The `model_type` of every tiny model."""
    return {config_of(name).model_type for name in TINY}


# Models that can be compressed need a tokenizer, and text to be calibrated on.
ALPHABET = 259  # 256 bytes and three special tokens
_WORDS = (
    "the court shall have power to hear a model of the weight that was lost in return for all "
    "self def class import value is not and or with on by from it as be which this no"
)


def _speak(path: Path) -> None:
    """Put a byte-level tokenizer beside a model: a token for every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    ).save_pretrained(path)


@pytest.fixture(scope="session")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """name, dtype, changes -> a saved tiny model with a tokenizer; read only, shared."""
    made: dict[str, Path] = {}

    def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        key = f"{name} {dtype} {sorted(changes.items())}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            build(name, dtype, **{"vocab_size": ALPHABET} | changes).save_pretrained(made[key])
            _speak(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """seed -> a text file of a few thousand words; another seed, another text."""
    folder = tmp_path_factory.mktemp("corpus")

    def make(seed: int = 0) -> Path:
        path = folder / f"text{seed}.txt"
        if not path.exists():
            drawn = random.Random(seed).choices(_WORDS.split(), k=2000)
            path.write_text(" ".join(drawn), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def taught(
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """dtype -> a tiny model that knows the corpus a little; read only, shared.

    What is cut out of one that knows nothing is not missed.
    """
    made: dict[torch.dtype, Path] = {}

    def make(dtype: torch.dtype = torch.float32) -> Path:
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp("taught") / "model"
            shutil.copytree(speaking("llama", num_hidden_layers=2), made[dtype])
            _teach(made[dtype], corpus().read_text(encoding="utf-8"), dtype)
        return made[dtype]

    return make


def _teach(path: Path, text: str, dtype: torch.dtype) -> None:
    """A few steps of AdamW on windows of 32 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.tensor(AutoTokenizer.from_pretrained(path)(text).input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        batch = ids[step % 8 * 512 :][:512].view(16, 32)
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(dtype).save_pretrained(path)


# Networks that are no language models.
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _tokenizer(folder: Path) -> None:
    """WordPiece over letters, and a few whole words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [*WORDS, *letters, *(f"##{c}" for c in letters), "good", "bad", "film", "not"]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes the folder of a tiny random BERT of a class, such as
    ForSequenceClassification, with a tokenizer; labels are named where they are given."""

    def make(kind: str, labels: tuple[str, ...] = ()) -> Path:
        import transformers

        folder = tmp_path_factory.mktemp(f"bert-{kind}")
        config = transformers.BertConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=32,
            num_labels=len(labels) or 2,
        )
        if labels:
            config.id2label = dict(enumerate(labels))
            config.label2id = {name: i for i, name in enumerate(labels)}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(transformers, f"Bert{kind}")(config)
            for parameter in model.parameters():  # far from the start, where all answers are alike
                parameter.data.mul_(3.0) if parameter.dim() > 1 else None
        model.save_pretrained(folder)
        _tokenizer(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random ResNet for images of 32 x 32 and three named classes."""
    import json

    import transformers

    folder = tmp_path_factory.mktemp("resnet")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 24],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
        id2label={0: "ant", 1: "bee", 2: "cow"},
        label2id={"ant": 0, "bee": 1, "cow": 2},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(folder)
    told = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


class Planted(torch.nn.Module):
    """A classifier of images of 8 x 8 with inner channels that repeat one another: a quarter of
    them would do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.second = torch.nn.Conv2d(64, 64, 3, padding=1)
        self.head = torch.nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def planted() -> torch.nn.Module:
    """The same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Planted().eval()
        with torch.no_grad():
            for layer in (model.first, model.second):
                layer.weight.copy_(layer.weight[:16].repeat(4, 1, 1, 1))
                layer.bias.copy_(layer.bias[:16].repeat(4))
            model.head.weight.mul_(60)
    return model


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a factory, its weights, and images that its own answers name the classes of.

    Attributes: folder, weights, images (a zip file), spec (package.module:factory); the folder has
    to be the current one.
    """
    import inspect
    import io
    import zipfile
    from types import SimpleNamespace

    import numpy as np
    from PIL import Image
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("network")
    code = (
        f"import torch\n\n\n{inspect.getsource(Planted)}\n\ndef planted():\n    return Planted()\n"
    )
    (folder / "planted_net.py").write_text(code)
    model = planted()
    save_file(model.state_dict(), folder / "weights.safetensors")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 8, 8, 3)).astype(np.uint8)
    pixels = (pixels * rng.uniform(0.2, 1.0, (400, 1, 1, 3))).astype(np.uint8)
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(x)
        model.head.bias -= logits.mean(0)  # no class is everybody's
        logits = model(x)
    save_file(model.state_dict(), folder / "weights.safetensors")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, (image, label) in enumerate(zip(pixels, logits.argmax(1).tolist(), strict=True)):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "png")
            archive.writestr(f"{label}/{i:04d}.png", data.getvalue())
    return SimpleNamespace(
        folder=folder,
        weights=folder / "weights.safetensors",
        images=folder / "images.zip",
        spec="planted_net:planted",
        model=model,
    )
