"""What cannot be compressed is refused in a line that says what to do, and leaves nothing behind.

Everything goes through the command line. A refusal is an exit code of 2 and one line on standard
error; no file is there afterwards that was not there before, hidden and temporary ones included.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from torch import Tensor

from sprue import cli, models
from sprue import compress as compressing
from sprue.models import Writer
from sprue.plan import job, walk
from sprue.plan.goal import Goal
from sprue.weights.decompose import decompose

Folder = Callable[..., Path]
QUICK = ("--windows", "2", "--context", "16", "--quiet")
ROUND = ("--preset", "rtn", "--bits", "6")  # the quickest: what is tested here is not the solver
LINEAR, EMBEDDING = "transformer.h.0.mlp.c_fc", "transformer.wte"


@dataclass(frozen=True)
class Place:
    """Where a test works.

    Attributes:
        root: everything that a command could write lies below it, temporary files too.
        model: a folder that can be compressed, to be damaged.
        text: a calibration text, likewise.
    """

    root: Path
    model: Path
    text: Path

    @property
    def out(self) -> Path:
        return self.root / "results" / "out"

    def command(self, *more: object, given: dict[str, object] | None = None) -> list[str]:
        """`sprue compress` with what the tests need, `more`, and other values where `given`."""
        said = {"model": self.model, "out": self.out, "text": self.text} | (given or {})
        text = ["--calibrate", str(said["text"])]
        return ["compress", str(said["model"]), "--out", str(said["out"]), *text, *QUICK] + [
            str(one) for one in more
        ]


@pytest.fixture
def place(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    for name in ("results", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    shutil.copytree(speaking("gpt2", num_hidden_layers=1), tmp_path / "model")
    shutil.copy(corpus(), tmp_path / "text.txt")
    return Place(tmp_path, tmp_path / "model", tmp_path / "text.txt")


def tree(root: Path) -> dict[str, bytes | None]:
    """All that lies below: path -> content, None for a folder or a link to nowhere."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def run(argv: list[str]) -> int:
    """The exit code, however the command comes to it."""
    try:
        return cli.main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def refused(place: Place, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], str], None]:
    """Check that a command is refused in words that match, and that it leaves no trace."""

    def check(argv: list[str], words: str) -> None:
        before = tree(place.root)
        capsys.readouterr()
        code = run(argv)
        printed = capsys.readouterr()
        assert_refusal(code, printed.out, printed.err, words)
        assert tree(place.root) == before

    return check


def assert_refusal(code: int, out: str, err: str, words: str) -> None:
    """One line on standard error, after which argparse may point to the help."""
    assert "Traceback" not in err, err
    assert code == 2, err
    assert out == ""
    first, *rest = err.splitlines()
    assert first.startswith("sprue: error: ")
    assert re.search(words, first), first
    assert len(first) < 800  # some lines of a terminal
    assert rest in ([], ["See 'sprue compress --help'."])


Refused = Callable[[list[str], str], None]


def test_what_the_others_damage_is_fine_as_it_is(place: Place) -> None:
    assert run(place.command(*ROUND)) == 0
    assert (place.out / "config.json").is_file()


# --- models


