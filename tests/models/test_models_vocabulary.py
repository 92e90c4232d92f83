"""A smaller vocabulary: what stays is segmented as before, and any text can still be written."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

from sprue import demo
from sprue.errors import InputError
from sprue.models import vocabulary
from sprue.models.vocabulary import Vocabulary

Folder = Callable[..., Path]

STRANGE = (
    "naïve café – 漢字 かな 한국어 العربية z̈ \x00\x7f\t\r\n\ufffd",
    "\U0001f600\U0001f469\u200d\U0001f680",
    "   spaces    and\n\n\n\tlines   ",
    "",
)
LINES = [
    "the weight of the part that was lost in the casting",
    "the court heard that the weight was lower than before",
    "a part of the casting and a court of the part, that was the weight",
] * 5


@pytest.fixture(scope="module")
def spoken(base6m: Path) -> Any:
    """The tokenizer of the embedded model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base6m)


@pytest.fixture(scope="module")
def known(base6m: Path) -> Any:
    """The embedded model."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base6m, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def plain(base6m: Path) -> dict[str, Any]:
    """tokenizer.json of the embedded model."""
    return dict(json.loads((base6m / "tokenizer.json").read_text()))


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Capability -> text."""
    files = zip(demo.CAPABILITIES, demo.calibration_files(), strict=True)
    return {name: file.read_text(encoding="utf-8")[:40_000] for name, file in files}


def content(tokenizer: Tokenizer) -> dict[str, Any]:
    return dict(json.loads(tokenizer.to_str()))


def loaded(tokenizer_json: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json))


def counts_of(tokenizer: Tokenizer, texts: Iterable[str]) -> Tensor:
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids]
    return torch.bincount(torch.tensor(ids), minlength=tokenizer.get_vocab_size())


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def check_words(tokenizer: Tokenizer, found: Vocabulary, words: Collection[str]) -> int:
    """Words of kept tokens only have the same tokens; the number of those that have not."""
    smaller, new, others = loaded(found.tokenizer_json), found.new_ids, 0
    for word in words:
        before = [token.id for token in tokenizer.model.tokenize(word)]
        after = [token.id for token in smaller.model.tokenize(word)]
        others += not set(before) <= set(new)
        if set(before) <= set(new):
            assert after == [new[i] for i in before]
    return others


def level(vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    """A BPE tokenizer of bytes."""
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def lettered(extra: Iterable[str]) -> dict[str, int]:
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *extra]
    return {name: i for i, name in enumerate(names)}


def sentencepiece(fallback: bool = True) -> Tokenizer:
    """As Llama 2 has it: marks for spaces, all ways to every token, bytes for other characters."""
    words = [f"▁{word}" for line in LINES for word in line.split()]
    spans = Counter(w[i:j] for w in words for j in range(len(w) + 1) for i in range(j))
    learned = sorted(spans, key=lambda span: (-spans[span], len(span), span))[:160]
    longer = [span for span in learned if len(span) > 1]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256) if fallback)]
    names += [*longer, "é", *sorted(span for span in spans if len(span) == 1)]
    vocab = {name: i for i, name in enumerate(names)}
    ways = [(t[:i], t[i:]) for t in longer for i in range(1, len(t))]
    merges = [(a, b) for a, b in ways if a in vocab and b in vocab]
    options: dict[str, Any] = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": fallback}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return made


