"""A model on disk: its config, its family, and its tensors, each read when it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue.errors import InputError
from sprue.models import families, locate, tensorfile
from sprue.models.family import Family
from sprue.models.skeleton import configure, is_tied, skeleton
from sprue.models.tensorfile import Entry

_FLOATS = ("F32", "F16", "BF16")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True)
class Source:
    """A model folder whose tensors carry the names of the modules that `transformers` builds.

    Attributes:
        name: what the user typed.
        path: the folder.
        raw: config.json as it is written.
        config: the `transformers` config.
        family: where the parts are.
        entries: every tensor that the model uses -> its place on disk.
        tied: the head is the embedding's matrix (and has no tensor of its own here).
        unused: names in the files that the architecture does not use.
        stacked: tensors of experts that the files hold in parts: for each expert the entries whose
            rows follow one another. The parts are among `entries` under the names in the files.
    """

    name: str
    path: Path
    raw: Mapping[str, Any] = field(repr=False)
    config: Any = field(repr=False)
    family: Family = field(repr=False)
    entries: Mapping[str, Entry] = field(repr=False)
    tied: bool
    unused: tuple[str, ...] = field(default=(), repr=False)
    stacked: Mapping[str, tuple[tuple[Entry, ...], ...]] = field(default_factory=dict, repr=False)

    @property
    def index(self) -> dict[str, str]:
        """Tensor name -> file name of its shard."""
        return {name: entry.file.name for name, entry in self.entries.items()}

    @property
    def shards(self) -> list[Path]:
        """The safetensors files that hold weights of the model, by name."""
        return sorted({entry.file for entry in self.entries.values()})

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def nbytes(self) -> int:
        """Bytes on disk of the tensors that the model uses, each counted once."""
        return sum(entry.nbytes for entry in self.entries.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Axes of a tensor as it is stored."""
        return self.entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor as it is stored: float32, float16 or bfloat16."""
        return tensorfile.DTYPES[self.entries[name].dtype]

    def tensor(self, name: str) -> Tensor:
        """A tensor as it is stored (shape and dtype), read now, in memory of its own.

        Raises:
            InputError: it has NaN or infinite values, or the file became shorter.
        """
        if name in self.stacked:
            parts = (torch.cat([*map(tensorfile.read, part)]) for part in self.stacked[name])
            return _finite(torch.stack([*parts]), name)
        return _finite(tensorfile.read(self.entries[name]), name)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows `ids` [n] of a tensor, in order; the whole is never in memory.

        Raises:
            InputError: as for `tensor`, within the runs of rows that were read.
        """
        entry = self.entries[name]
        order, back = torch.unique(ids, return_inverse=True)
        picked, first = [], 0
        for chunk in tensorfile.chunks(entry):
            here = order[(order >= first) & (order < first + len(chunk))]
            if len(here):
                picked.append(_finite(chunk, name)[here - first])
            first += len(chunk)
        return torch.cat(picked)[back]

    def weight(self, module: str) -> Tensor:
        """The matrix of a linear or an embedding by module name, [out, in] float32.

        Raises:
            InputError: as for `tensor`.
        """
        if self.tied and module == self.family.head:
            module = self.family.embedding
        dense = self.tensor(f"{module}.weight").to(torch.float32)
        inside = module.startswith(f"{self.family.blocks}.")
        return dense.t().contiguous() if inside and self.family.transposed else dense

    def fingerprint(self) -> str:
        """sha256 over the bytes of the shards in order of name (one shard: its own sha256)."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for shard in self.shards:
            with shard.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()

    def companions(self) -> list[Path]:
        """What belongs beside the weights: tokenizer, generation config, licence."""
        found = {path for pattern in _COMPANIONS for path in self.path.glob(pattern)}
        return sorted(path for path in found if path.is_file() and path.suffix != ".py")


def open(model: str | Path, among: tuple[Family, ...] = families.FAMILIES) -> Source:
    """Open a model folder, or a name on the hub, without reading a weight.

    Args:
        model: folder or name.
        among: families that it may be of.

    Raises:
        InputError: whatever keeps it from being compressed: no folder, no config, unknown
            architecture, pickles only, damaged or missing shards or tensors, no network.
    """
    path = locate.folder(str(model))
    raw = _raw_config(path)
    family = families.find(raw, among)
    _refuse_quantized(raw)
    stored = _stored(path)
    config = configure(path)
    if config.num_hidden_layers < 1:
        raise InputError(f"{path / 'config.json'} describes a model with no blocks")
    built = skeleton(config)
    expected = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    entries, unused = _match(stored, expected, family, str(getattr(built, "base_model_prefix", "")))
    stacked = _stacked(stored, expected, family)
    parts = {e.name: e for rows in stacked.values() for row in rows for e in row}
    tied = is_tied(built) and _tie(entries, family)
    _check_present({*entries, *stacked}, expected, family.head if tied else None, path)
    _check_shapes(entries, expected)
    _check_stacked(stacked, expected)
    unused = tuple(name for name in unused if name not in parts)
    return Source(
        str(model), path, raw, config, family, {**entries, **parts}, tied, unused, stacked
    )


def _raw_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not any(path.iterdir()):
        raise InputError(f"{path} is empty; expected a model folder (config.json, *.safetensors)")
    if not file.is_file():
        raise InputError(f"{path} has no config.json; expected a model folder")
    raw = _json(file)
    if not isinstance(raw, dict):
        raise InputError(f"{file} should hold an object and holds a {type(raw).__name__}")
    return raw


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error


def _refuse_quantized(raw: Mapping[str, Any]) -> None:
    quantization = raw.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    raise InputError(
        f"the model is already quantized (config.json has quantization_config, method {method!r}); "
        "give the original with bf16, fp16 or fp32 weights"
    )


def _stored(path: Path) -> dict[str, Entry]:
    """Every tensor of the folder under the name that it has in its file."""
    if (path / _SINGLE).is_file():
        return tensorfile.read_header(path / _SINGLE)
    if (path / _INDEX).is_file():
        return _sharded(path)
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise InputError(
            f"{path} has only pickled weights ({', '.join(pickles[:4])}), which are refused: "
            "loading them can run code. Convert them once with transformers: "
            "from_pretrained(..., use_safetensors=False).save_pretrained(NEW)."
        )
    raise InputError(f"{path} has no weights; expected {_SINGLE} or {_INDEX}")


def _sharded(path: Path) -> dict[str, Entry]:
    index = _json(path / _INDEX)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table:
        raise InputError(f"{path / _INDEX} has no weight_map; fetch or copy the file again")
    headers = {shard: _shard(path, shard) for shard in sorted({str(v) for v in table.values()})}
    absent = [name for name, shard in table.items() if name not in headers[str(shard)]]
    if absent:
        raise InputError(
            f"{path / _INDEX} names {len(absent)} tensors that their shards do not have, "
            f"first {absent[0]!r} in {table[absent[0]]}"
        )
    return {name: headers[str(shard)][name] for name, shard in table.items()}


def _shard(path: Path, shard: str) -> dict[str, Entry]:
    if Path(shard).name != shard:
        raise InputError(f"{path / _INDEX} names a shard outside the folder: {shard!r}")
    if not (path / shard).is_file():
        raise InputError(f"{path} lacks the shard {shard} that {_INDEX} names")
    return tensorfile.read_header(path / shard)


def _match(
    stored: Mapping[str, Entry],
    expected: Mapping[str, tuple[int, ...]],
    family: Family,
    prefix: str,
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Stored names -> module names; older checkpoints lack the prefix of the inner model."""
    entries: dict[str, Entry] = {}
    unused = []
    for name, entry in sorted(stored.items()):
        renamed = _renamed(name, family)
        target = next((n for n in (renamed, f"{prefix}.{renamed}") if n in expected), None)
        if target is None or (target in entries and target != name):
            unused.append(name)
        else:
            entries[target] = entry
    return entries, tuple(unused)


