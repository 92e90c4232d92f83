"""Which capability a request needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sprue.errors import InputError
from sprue.fleet.router import CLASSIFIED, NAMED, UNKNOWN, Router


def test_what_it_has_not_seen_goes_where_it_belongs(router: Router, texts: Any) -> None:
    shown = texts.sentences(150, 7)
    decisions = [router.route(text) for text, _ in shown]
    right = [d.capability == name for d, (_, name) in zip(decisions, shown, strict=True)]
    assert np.mean(right) > 0.9
    known = [d for d in decisions if not d.unknown]
    assert {d.how for d in known} == {CLASSIFIED}
    assert all(max(d.scores, key=lambda name: d.scores[name]) == d.capability for d in known)
    assert all(set(d.scores) == set(texts.topics) for d in decisions)


def test_what_is_of_no_capability_is_unknown(router: Router, texts: Any) -> None:
    rng = np.random.default_rng(3)
    others = [router.route(texts.sentence(texts.others, rng)) for _ in range(60)]
    assert np.mean([d.unknown for d in others]) > 0.8
    assert all(d.capability is None and d.how == UNKNOWN for d in others if d.unknown)


def test_what_it_looks_like_tells_where_all_words_are_new(texts: Any) -> None:
    """Lines that are set in and sentences, of words that no other text has."""
    rng = np.random.default_rng(5)

    def word() -> str:
        return "".join(rng.choice(list("bcdfghklmnprstvw"), 7))

    def code(count: int) -> str:
        return "\n".join(f"    {word()} {word()} {word()}" for _ in range(count))

    def prose(count: int) -> str:
        return " ".join(f"{word().title()} {word()} {word()}" for _ in range(count))

    shown = [(way(4), name) for way, name in ((code, "code"), (prose, "prose")) for _ in range(60)]
    router = Router.train(shown)
    for way, name in ((code, "code"), (prose, "prose")):
        assert np.mean([router.route(way(3)).capability == name for _ in range(40)]) > 0.9


def test_few_known_texts_are_called_unknown(router: Router, texts: Any) -> None:
    shown = [router.route(text).unknown for text, _ in texts.sentences(300, 11)]
    assert np.mean(shown) < 0.12  # 5% was asked for, of 240 texts


def test_probabilities_mean_what_they_say(texts: Any) -> None:
    """Of half of the texts no topic can be told: they hold words of all."""
    rng = np.random.default_rng(0)
    every = " ".join(texts.topics.values())
    names = list(texts.topics)
    examples = texts.sentences(200, 1)
    examples += [(texts.sentence(every, rng), names[i % 3]) for i in range(200)]
    router = Router.train(examples)
    new = [texts.sentence(every, rng) for _ in range(100)]
    told = np.array([router.probabilities(text) for text in new])
    assert abs(told.mean() - 1 / 3) < 0.15


def test_shown_what_is_unknown_it_tells_both_apart(texts: Any) -> None:
    rng = np.random.default_rng(0)
    others = [(texts.sentence(texts.others, rng), None) for _ in range(80)]
    router = Router.train([*texts.sentences(240, 0), *others])
    new = [router.route(texts.sentence(texts.others, rng)).unknown for _ in range(60)]
    assert np.mean(new) > 0.9
    assert np.mean([router.route(text).unknown for text, _ in texts.sentences(150, 7)]) < 0.1


def test_a_text_may_need_several(texts: Any) -> None:
    a, b = texts.sentences(300, 0), texts.sentences(300, 1)
    joined = [(f"{x} and {y}", (m, n)) for (x, m), (y, n) in zip(a, b[1:], strict=False) if m != n]
    router = Router.train([*a, *joined[:60]])
    scores = [router.route(text).scores for text, _ in joined[60:120]]
    both = [
        min(score[name] for name in names) > max(v for n, v in score.items() if n not in names)
        for score, (_, names) in zip(scores, joined[60:120], strict=True)
    ]
    assert np.mean(both) > 0.9


def test_a_caller_that_names_one_is_believed(router: Router) -> None:
    decision = router.route("bake onion soup", capability="money")
    assert (decision.capability, decision.how, decision.scores) == ("money", NAMED, {})
    with pytest.raises(InputError, match="no capability 'law' here: expected one of cooking"):
        router.route("x", capability="law")


def test_the_same_seed_gives_the_same_bytes(router: Router, texts: Any, tmp_path: Path) -> None:
    again = Router.train(texts.sentences(240, 0), seed=0)
    for name, one in (("a", router), ("b", again)):
        one.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_from_disk_it_decides_the_same(router: Router, texts: Any, tmp_path: Path) -> None:
    router.save(tmp_path / "r")
    back = Router.load(tmp_path / "r")
    for text, _ in texts.sentences(20, 9):
        assert back.route(text) == router.route(text)
        assert back.split(f"{text} and bake soup") == router.split(f"{text} and bake soup")


def test_files_that_are_no_routers(router: Router, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no router"):
        Router.load(tmp_path / "r")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="damaged"):
        Router.load(tmp_path / "text")
    save_file({"x": np.zeros(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="no router of this version"):
        Router.load(tmp_path / "other")
    router.save(tmp_path / "r")
    whole = (tmp_path / "r").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    with pytest.raises(InputError, match="damaged"):
        Router.load(tmp_path / "cut")


@pytest.mark.parametrize("spoil", ["nan", "shape", "missing"])
def test_contents_that_do_not_match(router: Router, tmp_path: Path, spoil: str) -> None:
    router.save(tmp_path / "r")
    tensors = load_file(tmp_path / "r")
    head = (tmp_path / "r").read_bytes()
    told = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    if spoil == "nan":
        tensors["weights"][3, 0] = np.nan
    elif spoil == "shape":
        tensors["part.bias"] = tensors["part.bias"][:1].copy()
    else:
        del tensors["curve"]
    save_file(tensors, tmp_path / "r", told)
    with pytest.raises(InputError, match="damaged"):
        Router.load(tmp_path / "r")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "at least one capability"),
        ([("x", None), ("y", None)], "at least one capability"),
        ([("a b", "one"), ("c d", "two"), ("e f", "two")], "at least 2 texts of 'one'"),
        ([("a b", "one"), ("c d", "one")], "every text needs 'one'"),
        ([("a b", "one"), ("  ", "one")], "example 1: expected a text"),
        ([("a b", "one"), (3, "one")], "example 1: expected a text, got 3"),
    ],
)
def test_too_little_to_learn_from(examples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Router.train(examples)