def pieces(*extra: tuple[str, float], fallback: bool = False) -> Tokenizer:
    """A Unigram tokenizer of marks for spaces."""
    vocab = [("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(f"<0x{i:02X}>", 0.0) for i in range(256) if fallback]
    vocab += [("▁", -2.0), ("▁the", -3.0), ("▁weight", -6.0), ("ight", -5.0), ("▁court", -6.5)]
    vocab += [(letter, -7.0 - i / 10) for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")]
    made = Tokenizer(models.Unigram([*vocab, *extra], unk_id=1, byte_fallback=fallback))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.ByteFallback()] if fallback else []
    made.decoder = decoders.Sequence([*parts, decoders.Metaspace()])
    made.add_special_tokens(["</s>"])
    return made


def test_tokens_are_counted(spoken: Any, texts: dict[str, str]) -> None:
    end = "<|endoftext|>"
    found = vocabulary.counted(spoken, iter([*texts.values(), end]))
    expected = [spoken(text, add_special_tokens=False).input_ids for text in texts.values()]
    flat = torch.tensor([i for ids in expected for i in ids] + [0])
    assert found.dtype == torch.int64
    assert torch.equal(found, torch.bincount(flat, minlength=4096))


def test_counting_adds_no_special_tokens() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece(), bos_token="<s>")
    assert tokenizer("the").input_ids[0] == 1
    found = vocabulary.counted(tokenizer, ["the", "the weight"])
    assert found[1] == 0
    assert found[tokenizer.convert_tokens_to_ids("▁the")] == 2


def test_no_text_is_no_vocabulary(spoken: Any) -> None:
    with pytest.raises(InputError, match="no text given"):
        vocabulary.counted(spoken, ["", ""])


def test_the_share_outside() -> None:
    counts = torch.tensor([5, 0, 3, 2])
    assert vocabulary.outside(counts, torch.tensor([0, 1])) == 0.5
    assert vocabulary.outside(counts, torch.tensor([0, 2, 3])) == 0.0
    with pytest.raises(InputError, match="all counts are zero"):
        vocabulary.outside(torch.zeros(4, dtype=torch.int64), torch.tensor([0]))


@pytest.mark.parametrize("count", [0, 600])
@pytest.mark.parametrize("capability", demo.CAPABILITIES)
def test_any_text_can_be_written(
    capability: str, count: int, spoken: Any, plain: dict[str, Any], texts: dict[str, str]
) -> None:
    used = vocabulary.counted(spoken, [texts[capability]])
    smaller = loaded(vocabulary.smaller(plain, used, count).tokenizer_json)
    for text in [*(text[:8000] for text in texts.values()), *STRANGE]:
        encoded = smaller.encode(text).ids
        assert smaller.decode(encoded, skip_special_tokens=False) == text
        assert max(encoded, default=0) < smaller.get_vocab_size()


@pytest.mark.parametrize("count", [0, 100, 600, 1500])
def test_words_of_kept_tokens_keep_them(
    count: int, spoken: Any, plain: dict[str, Any], texts: dict[str, str]
) -> None:
    used = vocabulary.counted(spoken, [texts["legal"]])
    found = vocabulary.smaller(plain, used, count)
    whole = loaded(plain)
    words = {word for text in texts.values() for word in words_of(whole, text)}
    assert check_words(whole, found, words) > 100  # that others are spelled shows something is gone


def test_the_most_frequent_stay(spoken: Any, plain: dict[str, Any], texts: dict[str, str]) -> None:
    used = vocabulary.counted(spoken, [texts["stories"]])
    found = vocabulary.smaller(plain, used, 600)
    best = sorted(range(4096), key=lambda i: (-int(used[i]), i))[:600]
    assert set(best) <= set(found.kept.tolist())
    assert 600 < len(found.kept) < 1200
    assert found.kept.tolist() == sorted(found.kept.tolist())
    assert found.kept.dtype == torch.int64
    names = {i: t for t, i in plain["model"]["vocab"].items()}
    smaller = loaded(found.tokenizer_json)
    assert [smaller.id_to_token(i) for i in range(len(found.kept))] == [
        names[old] for old in found.kept.tolist()
    ]
    assert smaller.get_vocab_size() == len(found.kept)
    assert found.new_ids[int(found.kept[700])] == 700
    assert vocabulary.outside(used, found.kept) < 0.2


def test_parts_stay_and_nothing_more() -> None:
    """Of two merges that give a token, only the one that is ever taken."""
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("x", "y"), ("abc", "d")]
    made = level(lettered(["ab", "bc", "abc", "xy", "abcd"]), merges)
    used = torch.zeros(made.get_vocab_size(), dtype=torch.int64)
    used[made.token_to_id("abcd")] = 3
    found = vocabulary.smaller(content(made), used, 1)
    smaller = loaded(found.tokenizer_json)
    longer = {token for token in smaller.get_vocab() if len(token) > 1}
    assert longer == {"ab", "abc", "abcd"}
    assert found.tokenizer_json["model"]["merges"] == [["a", "b"], ["ab", "c"], ["abc", "d"]]
    assert smaller.encode("abcd abcxy").tokens == ["abcd", "Ġ", "abc", "x", "y"]