def _renamed(name: str, family: Family) -> str:
    for old, new in family.renames:
        if name.startswith(old):
            return new + name.removeprefix(old)
    if family.mixture is not None:
        return name.replace(f".{family.mixture.stored}.", f".{family.mixture.module}.")
    return name


def _stacked(
    stored: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]], family: Family
) -> dict[str, tuple[tuple[Entry, ...], ...]]:
    """The experts' tensors, where every expert's matrices are stored apart."""
    if family.mixture is None:
        return {}
    gate, up, down = family.mixture.matrices
    found = {}
    for name, shape in expected.items():
        block, _, kind = name.partition(f".{family.mixture.experts}.")
        joined = {"gate_up_proj": (gate, up), "down_proj": (down,)}.get(kind)
        if joined is None or name in stored:
            continue
        inside = f"{block}.{family.mixture.stored}.experts"
        rows = [[f"{inside}.{e}.{local}.weight" for local in joined] for e in range(shape[0])]
        if all(part in stored for row in rows for part in row):
            found[name] = tuple(tuple(stored[part] for part in row) for row in rows)
    return found


def _check_stacked(
    stacked: Mapping[str, tuple[tuple[Entry, ...], ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, rows in stacked.items():
        height, width = expected[name][1:]
        for parts in rows:
            shapes = {p.name: (height // len(parts), width) for p in parts}
            _check_shapes({p.name: p for p in parts}, shapes)


def _tie(entries: dict[str, Entry], family: Family) -> bool:
    """Keep one tensor for a tied pair; False when both are stored and differ.

    `transformers` does the same: it ties either way round, and not at all against the weights.
    """
    inner, outer = f"{family.embedding}.weight", f"{family.head}.weight"
    if inner in entries and outer in entries and not _same(entries[inner], entries[outer]):
        return False
    if outer in entries:
        entries.setdefault(inner, entries[outer])
        del entries[outer]
    return True


def _same(a: Entry, b: Entry) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    pairs = zip(tensorfile.chunks(a), tensorfile.chunks(b), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _check_present(
    present: Collection[str],
    expected: Mapping[str, tuple[int, ...]],
    tied: str | None,
    path: Path,
) -> None:
    absent = [name for name in expected if name not in present and name != f"{tied}.weight"]
    if absent:
        raise InputError(
            f"{path} lacks {len(absent)} of the {len(expected)} tensors that the architecture in "
            f"config.json needs, first {', '.join(absent[:3])}; fetch or copy the model again"
        )


def _check_shapes(entries: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, entry in entries.items():
        if entry.dtype not in _FLOATS:
            raise InputError(
                f"tensor {name!r} in {entry.file} is {entry.dtype}; expected one of "
                f"{', '.join(_FLOATS)}: give the original weights"
            )
        if entry.shape != expected[name]:
            raise InputError(
                f"tensor {name!r} in {entry.file} has shape {list(entry.shape)}; config.json "
                f"asks for {list(expected[name])}"
            )


def _finite(tensor: Tensor, name: str) -> Tensor:
    if tensor.numel():
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InputError(
                f"tensor {name!r} has NaN or infinite values; the checkpoint is damaged: fetch or "
                "train it again"
            )
    return tensor