def edit_config(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(model: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def emptied(model: Path) -> None:
    for file in model.iterdir():
        file.unlink()


def cut_short(model: Path) -> None:
    file = model / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def with_header(content: bytes) -> Callable[[Path], object]:
    def overwrite(model: Path) -> None:
        with (model / "model.safetensors").open("r+b") as stream:
            stream.write(content)

    return overwrite


def without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def replaced(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"no such folder: .*model$"),
    "nothing in it": (emptied, r"model is empty; expected a model folder \(config\.json, \*\.saf"),
    "truncated": (
        cut_short,
        r"model\.safetensors is truncated or corrupt: it should have \d+ bytes and has \d+\. Fetch",
    ),
    "a header that is too long": (
        with_header(b"\xff" * 8),
        r"corrupt: its header should have \d+ bytes, the file has \d+\. Fetch or copy",
    ),
    "a header that is no JSON": (
        with_header((40).to_bytes(8, "little") + b"{]"),
        r"truncated or corrupt: its header cannot be read .* Fetch or copy the file again",
    ),
    "pickles only": (
        lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
        r"only pickled weights \(pytorch_model\.bin\), which are refused: .* Convert them once",
    ),
    "no weights": (without("model.safetensors"), r"has no weights; expected model\.safetensors"),
    "no config": (without("config.json"), r"has no config\.json; expected a model folder"),
    "a broken config": (replaced("config.json", '{"model_type": '), "is not valid JSON: Expecting"),
    "a config that is a list": (replaced("config.json", "[1]"), "should hold an object .* a list"),
    "a config of another kind": (
        lambda m: edit_config(m, n_layer="two"),
        r"config\.json cannot be used: .*'n_layer' expected int, got str",
    ),
    "no blocks": (lambda m: edit_config(m, n_layer=0), "config.json describes a model with no blo"),
    "fewer blocks than none": (
        lambda m: edit_config(m, n_layer=-1),
        r"config\.json describes a model with no blocks",
    ),
    "more blocks than weights": (
        lambda m: edit_config(m, n_layer=2),
        r"lacks 12 of the \d+ tensors that the architecture in config\.json needs, .* again",
    ),
    "other shapes": (
        lambda m: edit_config(m, n_embd=64, n_head=8),
        r"'transformer\.h\.0\..*' in .* has shape \[96\]; config\.json asks for \[192\]",
    ),
    "quantized already": (
        lambda m: edit_config(m, quantization_config={"quant_method": "gptq"}),
        "already quantized .* give the original with bf16, fp16 or fp32 weights",
    ),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer: put the files of .* beside its"),
    "a broken tokenizer": (
        replaced("tokenizer.json", "{"),
        "the tokenizer of .* cannot be read .* fetch or copy its files again",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_models(case: str, place: Place, refused: Refused) -> None:
    damage, words = MODELS[case]
    damage(place.model)
    refused(place.command(*ROUND), words)


def test_an_unknown_architecture_lists_the_known(place: Place, refused: Refused) -> None:
    edit_config(place.model, model_type="bert")
    known = sorted(name for family in models.FAMILIES for name in family.model_types)
    assert len(known) > 10
    words = f"unknown architecture: .*'bert'. Known: {', '.join(known)}. To add one, write a table"
    refused(place.command(*ROUND), words)


def test_a_name_that_is_neither_here_nor_on_the_hub(place: Place, refused: Refused) -> None:
    for name, words in (
        ("no-one/no-model", "'no-one/no-model' is no folder here, .* Give a folder, or go online"),
        ("", "no model given; expected a folder or a name on the hub"),
        (str(place.text), r"text\.txt is a file; expected the model folder that has config\.json"),
    ):
        refused(place.command(*ROUND, given={"model": name}), words)


@pytest.mark.parametrize("solved", [ROUND, ()], ids=["rtn", "best"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("module", [LINEAR, EMBEDDING])
def test_weights_that_are_no_numbers(
    module: str, value: float, solved: tuple[str, ...], place: Place, refused: Refused
) -> None:
    """In the last place, which for the embedding is a row that the text does not use."""
    name = f"{module}.weight"
    edit_weights(place.model, lambda tensors: tensors[name].view(-1)[-1:].fill_(value))
    words = f"tensor '{re.escape(name)}' has NaN or infinite values; .* fetch or train it again"
    refused(place.command(*solved), words)


def test_weights_that_give_no_numbers(place: Place, refused: Refused) -> None:
    edit_weights(place.model, lambda tensors: tensors[f"{LINEAR}.weight"].mul_(1e30))
    refused(place.command(), r"transformer\.h\.0\..* not finite in float32; .* fetch or train it")


def test_the_tokenizer_of_another_model(place: Place, refused: Refused, folder: Folder) -> None:
    for file in folder("gpt2").iterdir():
        shutil.copy(file, place.model)  # its vocabulary is smaller
    words = "token ids run from .* the model has 96: the tokenizer belongs to another model"
    refused(place.command(*ROUND), words)


# --- calibration texts


def as_parquet(file: Path, column: str = "text") -> bytearray:
    rows = [f"the court shall have power to hear {i}" for i in range(500)]
    parquet.write_table(pyarrow.table({column: rows}), file)
    return bytearray(file.read_bytes())


def no_pages(file: Path) -> None:
    content = as_parquet(file)
    content[4:64] = b"\xff" * 60
    file.write_bytes(content)


def no_footer(file: Path) -> None:
    content = as_parquet(file)
    content[-60:-20] = b"\x33" * 40
    file.write_bytes(content)


def not_utf8(file: Path) -> None:
    """Arrow writes whatever bytes a column of strings holds."""
    ends, content = pyarrow.array([0, 4], pyarrow.int32()), pyarrow.py_buffer(b"\xff\xfe\xfd\xfc")
    strings = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, ends.buffers()[1], content])
    parquet.write_table(pyarrow.table({"text": strings}), file)


def lines(*content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text("\n".join(content))


GOOD = json.dumps({"text": "the court shall have power"})
TEXTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.txt", lambda file: None, r"no such data file: .*a\.txt"),
    "empty": ("a.txt", Path.touch, r"a\.txt is empty: give a file with text in it"),
    "blank": ("a.txt", lines(" ", "<|endoftext|>", ""), r"a\.txt is empty: give a file with text"),
    "a folder": ("a.txt", Path.mkdir, r"a\.txt is a folder: name the text files in it"),
    "too short": (
        "a.txt",
        lines("the court"),
        r"a\.txt has 9 tokens, fewer than one window of 16: give more text or a smaller context",
    ),
    "no UTF-8": (
        "a.txt",
        lambda file: file.write_bytes(b"caf\xe9 " * 100),
        r"a\.txt is not UTF-8 \(byte 3\): convert it",
    ),
    "empty jsonl": ("a.jsonl", Path.touch, r"a\.jsonl is empty: give a file with text in it"),
    "corrupt jsonl": (
        "a.jsonl",
        lines(GOOD, '{"text": "the cou'),
        r"a\.jsonl, line 2: not JSON \(Unterminated string",
    ),
    "jsonl that nests too deep": (
        "a.jsonl",
        lines(GOOD, "[" * 100_000),
        r"a\.jsonl, line 2: not JSON \(.*recursion",
    ),
    "jsonl with other keys": (
        "a.jsonl",
        lines(json.dumps({"txt": "the court"})),
        r"""line 1: expected an object with a string under "text", found the keys \['txt'\]""",
    ),
    "jsonl with too many keys": (
        "a.jsonl",
        lines(json.dumps({f"word{i}": i for i in range(5000)})),
        r"expected an object with a string under \"text\", found the keys \['word0', 'word1', ",
    ),
    "jsonl with half a character": (
        "a.jsonl",
        lines(GOOD, json.dumps({"text": "the court " * 10 + "\ud83d"})),
        r"a\.jsonl, line 2: .*half a character.* 100",
    ),
    "no parquet": (
        "a.parquet",
        lines("the court"),
        r"a\.parquet is not a readable parquet file: .* magic bytes",
    ),
    "empty parquet": ("a.parquet", Path.touch, r"a\.parquet is not a readable parquet file"),
    "truncated parquet": (
        "a.parquet",
        lambda file: file.write_bytes(as_parquet(file)[:-1000]),
        r"a\.parquet is not a readable parquet file",
    ),
    "corrupt pages": ("a.parquet", no_pages, r"a\.parquet is not a readable parquet file: \S"),
    "corrupt footer": ("a.parquet", no_footer, r"a\.parquet is not a readable parquet file: \S"),
    "parquet that is no UTF-8": ("a.parquet", not_utf8, r"a\.parquet is not .*: .*'utf-8' codec"),
    "parquet without text": (
        "a.parquet",
        lambda file: as_parquet(file, "body"),
        r"""a\.parquet: expected a string column "text", found \['body'\]""",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts(case: str, place: Place, refused: Refused) -> None:
    name, make, words = TEXTS[case]
    make(place.root / name)
    refused(place.command(*ROUND, given={"text": place.root / name}), words)


def test_text_given_twice_and_windows_that_are_too_long(place: Place, refused: Refused) -> None:
    refused(place.command("--calibrate", place.text), "is given twice: name every data file once")
    words = "the model takes at most 64 tokens, a context of 65 was given"
    refused(place.command("--context", 65), words)


# --- budgets


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("--size=1%", r"takes at least 1\d,\d\d\d bytes \(.*\); 924 were given: give more"),
        ("--size=10", r"takes at least 1\d,\d\d\d bytes \(.*\); 10 were given: give more"),
        ("--size=0", "the size 0 is 0 bytes; it must be above 0 and at most .* 92,416 bytes"),
        ("--size=101%", "the size 101% is 93,340 bytes; it must be .* at most .* 92,416 bytes"),
        ("--size=5GB", "the size 5GB is 5,000,000,000 bytes; it must be .* at most"),
        ("--size=-5", "the size '-5' is not understood: give a share of the original"),
        ("--size=-5%", "the size '-5%' is not understood: give a share of the original"),
        ("--size=nan", "the size 'nan' is not understood"),
        ("--size=1,5MB", "the size '1,5MB' is not understood"),
        ("--size=30 apples", r"'30 apples' is not understood: give .* \(30%\), bytes \(1964544\)"),
        ("--size=", "the size '' is not understood"),
        ("--bits=0.1", "expected 1 to 16 bits per weight, got '0.1': use --size"),
        ("--bits=99", "expected 1 to 16 bits per weight, got '99': use --size"),
        ("--bits=-3", "expected 1 to 16 bits per weight, got '-3'"),
        ("--bits=inf", "expected bits per weight, such as 4 or 2.5, got 'inf'"),
        ("--bits=3,5", "expected bits per weight, such as 4 or 2.5, got '3,5'"),
        ("--seed=4294967296", "expected a seed of 0 to 4294967295, received 4294967296"),
    ],
)
def test_budgets(budget: str, words: str, place: Place, refused: Refused) -> None:
    refused(place.command(budget), words)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("rtn", r"takes at least 2\.\d+ bits a weight here, scales included; 1 were given: give"),
        ("gptq", r"takes at least 2\.\d+ bits a weight .* give more, or leave out --preset"),
        ("caldera", r"c_proj \(32 x 32\) takes at least 1\.\d+ bits a weight, .* give more"),
    ],
)
def test_too_few_bits_for_a_preset(preset: str, words: str, place: Place, refused: Refused) -> None:
    refused(place.command("--preset", preset, "--bits", 1), words)
    refused(place.command("--preset", preset, "--size", "900"), "give more")


def test_a_result_that_is_too_large_is_not_kept(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last guard, which no plan should ever need."""
    planned = Goal.plan

    def lavish(goal: Goal, parts: Any, limit: int, found: Any) -> Any:
        return planned(goal, parts, 2 * limit, found)

    monkeypatch.setattr(Goal, "plan", lavish)
    words = r"takes [\d,]+ bytes, [\d,]+ more than the budget of 27,724: nothing was kept; give"
    refused(place.command("--preset", "rtn", "--size", "30%"), words)


# --- recipes

FORM = "'recipe.yaml' beside a compressed model shows the form"
RECIPES: dict[str, tuple[str, str]] = {
    "empty": ("", f"does not fit: expected a mapping with 'version: 1'; {FORM}"),
    "no YAML": ("tensors: [", r"recipe\.yaml cannot be read as YAML: while parsing"),
    "no text": ("\0\1", r"recipe\.yaml cannot be read as YAML: unacceptable character"),
    "code": ("!!python/object/apply:os.getpid []", "cannot be read as YAML: could not determine"),
    "another version": ("version: 2\ntensors: {a: {}}", "expected a mapping with 'version: 1'"),
    "no matrices": ("version: 1", f"'tensors' names no module; {FORM}"),
    "a list of matrices": ("version: 1\ntensors: [a]", r"tensors should be dict, received \['a'\]"),
    "an unknown field": (
        "version: 1\nbudget: 3\ntensors: {a: {}}",
        f"unknown field 'budget'; known are version, preset, seed, .*; {FORM}",
    ),
    "an unknown field of a matrix": (
        f"version: 1\ntensors: {{{LINEAR}: {{grid: int, bit: 4}}}}",
        r"transformer\.h\.0\.mlp\.c_fc: unknown field 'bit'; known are grid, bits, ",
    ),
    "a field of another kind": (
        f"version: 1\ntensors: {{{LINEAR}: {{bits: four}}}}",
        r"c_fc: bits should be int or float, received 'four'",
    ),
    "a value out of range": (
        f"version: 1\ntensors: {{{LINEAR}: {{grid: int, bits: 9}}}}",
        "c_fc: an integer grid has 2 to 8 bits, received 9",
    ),
    "bits that are no number": (
        f"version: 1\ntensors: {{{LINEAR}: {{grid: none, rank: 2, bits: .nan}}}}",
        "c_fc: bits should be a finite number, received nan",
    ),
    "endless damping": (
        f"version: 1\ndefault: {{damping: .inf}}\ntensors: {{{LINEAR}: {{}}}}",
        "c_fc: damping should be a finite number, received inf",
    ),
    "an unknown matrix": (
        "version: 1\ntensors: {model.layers.0.mlp.up_proj: {}}",
        r"names 'model\.layers\.0\.mlp\.up_proj', which this model does not have .*; it has trans",
    ),
    "a head that is tied": ("version: 1\ntensors: {lm_head: {}}", r"names 'lm_head', .* is tied"),
    "a rank that is too high": (
        f"version: 1\ntensors: {{{LINEAR}: {{rank: 33}}}}",
        "a rank of 33; a matrix of 128 x 32 has at most 32",
    ),
    "groups that are too large": (
        f"version: 1\ntensors: {{{LINEAR}: {{grid: int, group_size: 33}}}}",
        "groups of 33 weights, its rows have 32: take at most that, or null for a whole row",
    ),
    "a negative seed": (
        f"version: 1\nseed: -1\ntensors: {{{LINEAR}: {{}}}}",
        "expected a seed of 0 to 4294967295, received -1",
    ),
    "an endless seed": (
        f"version: 1\nseed: {10**20}\ntensors: {{{LINEAR}: {{}}}}",
        "expected a seed of 0 to 4294967295, received 1000",
    ),
    "too few bits, known at the matrix": (
        f"version: 1\nimportance: false\ntensors: {{{EMBEDDING}: {{bits: 0.01}}}}",
        r"transformer\.wte: 0\.010 bits a weight do not even hold .* give it more",
    ),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes(case: str, place: Place, refused: Refused) -> None:
    content, words = RECIPES[case]
    (place.root / "recipe.yaml").write_text(content)
    refused(place.command("--recipe", place.root / "recipe.yaml"), words)


def test_a_recipe_that_is_not_there(place: Place, refused: Refused) -> None:
    missing = place.root / "recipe.yaml"
    refused(place.command("--recipe", missing), r"no recipe .*recipe\.yaml: give a YAML file")
    refused(place.command("--recipe", place.root), "cannot be read as YAML: .*Is a directory")


# --- where the result goes


def test_what_exists_stays_as_it_is(place: Place, refused: Refused) -> None:
    words = "out exists already; give a new --out, or remove it"
    place.out.mkdir()
    refused(place.command(*ROUND), words)
    (place.out / "mine").write_text("mine")
    refused(place.command(*ROUND), words)
    shutil.rmtree(place.out)
    place.out.symlink_to(place.root / "nowhere")
    refused(place.command(*ROUND), words)
    place.out.unlink()
    place.out.write_text("mine")
    refused(place.command(*ROUND), words)
    refused(place.command(*ROUND, given={"out": ""}), "exists already; give a new --out")


def test_a_folder_that_cannot_be_made(place: Place, refused: Refused) -> None:
    for out, words in (
        (place.text / "out", r"text\.txt/out cannot be written: Not a directory"),
        (place.text / "deep" / "out", "deep/out cannot be written: Not a directory"),
        (place.root / ("x" * 250), "File name too long"),  # with .partial
        (place.root / ("x" * 300), "File name too long: "),
    ):
        refused(place.command(*ROUND, given={"out": out}), words)


def test_what_is_in_the_way_and_not_ours_stays(place: Place, refused: Refused) -> None:
    partial = place.out.with_name(".out.partial")
    words = r"\.out\.partial is in the way and is not sprue's: remove or rename it"
    partial.write_text("mine")
    refused(place.command(*ROUND), words)
    partial.unlink()
    partial.mkdir()
    (partial / "mine").write_text("mine")
    refused(place.command(*ROUND), words)


def test_what_another_process_writes_stays(place: Place, refused: Refused) -> None:
    with Writer(place.out):
        refused(place.command(*ROUND), "another process is writing .*out now: wait for it")


def test_a_folder_that_someone_removes_meanwhile(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(*args: Any, **options: Any) -> Any:
        shutil.rmtree(place.out.with_name(".out.partial"), ignore_errors=True)
        return decompose(*args, **options)

    monkeypatch.setattr(walk, "decompose", removing)
    refused(place.command(*ROUND), "out cannot be written: No such file or directory")


# --- what the machine does not have


def test_too_little_disk_is_refused_before_the_work(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    usage = shutil.disk_usage(place.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(compressing, "Walk", never)
    words = "needs about 109 kB of disk and .*results has 1 kB: free some space, or give an --out"
    refused(place.command(*ROUND), words)


def test_too_little_memory_is_refused_before_the_work(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    words = "more memory and the machine has 10 kB available: take fewer --windows or a shorter"
    refused(place.command(*ROUND), words)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_at_any_moment(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is synchronized when it is written, and the folders when they are complete."""
    really, calls = os.fsync, 0

    def fails_from(first: int) -> Callable[[int], None]:
        left = first

        def sync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            (full if left < 0 else really)(descriptor)

        return sync

    def count(descriptor: int) -> None:
        nonlocal calls
        calls += 1

    monkeypatch.setattr(os, "fsync", count)
    assert run(place.command(*ROUND)) == 0
    shutil.rmtree(place.out)
    assert calls > 10
    for first in range(calls):
        monkeypatch.setattr(os, "fsync", fails_from(first))
        refused(place.command(*ROUND), "the disk is full: .*out cannot be written; free some spac")


@contextmanager
def no_larger_file_than(size: int) -> Iterator[None]:
    """The system itself refuses what goes beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 5000, 10_000])
def test_a_system_that_refuses_to_write_on(size: int, place: Place, refused: Refused) -> None:
    with no_larger_file_than(size):
        refused(place.command(*ROUND), "the disk is full: .*out cannot be written; free some spac")


def test_no_room_for_what_waits_in_a_file(
    place: Place, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "RESIDENT", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    words = r"bytes of activations do not fit on the disk .* take fewer windows, or point TMPDIR"
    refused(place.command(), words)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate memory"),
    ],
    ids=["python", "torch"],
)
def test_no_memory_in_the_middle(
    error: Exception,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was saved stays, and the same command goes on with it."""
    before = tree(place.root)
    with monkeypatch.context() as patch:
        patch.setattr(walk, "decompose", failing_after(3, decompose, error))
        code = run(place.command(*ROUND))
    said = capsys.readouterr()
    words = "out of memory: close other programs, or give fewer and shorter windows"
    assert_refusal(code, said.out, said.err, words)
    assert_only_unfinished(before, tree(place.root))
    assert run(place.command(*ROUND)) == 0


def assert_only_unfinished(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Nothing has changed but for the folder of unfinished work, which nothing loads."""
    more = {name for name in after if name not in before}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("results/.out.partial") for name in more)
    assert "results/.out.partial/config.json" not in more


def failing_after(calls: int, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    left = calls

    def call(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        return real(*args, **options)

    return call


def test_a_fault_of_our_own_leaves_nothing_that_loads(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(place.root)
    monkeypatch.setattr(walk, "decompose", failing_after(3, decompose, IndexError("oh")))
    assert run(place.command(*ROUND)) == 70
    assert "Traceback" in capsys.readouterr().err
    assert_only_unfinished(before, tree(place.root))


def test_a_process_of_its_own(place: Place) -> None:
    environment = os.environ | {"TMPDIR": str(place.root / "temporary")}
    before = tree(place.root)
    with no_larger_file_than(5000):  # which it inherits
        done = subprocess.run(
            [sys.executable, "-m", "sprue.cli", *place.command(*ROUND)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert_refusal(done.returncode, done.stdout, done.stderr, "the disk is full: .*; free some")
    assert tree(place.root) == before


# --- results that are damaged later


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


SHARD = "model-00000.safetensors"
RESULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "no such folder: .*small"),
    "nothing in it": (emptied, r"holds no model: expected a folder with config\.json"),
    "truncated": (
        lambda d: os.truncate(d / SHARD, 100),
        rf"{SHARD} is truncated: expected \d+ bytes, received 100\. Copy or download the whole",
    ),
    "tampered weights": (
        lambda d: flip(d / SHARD, -1),
        rf"{SHARD} was changed or damaged: expected sha256 .*, received .*\. Copy or download",
    ),
    "a tampered config": (
        lambda d: edit_config(d, layer_norm_epsilon=0.5),
        r"config\.json was changed or damaged: expected sha256",
    ),
    "a missing shard": (without(SHARD), rf"{SHARD} is missing: sprue\.json lists it\. Copy or dow"),
    "no list of files": (
        without("sprue.json"),
        r"sprue\.json is missing: .* or compress the model again",
    ),
    "no config": (
        without("config.json"),
        r"config\.json is missing: sprue\.json lists it|expected a folder with config\.json",
    ),
    "a tampered tokenizer": (
        replaced("tokenizer.json", "{"),
        r"tokenizer\.json was changed or damaged: expected sha256|no tokenizer that can be loaded",
    ),
    "pickles beside it": (
        lambda d: (d / "pytorch_model.bin").write_bytes(b"x"),
        r"pytorch_model\.bin is not part of the compressed model: .* Move it out of the folder",
    ),
}


@pytest.fixture(scope="module")
def small(speaking: Folder, corpus: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result."""
    out = tmp_path_factory.mktemp("bad") / "small"
    source = speaking("gpt2", num_hidden_layers=1)
    text = ["--calibrate", str(corpus())]
    assert run(["compress", str(source), "--out", str(out), *text, *QUICK, *ROUND]) == 0
    return out


@pytest.mark.parametrize("case", RESULTS)
def test_results(case: str, small: Path, place: Place, refused: Refused) -> None:
    damage, words = RESULTS[case]
    result = shutil.copytree(small, place.root / "small")
    damage(result)
    report = place.root / "report.html"
    data = ["--data", str(place.text), "--context", "16", "--report", str(report), "--quiet"]
    for argv in (
        ["generate", str(result), "--prompt", "the court"],
        ["generate", str(place.model), "--prompt", "the", "--beside", str(result)],
        ["verify", str(place.model), str(result), *data],
    ):
        refused(argv, words)


def test_what_others_say_in_several_lines_is_one(place: Place, refused: Refused) -> None:
    edit_config(place.model, model_type="nothing-known")
    words = "model type `nothing-known` but Transformers does not recognize .* update Transformers"
    refused(["generate", str(place.model), "--prompt", "the"], words)
    data = ["--data", str(place.text), "--quiet"]
    refused(["verify", str(place.model), str(place.model), *data], words)