def test_ties_go_by_id() -> None:
    made = level(lettered(["ab", "cd", "ef"]), [("a", "b"), ("c", "d"), ("e", "f")])
    used = torch.zeros(259, dtype=torch.int64)
    used[256:] = 4
    assert vocabulary.smaller(content(made), used, 2).kept.tolist() == list(range(258))


def test_merges_may_be_strings(plain: dict[str, Any], spoken: Any, texts: dict[str, str]) -> None:
    used = vocabulary.counted(spoken, [texts["code"]])
    joined = [" ".join(pair) for pair in plain["model"]["merges"]]
    strings = {**plain, "model": {**plain["model"], "merges": joined}}
    found, same = (vocabulary.smaller(one, used, 500) for one in (strings, plain))
    assert torch.equal(found.kept, same.kept)
    merges = found.tokenizer_json["model"]["merges"]
    assert merges == [" ".join(pair) for pair in same.tokenizer_json["model"]["merges"]]
    text = texts["code"][:5000]
    assert (
        loaded(found.tokenizer_json).encode(text).ids
        == loaded(same.tokenizer_json).encode(text).ids
    )


def test_a_whole_word_without_merges() -> None:
    vocab = lettered(["ab", "abc", "Ġword", "Ġwo"])
    made = level(vocab, [("a", "b"), ("ab", "c")], ignore_merges=True)
    used = counts_of(made, ["ab word word abc"])
    assert used[vocab["Ġword"]] == 2
    found = vocabulary.smaller(content(made), used, 5)
    smaller = loaded(found.tokenizer_json)
    assert smaller.encode("abc word wo").tokens == ["abc", "Ġword", *"Ġwo"]
    assert found.tokenizer_json["model"]["ignore_merges"] is True
    check_words(made, found, ["Ġword", "abc", "ab", "Ġ"])


@pytest.mark.parametrize("count", [0, 5, 25])
def test_bytes_spell_other_characters(count: int) -> None:
    made = sentencepiece()
    used = counts_of(made, LINES[:1])
    found = vocabulary.smaller(content(made), used, count)
    smaller = loaded(found.tokenizer_json)
    assert "▁" in smaller.get_vocab()  # its bytes would not be read as a space
    assert {f"<0x{i:02X}>" for i in range(256)} <= smaller.get_vocab().keys()
    assert smaller.token_to_id("é") is None
    assert smaller.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    for text in ["the weight of a café, 漢字 \U0001f600", *LINES, "ab  c\n"]:
        assert smaller.decode(smaller.encode(text).ids) == text


def test_texts_of_kept_tokens_keep_them_however_many_ways_there_are() -> None:
    made = sentencepiece()
    merges = content(made)["model"]["merges"]
    assert len({"".join(pair) for pair in merges}) < len(merges) / 1.5
    used = counts_of(made, LINES[:1])
    found = vocabulary.smaller(content(made), used, int((used > 0).sum()))
    before = made.encode(LINES[0]).ids
    assert loaded(found.tokenizer_json).encode(LINES[0]).ids == [found.new_ids[i] for i in before]
    assert len(found.kept) < made.get_vocab_size() - 50
    spans = [LINES[1][i : i + n] for i in range(40) for n in (2, 5, 9)]
    assert check_words(made, found, ["▁" + span.replace(" ", "▁") for span in spans]) > 10


def test_characters_stay_where_no_bytes_are() -> None:
    made = sentencepiece(fallback=False)
    found = vocabulary.smaller(content(made), counts_of(made, LINES[:1]), 0)
    smaller = loaded(found.tokenizer_json)
    letters = {token for token in made.get_vocab() if len(token) == 1}
    assert smaller.get_vocab().keys() == letters | {"<unk>", "<s>", "</s>"}
    assert smaller.encode("é漢", add_special_tokens=False).tokens == ["▁", "é", "<unk>"]


def test_bytes_that_are_not_read_again_spell_nothing() -> None:
    made = sentencepiece()
    made.decoder = decoders.Replace("▁", " ")
    found = vocabulary.smaller(content(made), counts_of(made, LINES), 0)
    assert "é" in loaded(found.tokenizer_json).get_vocab()


