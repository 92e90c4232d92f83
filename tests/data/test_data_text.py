"""Reading text, cutting windows, and the figures of the embedded model that depend on both."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sprue.data import Document, fingerprint, read, windows
from sprue.data.text import _pieces, _shares
from sprue.errors import InputError


class Letters:
    """A tokenizer of one token per character; 0 ends a document, 1 may begin a text."""

    def __init__(self, begin: bool = False, end: bool = True) -> None:
        self.begin = begin
        self.bos_token_id = 1 if begin else None
        self.eos_token_id = 0 if end else None

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> Any:
        first = [1] if self.begin and add_special_tokens else []
        return type("Encoding", (), {"input_ids": first + [ord(c) for c in text]})()


def letters(ids: torch.Tensor) -> list[str]:
    return ["".join(chr(i) if i > 1 else "|^"[i] for i in row) for row in ids.tolist()]


def document(text: str, source: str = "a") -> Document:
    return Document(text, source)


def file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_text_is_split_at_the_separator_and_keeps_its_white_space(tmp_path: Path) -> None:
    a = file(tmp_path / "a.txt", "one\n<|endoftext|>\r\ntwo\r<|endoftext|>\n<|endoftext|>")
    assert [d.text for d in read([a])] == ["one\n", "\ntwo\n"]
    assert {d.source for d in read([a])} == {str(a)}


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    texts = ["first é", "second\nline"]
    rows = "\n".join(json.dumps({"id": 1, "text": t}) for t in texts) + "\n\n"
    table = pyarrow.table({"text": [*texts, None], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "c.parquet")
    paths = [
        file(tmp_path / "a.txt", "<|endoftext|>".join(texts)),
        file(tmp_path / "b.jsonl", rows),
        tmp_path / "c.parquet",
    ]
    assert [d.text for d in read(paths)] == texts * 3


def test_a_limit_of_characters_holds_for_every_format(tmp_path: Path) -> None:
    a = file(tmp_path / "a.txt", "abc<|endoftext|>def")
    b = file(tmp_path / "b.jsonl", '{"text": "abc"}\n{"text": "def"}\n{"text": "ghi"}\n')
    assert [d.text for d in read([a], characters=17)] == ["abc", "d"]
    assert [d.text for d in read([b], characters=4)] == ["abc", "d"]


def test_the_fingerprint_is_that_of_the_bytes_in_order(tmp_path: Path) -> None:
    a, b = file(tmp_path / "a.txt", "one\r\n"), file(tmp_path / "b.txt", "two")
    assert fingerprint([a]) == hashlib.sha256(b"one\r\n").hexdigest()
    assert fingerprint([a, b]) == hashlib.sha256(b"one\r\ntwo").hexdigest()
    assert fingerprint([b, a]) != fingerprint([a, b])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n<|endoftext|>\n", "is empty"),
        ("a.txt", b"caf\xe9", "not UTF-8 (byte 3)"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}', "line 2: expected an object"),
        ("a.jsonl", b'{"text": 3}', "found the keys ['text']"),
        ("a.jsonl", b"[1]", "found list"),
        ("a.jsonl", b'{"text": ', "line 1: not JSON"),
        ("a.parquet", b"PAR1 not really", "not a readable parquet file"),
        ("a.parquet", b"", "not a readable parquet file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read([file(tmp_path / name, content)])
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    a = file(tmp_path / "a.txt", "x")
    for paths, words in (
        ([], "no data file"),
        ([tmp_path / "none.txt"], "no such data file"),
        ([tmp_path], "is a folder"),
        ([a, a], "given twice"),
    ):
        for use in (read, fingerprint):
            with pytest.raises(InputError, match=words):
                use(paths)


@pytest.mark.parametrize("column", ["body", "text"])
def test_parquet_without_a_string_column_of_text(tmp_path: Path, column: str) -> None:
    parquet.write_table(pyarrow.table({column: [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match='expected a string column "text"'):
        read([tmp_path / "a.parquet"])


def test_parquet_without_its_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = file(tmp_path / "a.parquet", b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'sprue\[parquet\]'"):
        read([a])


def test_documents_are_joined_by_the_end_token() -> None:
    documents = [document("abc"), document("de"), document("fghij")]
    assert letters(windows(Letters(), documents, 3)) == ["abc", "|de", "|fg", "hij"]
    assert letters(windows(Letters(end=False), documents, 3)) == ["abc", "def", "ghi"]


def test_a_begin_token_that_the_tokenizer_adds_heads_every_window() -> None:
    assert letters(windows(Letters(begin=True), [document("abcdefg")], 3)) == ["^ab", "^cd", "^ef"]


def test_a_count_without_a_seed_takes_the_first_windows_of_every_file() -> None:
    documents = [document("abcdefgh", "a"), document("ABCDEFGH", "b")]
    assert letters(windows(Letters(), documents, 2, count=4)) == ["ab", "cd", "AB", "CD"]
    assert letters(windows(Letters(), documents, 2)) == [
        "ab",
        "cd",
        "ef",
        "gh",
        "AB",
        "CD",
        "EF",
        "GH",
    ]


def test_a_sample_is_seeded_balanced_without_replacement_and_separable_by_file() -> None:
    a = [document("".join(chr(1000 + i) for i in range(400)), "a")]
    b = [document("".join(chr(9000 + i) for i in range(90)), "b")]
    both = windows(Letters(), a + b, 3, count=20, seed=7)
    apart = [windows(Letters(), d, 3, count=10, seed=7) for d in (a, b)]
    assert torch.equal(both, torch.cat(apart))
    assert both.dtype == torch.int64
    assert not torch.equal(both, windows(Letters(), a + b, 3, count=20, seed=8))
    every = windows(Letters(), b, 3)
    sample = set(letters(windows(Letters(), b, 3, count=29, seed=7)))
    assert len(sample) == 29
    assert sample < set(letters(every))
    assert torch.equal(windows(Letters(), b, 3, count=99, seed=7), every)


def test_sampling_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    windows(Letters(), [document("abcdefgh" * 9)], 3, count=5, seed=1)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("context", "count", "words"),
    [(1, None, "2 tokens or more"), (8, 0, "1 window or more"), (9, None, "a has 8 tokens")],
)
def test_windows_that_cannot_be_cut(context: int, count: int | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        windows(Letters(), [document("abcdefgh")], context, count=count)
    with pytest.raises(InputError, match="no documents"):
        windows(Letters(), [], 8)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 300))
def test_shares_are_even_as_far_as_the_files_reach(sizes: list[int], count: int) -> None:
    shares = _shares(sizes, count)
    assert sum(shares) == min(count, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    short = [s for s, size in zip(shares, sizes, strict=True) if s < size]
    assert not short or max(shares) - min(short) <= 1


@given(st.text(alphabet="ab\n", max_size=60))
def test_pieces_of_a_long_text_are_bounded_and_complete(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sprue.data.text._PIECE", 7)
        pieces = list(_pieces(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= 7 for piece in pieces)


ASSETS = Path(os.environ.get("SPRUE_ASSETS", Path(__file__).resolve().parents[3] / "shared/assets"))
PUBLISHED = {"stories": 37.74, "code": 22.85, "legal": 18.62, "security": 25.53}


@pytest.mark.skipif(
    not (ASSETS / "text").is_dir(), reason="SPRUE_ASSETS (default ../shared/assets) is absent"
)
def test_the_published_perplexities_of_the_embedded_model() -> None:
    """40 windows of 256 tokens, sampled with seed 0 from the first 400,000 characters."""
    from transformers import AutoTokenizer

    from sprue.runtime.load import load

    folder = ASSETS / "models/base6m"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder)
    nll = {}
    for name in PUBLISHED:
        documents = read([ASSETS / f"text/{name}/test.txt"], characters=400_000)
        ids = windows(tokenizer, documents, 256, count=40, seed=0)
        with torch.inference_mode():
            scores = model(ids).logits[:, :-1].log_softmax(-1)
        nll[name] = -scores.gather(-1, ids[:, 1:, None]).mean().item()
    for name, expected in PUBLISHED.items():
        # Published from bfloat16 arithmetic: up to 0.004 from float32, and rounded.
        assert math.exp(nll[name]) == pytest.approx(expected, abs=0.01)
    assert math.exp(sum(nll.values()) / 4) == pytest.approx(25.304, abs=0.001)


@pytest.mark.skipif(
    not (ASSETS / "text").is_dir(), reason="SPRUE_ASSETS (default ../shared/assets) is absent"
)
def test_documents_joined_by_tokens_are_the_text_tokenized_whole() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "models/base6m")
    path = ASSETS / "text/security/test.txt"
    whole = tokenizer(path.read_text(encoding="utf-8"), verbose=False).input_ids
    ids = windows(tokenizer, read([path]), 256).flatten().tolist()
    assert ids == whole[: len(ids)]
