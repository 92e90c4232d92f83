"""Peak resident memory while a checkpoint of more than 2 GB is compressed.

A seeded random Llama (1.1 billion weights, bf16, sharded) is written into a temporary folder and
compressed by processes that are watched from inside (`measured.py`). The bound:

    one block in float32 with the second moments of its inputs
    + embedding and head in float32
    + 600 MB (the interpreter, torch and transformers take about 330 of them)

    python benchmarks/bench_memory.py [--only NAME ...] [--keep] [--threads N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import common  # isort: skip  # before torch, which then takes one thread
import torch
from safetensors.torch import save_file
from torch import Tensor

SEED, STD = 0, 0.02
REST = 600_000_000  # bytes beside block, statistics and embeddings
WINDOWS, CONTEXT = 8, 128
RUNS = {
    "rtn": ["--preset", "rtn", "--bits", "4.5"],
    "gptq": ["--preset", "gptq", "--bits", "4.5"],
    "default": ["--bits", "3"],
    "size": ["--size", "20%"],
}


@dataclass(frozen=True)
class Shape:
    """A Llama; the default has the shape of TinyLlama 1.1B."""

    hidden: int = 2048
    ffn: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000

    def block(self) -> dict[str, tuple[int, ...]]:
        """Tensor name within a block -> shape."""
        kv = self.hidden // self.heads * self.kv_heads
        attention = {"q": self.hidden, "k": kv, "v": kv, "o": self.hidden}
        return {
            **{f"self_attn.{n}_proj.weight": (out, self.hidden) for n, out in attention.items()},
            "mlp.gate_proj.weight": (self.ffn, self.hidden),
            "mlp.up_proj.weight": (self.ffn, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.ffn),
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }

    def outer(self) -> dict[str, tuple[int, ...]]:
        """Tensor name outside the blocks -> shape."""
        return {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "lm_head.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }

    def bound(self) -> common.Json:
        """Bytes that the process may take at the most, and what they are made of."""
        block = 4 * sum(torch.Size(s).numel() for s in self.block().values())
        statistics = 4 * (3 * self.hidden**2 + self.ffn**2)  # of qkv, o, gate and up, down
        embeddings = 2 * 4 * self.vocabulary * self.hidden
        parts = {"block": block, "statistics": statistics, "embeddings": embeddings, "rest": REST}
        return {**parts, "total": sum(parts.values())}

    def config(self) -> common.Json:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "dtype": "bfloat16",
        }


def write(folder: Path, shape: Shape) -> int:
    """The checkpoint, shard by shard; returns the bytes of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(SEED)
    names: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(shards(shape, generator)):
        shard = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, shard)
        total += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(common.BASE / name, folder / name)
    return total


def shards(shape: Shape, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """What is outside the blocks, then four blocks at a time."""
    yield {name: _tensor(s, generator) for name, s in shape.outer().items()}
    for first in range(0, shape.layers, 4):
        layers = range(first, min(first + 4, shape.layers))
        yield {
            f"model.layers.{i}.{name}": _tensor(s, generator)
            for i in layers
            for name, s in shape.block().items()
        }


def _tensor(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal weights; ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) * STD).to(torch.bfloat16)


def measure(name: str, model: Path, nbytes: int, shape: Shape, threads: int) -> common.Json:
    """One compression of the checkpoint."""
    stamp = common.stamp()
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        text = common.ASSETS / "text/legal/train.txt"
        settings = {"--windows": WINDOWS, "--context": CONTEXT, "--seed": SEED}
        options = [argument for key, n in settings.items() for argument in (key, str(n))]
        command = ["compress", str(model), "--out", str(Path(scratch) / "out"), *RUNS[name]]
        ran = common.sprue(
            [*command, "--calibrate", str(text), *options, "--quiet", "--json"],
            Path(scratch) / "cost.json",
            threads,
        )
    bound = shape.bound()
    return {
        "name": name,
        "arguments": RUNS[name],
        "shape": asdict(shape),
        "bytes": {"original": nbytes, "result": ran["printed"]["bytes"]},
        "bits_per_weight": ran["printed"]["bits_per_weight"],
        "bound": bound,
        "within": ran["cost"]["peak_bytes"] <= bound["total"],
        "forecast": ran["printed"]["forecast"],
        "cost": ran["cost"],
        "settings": {"windows": WINDOWS, "context": CONTEXT, "seed": SEED, "threads": threads},
        "stamp": stamp,
    }


def show(found: common.Json) -> None:
    """One run as a few lines."""
    peak, bound = found["cost"]["peak_bytes"], found["bound"]["total"]
    print(
        f"{found['name']:8} {found['bytes']['original'] / 1e9:.2f} GB -> "
        f"{found['bytes']['result'] / 1e9:.2f} GB  peak {peak / 1e6:,.0f} MB vs. bound "
        f"{bound / 1e6:,.0f} MB: {peak / bound:.2f} "
        f"({'within' if found['within'] else 'ABOVE'}; forecast "
        f"{found['forecast']['peak_bytes'] / 1e6:,.0f} MB)  {found['cost']['cpu_seconds']:.0f} "
        f"CPU s"
    )
    for phase in found["cost"]["phases"][:4]:
        print(f"    {phase['peak_bytes'] / 1e6:7,.0f} MB  {phase['phase']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, help="of the runs")
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made (4 GB)")
    args = parser.parse_args()
    common.require_assets()
    chosen, shape = args.only or list(RUNS), Shape()
    todo = [name for name in chosen if not common.fresh(f"memory/{name}", args.keep)]
    if todo:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            model = Path(scratch) / "model"
            nbytes = write(model, shape)
            for name in todo:
                found = measure(name, model, nbytes, shape, args.threads)
                common.save(f"memory/{name}", found)
    for name in chosen:
        kept = common.load(f"memory/{name}")
        assert kept is not None
        show(kept)


if __name__ == "__main__":
    main()