def test_ends_of_words_have_letters_of_their_own() -> None:
    options: dict[str, Any] = {"end_of_word_suffix": "</w>", "continuing_subword_prefix": "##"}
    made = Tokenizer(models.BPE(unk_token="<unk>", **options))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=110, show_progress=False, special_tokens=["<unk>"], **options
    )
    made.train_from_iterator(LINES, trainer)
    found = vocabulary.smaller(content(made), counts_of(made, LINES[:1]), 6)
    words = {word for line in LINES for word in line.replace(",", " ").split()}
    assert len(found.kept) < made.get_vocab_size()
    assert 0 < check_words(made, found, words) < len(words)
    smaller = loaded(found.tokenizer_json)
    assert all("<unk>" not in smaller.encode(word).tokens for word in words)


def test_parts_within_a_word_have_their_mark() -> None:
    names = ["##abc", "xyz", "##ab", "xy", "<unk>", "x", "##a", "##b", "##c", "##y", "##z"]
    merges = [("##a", "##b"), ("x", "##y"), ("xy", "##z"), ("##ab", "##c")]
    vocab = {name: i for i, name in enumerate(names)}
    made = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", continuing_subword_prefix="##")
    )
    found = vocabulary.smaller(content(made), counts_of(made, ["xabc"]), 1)
    smaller = loaded(found.tokenizer_json)
    assert smaller.get_vocab().keys() == set(names) - {"xyz", "xy"}  # nobody added <unk>
    assert smaller.encode("xabc").tokens == ["x", "##abc"]
    assert smaller.encode("xyzé").tokens == ["x", "##y", "##z", "<unk>"]


@pytest.mark.parametrize("fallback", [False, True])
def test_pieces_of_unigram(fallback: bool) -> None:
    made = pieces(fallback=fallback)
    used = counts_of(made, ["the weight of the part"] * 3)
    found = vocabulary.smaller(content(made), used, 2)
    smaller, model = loaded(found.tokenizer_json), found.tokenizer_json["model"]
    assert smaller.id_to_token(model["unk_id"]) == "<unk>"
    scores = dict(map(tuple, content(made)["model"]["vocab"]))
    assert all(scores[piece] == score for piece, score in model["vocab"])
    assert "▁court" not in smaller.get_vocab()
    assert ("q" in smaller.get_vocab()) is not fallback
    for text in ("the weight of the court", "the part"):
        assert smaller.decode(smaller.encode(text).ids) == text
    new = found.new_ids
    assert smaller.encode("the").ids == [new[i] for i in made.encode("the").ids]
    if fallback:
        assert smaller.decode(smaller.encode("the 漢 \U0001f600 q").ids) == "the 漢 \U0001f600 q"


def test_what_an_unknown_character_costs() -> None:
    """Without the piece of the lowest score, `unknown abcd` would beat `Xa b c d`."""
    made = pieces(("Xa", -30.0), ("abcd", -0.5), ("zzz", -60.0))
    assert made.encode("Xabcd", add_special_tokens=False).tokens == ["▁", "Xa", *"bcd"]
    used = counts_of(made, ["Xabcd abcd"])
    found = vocabulary.smaller(content(made), used, 8)
    assert {"Xa", "abcd"} <= loaded(found.tokenizer_json).get_vocab().keys()
    check_words(made, found, ["▁Xabcd", "▁abcd"])
    gone = copy.deepcopy(found.tokenizer_json)
    gone["model"]["vocab"] = [piece for piece in gone["model"]["vocab"] if piece[0] != "zzz"]
    assert loaded(gone).encode("Xabcd").tokens != made.encode("Xabcd").tokens


def test_no_unknown_piece() -> None:
    vocab = [("a", -1.0), ("b", -1.0), ("ab", -1.5), ("ba", -1.6)]
    made = content(Tokenizer(models.Unigram(vocab, unk_id=None, byte_fallback=False)))
    found = vocabulary.smaller(made, torch.tensor([0, 0, 0, 4]), 1)
    assert found.kept.tolist() == [0, 1, 3]
    assert found.tokenizer_json["model"]["unk_id"] is None
    assert loaded(found.tokenizer_json).encode("baab").ids == [2, 0, 1]


