"""Labelled text: read in all its formats, aligned with tokens, refused where it is damaged."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprue.data.labelled import IGNORED, Answer, Gold, align_tags, read_rows
from sprue.errors import InputError
from sprue.models.nets import ANSWERS, IMAGES, SENTENCES, TEXTS, TOKENS


def _file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _lines(path: Path, *rows: Any) -> Path:
    return _file(path, "\n".join(json.dumps(row) for row in rows) + "\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"good, very",pos\nbad,neg\n'),
        ("b.csv", "id,Label,Sentence\n7,pos,'good, very'\n8,neg,bad\n".replace("'", '"')),
        ("c.tsv", "good, very\tpos\nbad\tneg\n"),
        ("d.tsv", "good, very\t1\n\nbad\t0\n"),
        ("e.jsonl", '{"review": "good, very", "intent": 1}\n{"review": "bad", "intent": 0}\n'),
        ("f.jsonl", '["good, very", "POS"]\n["bad", "NEG"]'),
        ("g.json", '[{"text": "good, very", "label": 1.0}, {"text": "bad", "label": "0"}]'),
        ("h.json", '{"only": [["good, very", "pos"], ["bad", "neg"]], "note": "x"}'),
        ("i.csv", '\ufefftext,label\r\n"good, very",pos\r\nbad,neg\r\n'),
        ("j.txt", "good, very\tpos\nbad\tneg"),
    ],
)
def test_texts_in_every_format(name: str, content: str, tmp_path: Path) -> None:
    found = read_rows(_file(tmp_path / name, content), TEXTS, ["neg", "pos"])
    assert found.first == ("good, very", "bad")
    assert found.truth == (1, 0)
    assert (found.second, found.classes, len(found)) == (None, ("neg", "pos"), 2)


def test_quotes_mean_nothing_between_tabs(tmp_path: Path) -> None:
    found = read_rows(_file(tmp_path / "a.tsv", '"so" he said\t0\nan " alone\t1\n'), TEXTS)
    assert found.first == ('"so" he said', 'an " alone')
    assert found.classes is None


def test_a_line_may_end_in_a_quoted_text(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", 'text,label\n"two\nlines",a\nb\n')
    with pytest.raises(
        InputError, match=r"a\.csv, line 4: 1 columns, where those before it have 2"
    ):
        read_rows(path, TEXTS)


def test_names_without_a_model_are_in_alphabetical_order(tmp_path: Path) -> None:
    found = read_rows(_file(tmp_path / "a.tsv", "x\tdog\ny\tcat\nz\tdog\n"), TEXTS)
    assert (found.truth, found.classes) == ((1, 0, 1), ("cat", "dog"))
    # a class that is called like a column of texts does not make a header
    found = read_rows(_file(tmp_path / "b.tsv", "x\tquestion\ny\tother\n"), TEXTS)
    assert (found.truth, found.classes) == ((1, 0), ("other", "question"))


def test_names_come_before_numbers(tmp_path: Path) -> None:
    """Classes that are called by numbers of their own."""
    found = read_rows(_file(tmp_path / "a.tsv", "x\t10\ny\t20\n"), TEXTS, ["20", "10"])
    assert found.truth == (1, 0)


def test_two_texts(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.tsv", "idx\tquestion\tsentence\tlabel\n0\tq\ts\t1\n")
    found = read_rows(path, TEXTS, ["a", "b"])
    assert (found.first, found.second, found.truth) == (("q",), ("s",), (1,))


def test_one_of_several_lists(tmp_path: Path) -> None:
    lists = {"train": [["a", "x"]], "test": [["b", "y"], ["c", "x"]]}
    path = _file(tmp_path / "all.json", json.dumps(lists))
    test, train = (read_rows(f"{path}#{name}", TEXTS, ["x", "y"]) for name in ("test", "train"))
    assert (test.first, test.truth) == (("b", "c"), (1, 0))
    assert test.fingerprint != train.fingerprint
    message = r"several lists: name one as all\.json#NAME; there are train, test"
    with pytest.raises(InputError, match=message):
        read_rows(path, TEXTS)
    with pytest.raises(InputError, match=r"no list 'dev': name one as all\.json#NAME"):
        read_rows(f"{path}#dev", TEXTS)
    with pytest.raises(InputError, match="is one list: leave '#x' away"):
        read_rows(f"{_file(tmp_path / 'one.json', '[]')}#x", TEXTS)
    with pytest.raises(InputError, match=r"only a \.json file holds several lists"):
        read_rows(f"{_file(tmp_path / 'a.csv', 'a,b')}#x", TEXTS)
    odd = _lines(tmp_path / "a#b.jsonl", ["t", 0])  # a name with a number sign in it
    assert read_rows(odd, TEXTS).first == ("t",)


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.tsv", "x\t0\ny\t1\n")
    assert read_rows(path, TEXTS).fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_sample_is_drawn_with_a_seed(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.tsv", "".join(f"text {i}\t{i % 3}\n" for i in range(40)))
    found = read_rows(path, TEXTS)
    some = found.sample(10, 3)
    assert len(some) == len(set(some.first)) == 10
    assert some == found.sample(10, 3)
    assert some.first != found.sample(10, 4).first
    assert all(
        int(t.split()[1]) % 3 == n for t, n in zip(some.first, some.truth or (), strict=True)
    )
    assert found.sample(99, 0) == found


def test_sentences(tmp_path: Path) -> None:
    pairs = _file(tmp_path / "a.csv", "sentence1,sentence2,score\na,b,4.5\nc,d,0\n")
    found = read_rows(pairs, SENTENCES)
    assert (found.first, found.second, found.truth) == (("a", "c"), ("b", "d"), (4.5, 0.0))
    assert read_rows(_file(tmp_path / "b.tsv", "a\tb\t0.5\n"), SENTENCES).truth == (0.5,)
    labelled = read_rows(_file(tmp_path / "c.tsv", "a\tx\nb\ty\n"), SENTENCES, ["of", "no", "use"])
    assert (labelled.truth, labelled.classes) == ((0, 1), ("x", "y"))
    plain = read_rows(_file(tmp_path / "d.txt", "one\ntwo\n"), SENTENCES)
    assert (plain.first, plain.truth) == (("one", "two"), None)
    assert plain.sample(1, 0).truth is None
    for bad in ("much", "nan"):
        with pytest.raises(InputError, match=r"line 2: expected a number as the similarity"):
            read_rows(_file(tmp_path / "e.csv", f"text1,text2,score\na,b,{bad}\n"), SENTENCES)


TAGS = ("O", "B-PER", "I-PER")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "Ada\tB-PER\nL.\tI-PER\n\nno\tO\n"),
        ("b.conll", "-DOCSTART- -X- O\n\nAda NNP B-PER\nL. NNP I-PER\n\n\nno DT O\n"),
        ("c.txt", "token\tner\nAda\tB-PER\nL.\tI-PER\n \nno\tO"),
        (
            "d.jsonl",
            '{"tokens": ["Ada", "L."], "ner_tags": [1, 2]}\n{"tokens": ["no"], "ner_tags": [0]}',
        ),
        (
            "e.json",
            '[{"words": ["Ada", "L."], "tags": ["B-PER", "I-PER"]}, '
            '{"words": ["no"], "tags": ["O"]}]',
        ),
    ],
)
def test_tags_in_every_format(name: str, content: str, tmp_path: Path) -> None:
    found = read_rows(_file(tmp_path / name, content), TOKENS, TAGS)
    assert found.first == (("Ada", "L."), ("no",))
    assert found.truth == ((1, 2), (0,))


def test_tags_that_are_not_scored(tmp_path: Path) -> None:
    path = _lines(tmp_path / "a.jsonl", {"tokens": ["a", "b"], "tags": [IGNORED, 1]})
    assert read_rows(path, TOKENS, TAGS).truth == ((IGNORED, 1),)


def test_tags_of_words_go_to_their_first_tokens() -> None:
    word_ids = [None, 0, 0, 1, 2, 2, 2, None, None]
    assert align_tags(word_ids, [5, 0, 7]) == [IGNORED, 5, IGNORED, 0, 7, *[IGNORED] * 4]
    assert align_tags([None, 0], [3, 4]) == [IGNORED, 3]  # what was cut off
    assert align_tags([0, None, 0], [3]) == [3, IGNORED, 3]


CONTEXT = "Ada wrote it in 1843."


def test_answers_in_every_format(tmp_path: Path) -> None:
    flat = {"question": "When?", "context": CONTEXT, "answers": {"text": ["1843"]}}
    flat["answers"]["answer_start"] = [16]  # type: ignore[index]
    none = {"question": "Why?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}
    listed = [{"text": "1843", "answer_start": 16}]
    asked = [
        {"id": "1", "question": "When?", "answers": listed},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    squad = {"version": "2", "data": [{"paragraphs": [{"context": CONTEXT, "qas": asked}]}]}
    files = (
        _lines(tmp_path / "a.jsonl", flat, none),
        _file(tmp_path / "b.json", json.dumps([flat, none])),
        _file(tmp_path / "c.json", json.dumps(squad)),
    )
    for file in files:
        found = read_rows(file, ANSWERS)
        assert (found.first, found.second) == (("When?", "Why?"), (CONTEXT, CONTEXT))
        assert found.truth == (Gold(("1843",), (16,)), Gold((), ()))


def test_spans_of_tokens_and_characters() -> None:
    offsets = np.array([(-1, -1), (0, 3), (4, 9), (10, 12), (13, 15), (16, 18), (18, 20), (-1, -1)])
    answer = Answer(CONTEXT, ("1843",), offsets)
    assert answer.between(5, 6) == "1843"
    assert answer.span(16, 20) == (5, 6)
    assert answer.span(5, 11) == (2, 3)  # parts of words take the whole of them
    assert Answer(CONTEXT, ("1843",), offsets[:6]).span(16, 20) is None
    assert Answer(CONTEXT, ("1843",), offsets[:3]).span(16, 20) is None


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.tsv", "", TEXTS, "is empty: give a file with labelled text"),
        ("a.tsv", " \n\n", TEXTS, "is empty"),
        ("a.jsonl", "[]", TEXTS, "columns without known names"),
        ("a.json", "[]", TEXTS, "holds no rows"),
        ("a.csv", "text,label\n", TEXTS, "line 1: a header and no rows"),
        ("a.tsv", "x\t0\n\ny\n", TEXTS, "line 3: 1 columns, where those before it have 2"),
        ("a.tsv", b"x\t0\ny\xff\t1\n", TEXTS, r"line 2: not UTF-8 \(byte 0xff\)"),
        ("a.csv", 'x,"0\n', TEXTS, "line 1: unexpected end of data"),
        (
            "a.csv",
            "text,other\nx,1\n",
            TEXTS,
            "no column for labels: expected one of label, labels",
        ),
        ("a.csv", "id,label\nx,1\n", TEXTS, "line 1: .*does not know the label 'label'"),
        ("a.jsonl", '{"text": "x"}', TEXTS, "it has 'text'"),
        ("a.jsonl", '{"label": 0}', TEXTS, "no column for texts"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text": "y"}', TEXTS, "line 2: no 'label'"),
        ("a.jsonl", '{"text": 3, "label": 0}', TEXTS, "line 1: expected a text as 'text', got 3"),
        ("a.jsonl", '{"text": "x", "label": 0}\n["y", 1]', TEXTS, "line 2: expected an object"),
        ("a.jsonl", '["x", 0]\n["y"]', TEXTS, "line 2: 1 values; expected 2"),
        ("a.jsonl", '["x", 0]\n{"text": "y"}', TEXTS, "line 2: expected a list of values"),
        ("a.jsonl", '["x", 0]\nnope', TEXTS, "line 2: no JSON: Expecting value"),
        ("a.json", '[["x", 0],\n["y", ]]', TEXTS, "line 2: no JSON"),
        ("a.json", "[" * 100_000, TEXTS, "nested too deeply"),
        ("a.json", '"text"', TEXTS, "expected a list of rows, got a str"),
        ("a.json", '{"a": 1}', TEXTS, "has no list"),
        ("a.tsv", "x\tneg\ny\t\n", TEXTS, "line 2: no label"),
        ("a.tsv", "x\t0\ny\t2\n", TEXTS, "line 2: .*label 2; it knows neg, pos; the file has 0, 2"),
        ("a.tsv", "x\t-1\n", TEXTS, "does not know the label -1"),
        ("a.tsv", "x\tgood\n", TEXTS, "label 'good'; it knows neg, pos; the file has good"),
        ("a.parquet", "x", TEXTS, r"expected a name that ends in \.csv, \.tsv, \.txt, \.jsonl"),
        ("a.csv", "x,O\n", TOKENS, r"expected a name that ends in \.tsv, \.txt, \.conll"),
        ("a.tsv", "x\tneg\nalone\n", TOKENS, "line 2: expected a token, a tab and its tag"),
        ("a.tsv", "x\tneg\n\ny\tB-X\n", TOKENS, "line 3: .*label 'B-X'; it knows neg, pos"),
        ("a.jsonl", '{"tokens": ["x"], "tags": []}', TOKENS, "tag for each of 1 words, got 0 tags"),
        ("a.jsonl", '{"tokens": "x", "tags": [0]}', TOKENS, "expected words as a list of texts"),
        (
            "a.jsonl",
            '{"tokens": ["x"], "tags": [7]}',
            TOKENS,
            "line 1: .*does not know the label 7",
        ),
        ("a.jsonl", '{"question": "x"}', ANSWERS, "no column for contexts"),
        (
            "a.jsonl",
            '{"question": "q", "context": "c", "answers": ["c"]}',
            ANSWERS,
            'line 1: expected answers as {"text"',
        ),
        (
            "a.jsonl",
            '{"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [9]}}',
            ANSWERS,
            "an answer starts at 9, outside of its context",
        ),
        ("a.json", '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', ANSWERS, "missing 'question'"),
        ("a.tsv", "q\tc\ta\n", ANSWERS, "columns without known names"),
        ("a.tsv", "a\tb\tc\td\n", SENTENCES, "columns without known names"),
        ("a.tsv", "x\t0\n", IMAGES, "image-classification does not read text"),
    ],
)
def test_what_cannot_be_used_is_refused(
    name: str, content: str | bytes, task: str, message: str, tmp_path: Path
) -> None:
    path = _file(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(path, task, ["neg", "pos"])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*none\.tsv"):
        read_rows(tmp_path / "none.tsv", TEXTS)
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path, TEXTS)


ASSETS = Path(os.environ.get("SPRUE_ASSETS", Path(__file__).resolve().parents[3] / "shared/assets"))


@pytest.mark.skipif(
    not (ASSETS / "routing").is_dir(), reason="SPRUE_ASSETS (default ../shared/assets) is absent"
)
def test_real_files() -> None:
    dev = read_rows(ASSETS / "text/sst2/dev.tsv", TEXTS, ["NEGATIVE", "POSITIVE"])
    assert (len(dev), sum(dev.truth or ())) == (872, 444)
    intents = read_rows(f"{ASSETS}/routing/clinc-oos/data_full.json#test", TEXTS)
    assert len(intents) == 4500
    assert intents.classes is not None
    assert np.bincount(intents.truth).tolist() == [30] * 150
