"""The output folder appears whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sprue import models
from sprue.errors import InputError, ResourceError
from sprue.models import Writer, tensorfile

Folder = Callable[..., Path]

TENSORS = {
    "a.codes": torch.arange(7, dtype=torch.uint8),
    "a.scales": torch.linspace(-1, 1, 6, dtype=torch.float16).reshape(2, 3),
    "b.weight": torch.linspace(0, 1, 8).reshape(4, 2).t(),
    "b.bias": torch.tensor(1.5, dtype=torch.bfloat16),
    "c.empty": torch.empty(0, 3),
    "c.flag": torch.tensor([True, False]),
}


def write(out: Path) -> None:
    with Writer(out) as writer:
        writer.block("00000", {k: v for k, v in TENSORS.items() if k < "b"})
        writer.block("rest", {k: v for k, v in TENSORS.items() if k >= "b"})
        writer.finish({"model_type": "llama"}, {"seed": 1})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def complete(folder: Path) -> bool:
    """Whether every file that sprue.json names is there with its hash."""
    files = json.loads((folder / "sprue.json").read_text())["files"]
    return all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in files.items()
    )


def test_shards_are_safetensors(tmp_path: Path) -> None:
    write(tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    assert set(index["weight_map"]) == set(TENSORS)
    for name, tensor in TENSORS.items():
        file = tmp_path / "out" / index["weight_map"][name]
        read = load_file(file)[name]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor)
        assert torch.equal(tensorfile.read(tensorfile.read_header(file)[name]), tensor)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_a_written_model_is_the_model(folder: Folder, ids: Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = models.open(folder("gemma2", torch.bfloat16))
    inside = [n for n in source.entries if n.startswith(source.family.blocks)]
    with Writer(tmp_path / "out", needs=source.nbytes) as writer:
        for i in range(source.blocks):
            prefix = f"{source.family.block(i)}."
            writer.block(f"{i:05}", {n: source.tensor(n) for n in inside if n.startswith(prefix)})
        writer.block("rest", {n: source.tensor(n) for n in source.entries if n not in inside})
        writer.finish(dict(source.raw), {}, source.companions())
    result, original = (
        AutoModelForCausalLM.from_pretrained(path)(ids, use_cache=False).logits
        for path in (tmp_path / "out", source.path)
    )
    assert torch.equal(result, original)
    assert models.open(tmp_path / "out").nbytes == source.nbytes
    assert (tmp_path / "out" / "generation_config.json").is_file()


def test_every_other_file_is_in_sprue_json(tmp_path: Path) -> None:
    write(tmp_path / "out")
    files = json.loads((tmp_path / "out" / "sprue.json").read_text())["files"]
    assert set(files) == {file.name for file in (tmp_path / "out").iterdir()} - {"sprue.json"}
    assert complete(tmp_path / "out")


def test_hashes_are_known_before_the_end(tmp_path: Path) -> None:
    with Writer(tmp_path / "out") as writer:
        writer.block("x", TENSORS)
        files = dict(writer.files)
        writer.finish({}, {})
    data = (tmp_path / "out" / "model-x.safetensors").read_bytes()
    assert files == {"model-x.safetensors": hashlib.sha256(data).hexdigest()}


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_missing_parents_are_made_and_go_again(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert complete(tmp_path / "a" / "b" / "out")
    Writer(tmp_path / "c" / "d" / "out").discard()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_exists_is_refused_before_anything(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"):
        Writer(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_comes_into_being_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Writer(out) as writer:
        writer.block("x", TENSORS)
        out.mkdir()
        with pytest.raises(InputError, match="exists already"):
            writer.finish({}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not list(out.iterdir())


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        Writer(tmp_path / "file" / "out")


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Writer(tmp_path / "new" / "out") as writer:
            writer.block("x", TENSORS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_name_is_written_once(tmp_path: Path) -> None:
    with Writer(tmp_path / "out") as writer:
        writer.block("x", TENSORS)
        with pytest.raises(ValueError, match=r"written before: a\.codes"):
            writer.block("y", TENSORS)
        with pytest.raises(ValueError, match=r"written before: model-x\.safetensors"):
            writer.block("x", {})


def test_too_little_disk_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="bytes free"):
        Writer(tmp_path / "new" / "out", needs=1 << 60)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_grow_leaves_nothing(tmp_path: Path) -> None:
    """The system refuses the write itself, in the middle of a shard."""
    writer = Writer(tmp_path / "out")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            writer.block("x", {"w": torch.zeros(4000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_at_any_file_leaves_nothing(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_partial_folder_of_someone_else_stays(tmp_path: Path) -> None:
    other = tmp_path / ".out.partial"
    other.mkdir()
    (other / "mine").write_text("mine")
    with pytest.raises(InputError, match="is not sprue's"):
        Writer(tmp_path / "out")
    assert (other / "mine").read_text() == "mine"


def test_two_at_once(tmp_path: Path) -> None:
    first = Writer(tmp_path / "out")
    first.block("x", TENSORS)
    with pytest.raises(InputError, match="another process is writing"):
        Writer(tmp_path / "out")
    first.finish({}, {})
    assert complete(tmp_path / "out")


KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_models_write as t

base = Path({base!r})

def doomed(k):
    out, left = base / f"{{k}}" / "out", k
    out.parent.mkdir()
    def count(event, args):
        nonlocal left
        if event in WATCHED and str(out.parent) in str(args):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    t.write(out)
    os._exit(0)

WATCHED = {{"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.listdir"}}
for k in range(200):
    child = os.fork()
    if not child:
        doomed(k)
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        break
print(k)
"""


def test_killed_at_any_step(tmp_path: Path) -> None:
    """kill -9 before every change of the file system: nothing loads that is not complete."""
    script = KILLED.format(here=str(Path(__file__).parent), base=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = int(done.stdout)
    assert steps > 15
    whole = content(tmp_path / str(steps) / "out")
    appeared = [k for k in range(steps) if (tmp_path / str(k) / "out").exists()]
    for k in range(steps):
        check_after_kill(tmp_path / str(k), whole)
    # of all steps only those after the one rename have a folder
    assert appeared == list(range(steps - len(appeared), steps))
    assert len(appeared) <= 2


def check_after_kill(folder: Path, whole: dict[str, bytes]) -> None:
    out, partial = folder / "out", folder / ".out.partial"
    for place in (out, partial):
        if (place / "config.json").exists():
            assert complete(place)
    if out.exists():
        assert whole.items() <= content(out).items()
        return
    if partial.exists():
        with pytest.raises(InputError):
            models.open(partial)
    write(out)
    assert content(out) == whole
    assert [p.name for p in folder.iterdir()] == ["out"]


def test_a_killed_walk_does_not_load(folder: Folder, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = models.open(folder("llama"))
    writer = Writer(tmp_path / "out")
    writer.block("all", {name: source.tensor(name) for name in source.entries})
    with pytest.raises(ValueError, match=r"config\.json"):
        AutoModelForCausalLM.from_pretrained(tmp_path / ".out.partial")
    writer.discard()