PROCESSORS = {
    "template": processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1", special_tokens=[("<s>", 257), ("</s>", 300)]
    ),
    "roberta": processors.RobertaProcessing(("</s>", 300), ("<s>", 257)),
    "bert": processors.BertProcessing(("</s>", 300), ("<s>", 257)),
}


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", PROCESSORS)
def test_special_tokens_keep_their_meaning(name: str, within: bool) -> None:
    extra = ["ab", "<s>", *(f"unused{i}" for i in range(42)), "</s>", "cd"]
    made = level(lettered(extra), [("a", "b"), ("c", "d")])
    made.add_special_tokens(["<s>", "<|user|>"])  # </s> is named by the processor alone
    made.enable_padding(pad_id=260, pad_token="unused2")
    processor = PROCESSORS[name]
    made.post_processor = (
        processors.Sequence([processors.ByteLevel(), processor]) if within else processor
    )
    used = counts_of(made, ["cd"])
    found = vocabulary.smaller(content(made), used, 1, always=[270, 9999])
    assert found.kept.tolist() == [*range(256), 257, 260, 270, 300, 301, 302]
    smaller = loaded(found.tokenizer_json)
    assert smaller.encode("cd<|user|>").tokens == ["<s>", "cd", "<|user|>", "</s>"]
    assert smaller.encode("cd<|user|>").ids == [256, 260, 261, 259]
    assert smaller.padding["pad_id"] == 257
    assert smaller.decode([256, 260, 261, 259]) == "cd</s>"  # special ones are passed over


def test_same_bytes_twice_and_nothing_is_changed(
    spoken: Any, plain: dict[str, Any], texts: dict[str, str], base6m: Path, tmp_path: Path
) -> None:
    used = vocabulary.counted(spoken, [texts["security"]])
    before = copy.deepcopy(plain), used.clone()
    written = []
    for name in ("one", "two"):
        found = vocabulary.smaller(plain, used, 300)
        files = vocabulary.saved(found, base6m, tmp_path / name)
        written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
    assert written[0].keys() == {"tokenizer.json", "tokenizer_config.json"}
    found.tokenizer_json["decoder"]["type"] = "changed"
    assert plain == before[0]
    assert torch.equal(used, before[1])


def test_all_of_it(spoken: Any, plain: dict[str, Any]) -> None:
    used = vocabulary.counted(spoken, ["a few words"])
    found = vocabulary.smaller(plain, used, 10_000)
    assert found.kept.tolist() == list(range(4096))
    assert found.tokenizer_json == plain


def test_old_files_name_no_type(plain: dict[str, Any]) -> None:
    model = {name: value for name, value in plain["model"].items() if name != "type"}
    used = torch.zeros(4096, dtype=torch.int64)
    assert len(vocabulary.smaller({**plain, "model": model}, used, 0).kept) == 257


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
    ],
)
def test_other_kinds_stay_whole(model: Any) -> None:
    kind = type(model).__name__
    with pytest.raises(InputError, match=f"{kind} cannot be cut: it stays whole"):
        vocabulary.smaller(content(Tokenizer(model)), torch.tensor([1, 1]), 1)


