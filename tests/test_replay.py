"""A log asked again of a fleet and of its full model, from the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprue.cli import main
from sprue.errors import InputError
from sprue.fleet.fleet import FULL
from sprue.fleet.made_up import Mix, write
from sprue.fleet.replay_report import ratio_of, worse_by
from sprue.fleet.reserve import Reserve
from sprue.fleet.router import Router
from sprue.fleet.scoring import Need
from sprue.fleet.shadow import Risk
from sprue.replay import Terms, replay
from sprue.route import answer

pytest.importorskip("sklearn", reason="the extra fleet is not installed")

SAID = {
    "law": "court lease tenant owner statute clause section liability judge party",
    "code": "python loop list class import def value return self print",
    "verse": "moon sea wind night rose dream song star heart dawn",
}
TOPICS = {name: words.split() for name, words in SAID.items()}
FORM = Reserve(math.inf, "margin")
SHARES = {"law": 0.5, "code": 0.3, "verse": 0.2}


def needs(count: int, seed: int) -> dict[str, list[Need]]:
    rng = np.random.default_rng(seed)

    def said(words: list[str], n: int) -> str:
        return " ".join(rng.choice(words, n))

    return {
        name: [Need(said(words, 7), " " + said(words, 3)) for _ in range(count)]
        for name, words in TOPICS.items()
    }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, speaking: Callable[..., Path]) -> Path:
    """A fleet of tiny random models whose law specialist is the full model's twin.

    The one for code is another model, and there is none for verse.
    """
    folder = tmp_path_factory.mktemp("replay")
    examples = [(n.prompt, name) for name, some in needs(60, 5).items() for n in some]
    Router.train(examples, 0).save(folder / "router.safetensors")
    full, other = speaking("llama"), speaking("llama", num_hidden_layers=1)
    lines = [f"full: {full}", "router: router.safetensors", "specialists:"]
    lines += [f"  law: {full}", f"  code: {{model: {other}}}"]
    (folder / "fleet.yaml").write_text("\n".join(lines), encoding="utf-8")
    mix = Mix(SHARES, several=0.25, named=0.2, nameable=frozenset(TOPICS))
    write(folder / "log.jsonl", needs(60, 0), 60, mix, (40, 20), seed=0)
    write(folder / "shadow.jsonl", needs(180, 1), 200, mix, (40, 20), seed=1)
    return folder


def replayed(fleet: Path, **changes: Any) -> dict[str, Any]:
    terms = Terms(**{"timed": 0, **changes})
    return replay([fleet / "log.jsonl"], fleet / "fleet.yaml", terms).as_dict()


@pytest.fixture(scope="module")
def plain(fleet: Path) -> dict[str, Any]:
    return replayed(fleet)


def test_a_twin_answers_as_the_full_model_does(plain: dict[str, Any]) -> None:
    law = next(one for one in plain["capabilities"] if one["name"] == "law")
    assert law["to_specialists"] > 0.9
    assert law["perplexity"]["fleet"] == pytest.approx(law["perplexity"]["full"], rel=0.02)
    assert law["saved"] == pytest.approx(0, abs=0.03)


def test_what_has_no_specialist_goes_to_the_full_model(plain: dict[str, Any]) -> None:
    verse = next(one for one in plain["capabilities"] if one["name"] == "verse")
    assert verse["to_specialists"] < 0.2
    assert verse["by_full"] > 0.8


def test_the_one_figure_is_made_of_its_parts(plain: dict[str, Any]) -> None:
    parts, total = plain["parts"], plain["total"]
    saved = sum(value for name, value in parts.items() if name != "left_to_the_full_model")
    assert plain["saved"]["flops"] == pytest.approx(saved)
    assert total["saved"] == pytest.approx(1 - total["flops"]["fleet"] / total["flops"]["full"])
    assert total["needs"] == sum(one["needs"] for one in plain["capabilities"])
    assert parts["router"] < 0 == parts["reserve"]
    assert plain["routed_as_told"] > 0.8
    assert plain["split_as_asked"] > 0.6


def test_all_handed_over_is_the_full_model_and_costs_more(fleet: Path, plain: Any) -> None:
    """The last point of the curve: each answer is the full model's, and the drafts are lost."""
    first, last = plain["curve"][0], plain["curve"][-1]
    assert (first["handed_over"], last["handed_over"]) == (0.0, 1.0)
    assert first["saved"] == pytest.approx(plain["saved"]["flops"])
    assert last["saved"] < 0
    assert last["perplexity_ratio"] == pytest.approx(1, abs=0.03)  # but for requests split wrong


