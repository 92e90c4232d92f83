"""One text in two parts that share no document."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sprue import data
from sprue.data import split
from sprue.data.text import Document
from sprue.errors import InputError


def documents(*texts: str) -> list[Document]:
    return [Document(text, "f.txt") for text in texts]


def test_no_text_is_in_both_parts_and_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    found = documents(*(f"text {i} " * int(rng.integers(1, 40)) for i in range(30)), "text 3 ")
    found += found[:5]  # repeated documents go together
    a, b = split.halves(found, 1)
    assert not {d.text for d in a} & {d.text for d in b}
    assert sorted(d.text for d in a + b) == sorted(d.text for d in found)
    sizes = [sum(len(text) for text in {d.text for d in part}) for part in (a, b)]
    longest = max(len(d.text) for d in found)
    assert abs(sizes[0] - sizes[1]) <= longest
    order = [d.text for d in found]
    for part in (a, b):
        places = [order.index(d.text) for d in part]
        assert places[:3] == sorted(places[:3])


def test_the_seed_decides_the_split() -> None:
    found = documents(*(f"text {i}" for i in range(20)))
    assert split.halves(found, 1) == split.halves(found, 1)
    assert split.halves(found, 1) != split.halves(found, 2)


@pytest.mark.parametrize("texts", [(), ("one",), ("one", "one")])
def test_one_document_cannot_be_split(texts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="CALIBRATION,EVALUATION"):
        split.halves(documents(*texts), 0)


def test_shared_documents_are_counted_and_refused() -> None:
    a = documents("one", "two", "three")
    split.refuse_shared(a, [Document("four", "g.txt")])
    with pytest.raises(InputError, match=r"2 of the 3 documents of g.txt stand in f.txt too"):
        split.refuse_shared(a, [Document(t, "g.txt") for t in ("two\n", "five", "one")])


def test_parts_are_written_as_read_takes_them(tmp_path: Path) -> None:
    texts = ["a\nb", 'quotes " and \\', "ü ☃ 😀", " spaces "]
    split.write(tmp_path / "a.jsonl", documents(*texts))
    assert [d.text for d in data.read([tmp_path / "a.jsonl"])] == texts
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0]) == {"text": "a\nb"}


def test_a_share_is_set_apart_file_by_file() -> None:
    found = [Document("x" * n, source) for source in ("a", "b") for n in [*range(40, 90), 40, 41]]
    rest, part = split.set_apart(found, 0.3, 0)
    assert sorted(rest + part, key=id) == sorted(found, key=id)
    assert not {d.text for d in rest if d.source == "a"} & {d.text for d in part if d.source == "a"}
    for source in ("a", "b"):
        mine = sum(len(d.text) for d in part if d.source == source)
        whole = sum(len(d.text) for d in found if d.source == source)
        assert 0.25 < mine / whole < 0.35
    assert (rest, part) == split.set_apart(found, 0.3, 0)
    assert (rest, part) != split.set_apart(found, 0.3, 1)
    assert split.set_apart(found, 0.0, 0) == (found, [])


def test_few_documents_are_cut_at_a_line() -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    rest, part = split.set_apart([Document(text, "a")], 0.3, 0)
    assert rest[0].text + part[0].text == text
    assert rest[0].text.endswith("\n")
    assert 0.25 < len(part[0].text) / len(text) < 0.35
    whole = "no line end " * 50
    rest, part = split.set_apart([Document(whole, "a")], 0.5, 0)
    assert rest[0].text + part[0].text == whole
    both = [Document("x" * 100, "a"), Document("y" * 100, "a")]
    assert split.set_apart(both, 0.5, 0) == (both[:1], both[1:])