def test_bad_counts(plain: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected counts of 4096 tokens, got \[4000\]"):
        vocabulary.smaller(plain, torch.ones(4000, dtype=torch.int64), 10)
    with pytest.raises(InputError, match="0 or more, got -1"):
        vocabulary.smaller(plain, torch.ones(4096, dtype=torch.int64), -1)


def test_ids_with_gaps_stay_whole() -> None:
    """The library numbers added tokens itself, and would give these other ids."""
    made = content(level(lettered(["ab"]), [("a", "b")]))
    made["added_tokens"] = [
        dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        | {"id": i, "content": f"<{i}>", "special": True}
        for i in (300, 260)
    ]
    with pytest.raises(InputError, match="its ids have gaps, and it stays whole"):
        vocabulary.smaller(made, torch.zeros(301, dtype=torch.int64), 10)


def test_what_configs_name(known: Any) -> None:
    tokenizer = SimpleNamespace(all_special_ids=[7], added_tokens_decoder={7: "", 9: ""})
    config, generation = (copy.deepcopy(c) for c in (known.config, known.generation_config))
    config.eos_token_id, config.pad_token_id = [3, 4], -1
    generation.bad_words_ids, generation.suppress_tokens = [[5], [6, 8]], [11]
    assert vocabulary.named(tokenizer, config, generation, None) == {-1, 0, *range(3, 10), 11}
    assert vocabulary.named(tokenizer) == {7, 9}


def test_the_cut_model_answers_the_same(
    known: Any, spoken: Any, plain: dict[str, Any], texts: dict[str, str]
) -> None:
    used = vocabulary.counted(spoken, [texts["stories"]])
    always = vocabulary.named(spoken, known.config, known.generation_config)
    found = vocabulary.smaller(plain, used, 1200, always)
    state = {name: tensor.clone() for name, tensor in known.state_dict().items()}
    cut = vocabulary.cut(known, found)
    whole, smaller = loaded(plain), loaded(found.tokenizer_json)
    compared = 0
    for line in texts["stories"].split("\n"):
        before, after = whole.encode(line).ids, smaller.encode(line).ids
        if len(before) < 8 or not set(before) <= set(found.new_ids) or compared > 3:
            continue
        assert after == [found.new_ids[i] for i in before]
        with torch.no_grad():
            expected = known(torch.tensor([before])).logits[..., found.kept]
            torch.testing.assert_close(cut(torch.tensor([after])).logits, expected)
        compared += 1
    assert compared > 3
    assert cut.lm_head.weight is cut.model.embed_tokens.weight
    assert cut.config.vocab_size == len(found.kept)
    assert all(torch.equal(known.state_dict()[name], state[name]) for name in state)
    assert known.config.vocab_size == 4096


def test_every_family(tiny: str, folder: Folder, ids: Tensor) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder(tiny))
    kept = torch.tensor([1, 2, *range(5, 90, 2)])
    cut = vocabulary.cut(model, Vocabulary(kept, {}))
    tokens = ids[:2] % len(kept)
    with torch.no_grad():
        expected = model(kept[tokens], use_cache=False).logits[..., kept]
        found = cut(tokens, use_cache=False, labels=tokens)
    torch.testing.assert_close(found.logits, expected)
    assert torch.isfinite(found.loss)
    assert (cut.config.pad_token_id, cut.config.bos_token_id) == (None, 0)
    assert cut.get_output_embeddings().out_features == len(kept)
    tied = model.lm_head.weight is model.get_input_embeddings().weight if tiny == "llama" else None
    assert tied is None or cut.lm_head.weight is cut.get_input_embeddings().weight


def test_ids_in_configs_are_the_new_ones(folder: Folder) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder("phi"))
    model.config.eos_token_id, model.config.pad_token_id = [2, 40, 60], 40
    model.generation_config.eos_token_id, model.generation_config.bos_token_id = 60, 1
    model.generation_config.bad_words_ids = [[60, 2], [3], [40]]
    model.generation_config.suppress_tokens = [3]
    inner = model.get_input_embeddings()
    inner.padding_idx = 40
    model.lm_head.requires_grad_(False)
    cut = vocabulary.cut(model, Vocabulary(torch.tensor([2, 40, 60]), {}))
    assert cut.config.eos_token_id == [0, 1, 2]
    assert cut.config.pad_token_id == cut.get_input_embeddings().padding_idx == 1
    assert cut.config.bos_token_id is cut.generation_config.bos_token_id is None
    assert cut.generation_config.eos_token_id == 2
    assert cut.generation_config.bad_words_ids == [[2, 0], [1]]
    assert cut.generation_config.suppress_tokens is None
    assert torch.equal(cut.lm_head.bias, model.lm_head.bias[[2, 40, 60]])
    assert not cut.lm_head.weight.requires_grad
    assert cut.get_input_embeddings().weight.requires_grad
    assert model.config.eos_token_id == [2, 40, 60]