def test_thresholds_from_shadow_traffic(fleet: Path) -> None:
    found = replayed(fleet, shadow=(fleet / "shadow.jsonl",), risk=Risk(0.015, 0.0), form=FORM)
    assert set(found["reserves"]) == {"law", "code"}
    assert found["reserves"]["law"]["threshold"] == "never"  # a twin loses nothing
    assert found["reserves"]["code"]["threshold"] != "never"
    code = next(one for one in found["capabilities"] if one["name"] == "code")
    assert code["handed_over"] > 0.1
    assert found["parts"]["reserve"] < 0


def test_the_command_tells_writes_and_exits_by_what_was_kept(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "r.html", tmp_path / "r.json"
    words = ["replay", str(fleet / "log.jsonl"), "--fleet", str(fleet / "fleet.yaml"), "--quiet"]
    words += ["--timed", "4", "--most", "12", "--report", str(page), "--figures", str(figures)]
    assert main([*words, "--keep", "1%"]) == 0
    out = capsys.readouterr().out
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert told["statement"] in out
    assert told["requests"] == 12
    assert told["timed_requests"] == 4
    assert told["saved"]["cpu_seconds"]["low"] <= told["saved"]["cpu_seconds"]["high"]
    assert told["latency_seconds"]["full"]["p50"] > 0
    assert "law" in page.read_text(encoding="utf-8")


def test_one_of_two_models_is_worse_and_the_command_says_so(
    fleet: Path, tmp_path: Path, speaking: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    models = speaking("llama"), speaking("llama", num_hidden_layers=1)
    codes = []
    for i, (full, own) in enumerate((models, models[::-1])):
        file = tmp_path / f"{i}.yaml"
        lines = [f"full: {full}", f"router: {fleet / 'router.safetensors'}"]
        lines += [f"specialists: {{law: {own}, code: {own}}}"]
        file.write_text("\n".join(lines), encoding="utf-8")
        words = ["replay", str(fleet / "log.jsonl"), "--fleet", str(file), "--timed", "0"]
        codes.append(main([*words, "--keep", "100%", "--json", "--quiet"]))
        told = json.loads(capsys.readouterr().out)
        assert codes[-1] == (0 if told["passed"] else 1)
        assert told["passed"] == (told["total"]["perplexity_ratio"]["kept_at_least"] >= 1)
    assert 1 in codes


def test_a_conversation_in_which_the_full_model_helped_stays_with_it(
    fleet: Path, tmp_path: Path
) -> None:
    some = needs(4, 9)["code"]
    rows = []
    for i, need in enumerate(some):
        told = {"label": "code", "named": True, "capability": "code", "conversation": f"c{i // 2}"}
        rows.append(
            {
                "id": str(i),
                "model": FULL,
                "messages": [{"role": "user", "content": need.prompt}],
                "choices": [{"message": {"content": need.answer}}],
                "metadata": told,
            }
        )
    log, file = tmp_path / "log.jsonl", tmp_path / "fleet.yaml"
    log.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = (fleet / "fleet.yaml").read_text(encoding="utf-8")
    told = told.replace("router.safetensors", str(fleet / "router.safetensors"))
    told = told.replace("{model:", "{reserve: {threshold: -1.0}, model:")
    file.write_text(told, encoding="utf-8")
    found = replay([log], file, Terms(timed=0)).as_dict()
    # of two turns each the first is handed over, and the second goes to the full model at once
    assert found["total"]["to_specialists"] == 0.5
    assert found["total"]["handed_over"] == 1.0


def test_an_answer_is_written_by_those_who_were_asked(fleet: Path) -> None:
    text = f"{needs(1, 3)['law'][0].prompt}\n\n{needs(1, 3)['code'][0].prompt}"
    found = answer(text, fleet / "fleet.yaml", 6)
    assert [one.pieces[0].model for one in found.answers] == ["law", "code"]
    assert found.as_dict()["text"] == "\n\n".join(one.text.strip() for one in found.answers)
    named = answer("moon", fleet / "fleet.yaml", 5, "code")
    assert [piece.model for piece in named.answers[0].pieces] == ["code"]


def test_a_check_that_fails_calls_the_full_model(
    fleet: Path, tmp_path: Path, speaking: Callable[..., Path]
) -> None:
    file = tmp_path / "fleet.yaml"
    lines = [f"full: {speaking('llama')}", f"router: {fleet / 'router.safetensors'}"]
    model = speaking("llama", num_hidden_layers=1)
    lines += ["specialists:", f"  code: {{model: {model}, checks: [json]}}"]
    file.write_text("\n".join(lines), encoding="utf-8")
    (found,) = answer("import list", file, 6, "code").answers
    assert found.pieces[-1].model == FULL
    assert found.pieces[-1].why.startswith("json: ")
    assert found.failed  # a random model writes no JSON either, and that is said


def test_ratios_by_the_unit_of_requests() -> None:
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 3, 4000)
    above = 0.5 * below + rng.normal(0, 0.2, 4000)
    found = ratio_of(above, below)
    assert abs(found.value - 0.5) < 4 * found.error
    assert found.error == pytest.approx(0.2 / (2 * 4000**0.5), rel=0.1)
    pairs = [("a", 2.0, 2.2, 2), ("a", 1.0, 1.0, 2), ("b", 3.0, 3.2, 4)]
    worse = worse_by(pairs)
    assert worse is not None
    assert worse.ratio.value == pytest.approx(math.exp(0.4 / 8))
    assert worse_by(pairs[:2]) is None  # one request


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "0 requests with an answer"),
        ("{\n[]", "line 1: no JSON"),
        ('{"model": "m", "messages": [{"role": "user", "content": "q"}]}', "0 requests"),
    ],
)
def test_logs_that_hold_nothing_to_judge_by(
    fleet: Path, tmp_path: Path, lines: str, message: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        replay([log], fleet / "fleet.yaml")


@pytest.mark.parametrize(
    ("reserve", "message"),
    [
        ("{doubt: margin}", "with a threshold"),
        ("{threshold: 0.5, often: 3}", "with a threshold"),
        ("{threshold: no}", "cannot be used"),
        ("{threshold: high}", "cannot be used"),
        ("{threshold: 0.5, doubt: mood}", "a doubt among"),
    ],
)
def test_reserves_that_cannot_be(fleet: Path, tmp_path: Path, reserve: str, message: str) -> None:
    told = (fleet / "fleet.yaml").read_text(encoding="utf-8")
    told = told.replace("{model:", f"{{reserve: {reserve}, model:")
    told = told.replace("router.safetensors", str(fleet / "router.safetensors"))
    (tmp_path / "fleet.yaml").write_text(told, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        replay([fleet / "log.jsonl"], tmp_path / "fleet.yaml", Terms(timed=0))


def test_too_few_passages_for_a_log(tmp_path: Path) -> None:
    mix = Mix(SHARES, 0.0, 0.0, frozenset())
    with pytest.raises(InputError, match="ask for fewer requests"):
        write(tmp_path / "log.jsonl", needs(3, 0), 100, mix, (1, 1), 0)
    assert not (tmp_path / "log.jsonl").exists()