def test_rows_beyond_the_tokenizer_are_gone(speaking: Folder) -> None:
    """The model has 300 rows, its tokenizer 259 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = speaking("llama", vocab_size=300)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForCausalLM.from_pretrained(path),
    )
    used = vocabulary.counted(tokenizer, ["some text"])
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    found = vocabulary.smaller(whole, used, 300, vocabulary.named(tokenizer, model.config))
    cut = vocabulary.cut(model, found)
    assert cut.get_input_embeddings().weight.shape[0] == cut.config.vocab_size == 259
    assert torch.equal(cut.lm_head.weight, model.lm_head.weight[:259])


def test_a_cut_model_that_comes_back(
    known: Any, spoken: Any, plain: dict[str, Any], base6m: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    used = vocabulary.counted(spoken, ["the court of the"])
    found = vocabulary.smaller(plain, used, 300)
    cut = vocabulary.cut(known, found)
    cut.save_pretrained(tmp_path / "out")
    vocabulary.saved(found, base6m, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.config.vocab_size == len(found.kept)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)
    given = tokenizer("the court of \U0001f600", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**given).logits, cut(**given).logits)
    made = model.generate(**given, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(made[0]).startswith("the court of \U0001f600")


def test_models_that_cannot_be_cut(folder: Folder, tiny_encoder: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    cut = partial(vocabulary.cut, vocabulary=Vocabulary(torch.tensor([1, 96]), {}))
    with pytest.raises(InputError, match="embedding has 96 rows and token 96 should stay"):
        cut(model)
    encoder = tiny_encoder("ForSequenceClassification")
    with pytest.raises(InputError, match="has no dense embedding and head"):
        cut(AutoModelForSequenceClassification.from_pretrained(encoder))


def test_a_part_of_the_vocabulary_elsewhere(folder: Folder) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    class Biased(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.register_buffer("final_bias", torch.zeros(config.vocab_size))

    model = Biased(AutoModelForCausalLM.from_pretrained(folder("llama")).config)
    few = Vocabulary(torch.arange(9), {})
    with pytest.raises(InputError, match=r"final_bias of Biased should have the shape \[9\]"):
        vocabulary.cut(model, few)
    model.config.vocab_size_per_layer_input = 96
    with pytest.raises(InputError, match="embeds tokens in every layer"):
        vocabulary.cut(model, few)


def test_files_beside_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = sentencepiece()
    made.add_special_tokens(["<|im_start|>"])
    original, out = tmp_path / "original", tmp_path / "new" / "out"
    (original / "additional_chat_templates").mkdir(parents=True)
    made.save(str(original / "tokenizer.json"))
    last = made.token_to_id("<|im_start|>")
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    known = {1: "<s>", 2: "</s>", last: "<|im_start|>", 9999: "<none>"}
    decoder = {str(i): flags | {"content": t, "special": True} for i, t in known.items()}
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token_id": 2,
        "added_tokens_decoder": decoder,
    }
    texts = {
        "tokenizer_config.json": json.dumps(config),
        "special_tokens_map.json": '{"bos_token": "<s>", "eos_token": "</s>"}',
        "added_tokens.json": json.dumps({"<|im_start|>": last}),
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tools.jinja": "{{ tools }}",
        "vocab.json": "{}",
        "merges.txt": "",
        "tokenizer.model": "old",
    }
    for name, text in texts.items():
        (original / name).write_text(text, encoding="utf-8")
    found = vocabulary.smaller(content(made), counts_of(made, LINES), 20)
    written = vocabulary.saved(found, original, out)
    new = found.new_ids[last]
    assert {str(file.relative_to(out)) for file in written} == {
        *texts.keys() - {"vocab.json", "merges.txt", "tokenizer.model"},
        "tokenizer.json",
    }
    assert {file for file in out.rglob("*") if file.is_file()} == set(written)
    told = json.loads((out / "tokenizer_config.json").read_text())
    assert told["added_tokens_decoder"].keys() == {"1", "2", str(new)}
    assert told["pad_token_id"] == 2
    assert json.loads((out / "added_tokens.json").read_text()) == {"<|im_start|>": new}
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert type(tokenizer).__name__ == "LlamaTokenizer"
    assert tokenizer.get_vocab() == loaded(found.tokenizer_json).get_vocab()
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") == new == len(found.kept) - 1
    assert tokenizer("the<|im_start|>").input_ids[-1] == new
    text = "the weight of a café"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_folders_that_cannot_be(base6m: Path, tmp_path: Path) -> None:
    found = Vocabulary(torch.tensor([0]), {"version": "1.0"})
    with pytest.raises(InputError, match="expected the folder of a tokenizer and another"):
        vocabulary.saved(found, base6m, base6m)
    with pytest.raises(InputError, match="expected the folder of a tokenizer"):
        vocabulary.saved(found, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(InputError, match="is no readable JSON"):
        vocabulary.saved(found, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
