"""What stands in tokenizer.json: its tokens, what spells any text, and the same in other ids.

BPE (of bytes or of characters, with or without byte_fallback and ignore_merges) and Unigram.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from sprue.errors import InputError

Renumber = Callable[[int], int]  # old id of a token that stays -> its new one

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_WRITERS = ("replacement", "prepend", "content")  # keys of what normalizers and the like put in


def kind(model: Mapping[str, Any]) -> str:
    """Of a tokenizer's model, BPE or Unigram; old files name no type.

    Raises:
        InputError: another one.
    """
    found = model.get("type") or ("BPE" if "merges" in model else "tokenizer of no named type")
    if found not in ("BPE", "Unigram"):
        raise InputError(
            f"the vocabulary of a {found} cannot be cut: it stays whole (expected BPE or Unigram)"
        )
    return str(found)


def ids(tokenizer_json: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, added tokens included."""
    added = {token["content"]: token["id"] for token in tokenizer_json.get("added_tokens") or ()}
    return {**_own_ids(tokenizer_json["model"]), **added}


def _own_ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, of the tokens that the model itself can give."""
    vocab = model["vocab"]
    return dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, (t, _) in enumerate(vocab)}


def spelling(tokenizer_json: Mapping[str, Any]) -> set[str]:
    """The tokens that spell what no other token does."""
    model = tokenizer_json["model"]
    own = _own_ids(model)
    letters = {token for token in own if len(_bare(model, token)) == 1}
    if _falls_back(tokenizer_json):
        # A mark for a space is put in before the model and read after it: its bytes would not be.
        letters = (letters & _put_in(tokenizer_json)) | _BYTES
    if isinstance(model["vocab"], Mapping):
        return letters | ({model.get("unk_token")} & set(own))
    # What an unknown character costs follows the lowest score.
    lowest, _ = min(model["vocab"], key=lambda piece: piece[1])
    unknown = model.get("unk_id")
    return {*letters, lowest} | (set() if unknown is None else {model["vocab"][unknown][0]})


def _falls_back(tokenizer_json: Mapping[str, Any]) -> bool:
    """Whether any character can be written, and read again, as bytes."""
    model = tokenizer_json["model"]
    reads = any(
        part.get("type") == "ByteFallback" for part in _parts(tokenizer_json.get("decoder"))
    )
    return bool(model.get("byte_fallback")) and reads and set(_own_ids(model)) >= _BYTES


def _put_in(tokenizer_json: Mapping[str, Any]) -> set[str]:
    """Characters that stand in no text, but in what the model reads."""
    steps = [tokenizer_json.get(name) for name in ("normalizer", "pre_tokenizer")]
    return {c for part in _parts(steps) for key in _WRITERS for c in str(part.get(key, ""))}


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every object inside of JSON."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _parts(part)


def _bare(model: Mapping[str, Any], token: str) -> str:
    """A token of BPE without the marks of the middle and the end of a word."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    return bare.removesuffix(model.get("end_of_word_suffix") or "")


def on_the_way(model: Mapping[str, Any], tokens: Iterable[str]) -> set[str]:
    """Everything that BPE makes, one merge after the other, before it has these tokens.

    A token has one way, wherever it stands: in a text where it comes out, no merge crossed its
    ends. What is on the way of a part is on that of the whole.
    """
    ranks = {pair: rank for rank, pair in enumerate(map(_pair, model["merges"]))}
    own = _own_ids(model)
    found: set[str] = set()
    for token in tokens:
        made = _way(model, ranks, token)
        if made[-1] == token and own.keys() >= set(made):
            found.update(made)  # else only ignore_merges, or an added token, gives it
    return found


def _way(model: Mapping[str, Any], ranks: Mapping[tuple[str, str], int], token: str) -> list[str]:
    """The letters of a token, then the result of each merge."""
    prefix = model.get("continuing_subword_prefix") or ""
    symbols = list(_bare(model, token)) or [token]
    inside = [prefix + letter for letter in symbols[1:]]
    symbols = [prefix * token.startswith(prefix) + symbols[0], *inside]
    symbols[-1] += token[len(token.removesuffix(model.get("end_of_word_suffix") or "")) :]
    made = list(symbols)
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        best = min(pairs, key=ranks.__getitem__)
        at = next(i for i in range(len(symbols)) if (symbols[i], symbols[i + 1]) == best)
        symbols[at : at + 2] = [_joined(model, best)]
        made.append(symbols[at])
    return made


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _joined(model: Mapping[str, Any], pair: tuple[str, str]) -> str:
    return pair[0] + pair[1][len(model.get("continuing_subword_prefix") or "") :]


def referred(tokenizer_json: Mapping[str, Any]) -> set[int]:
    """The ids that stand in tokenizer.json outside of its vocabulary."""
    found = {token["id"] for token in tokenizer_json.get("added_tokens") or ()}

    def note(i: int) -> int:
        found.add(i)
        return i

    _processor(tokenizer_json.get("post_processor"), note)
    _padding(tokenizer_json.get("padding"), note)
    return found


def renumbered(
    tokenizer_json: Mapping[str, Any], kind: str, new: Mapping[int, int]
) -> dict[str, Any]:
    """The content with the tokens that have a new id.

    Args:
        tokenizer_json: the whole one; stays.
        kind: of its model.
        new: old id -> new id.
    """
    model = tokenizer_json["model"]
    fields: dict[str, Any]
    if kind == "BPE":
        own = {t: new[i] for t, i in model["vocab"].items() if i in new}
        fields = {
            "vocab": dict(sorted(own.items(), key=lambda item: item[1])),
            "merges": [m for m in model["merges"] if _can_merge(model, _pair(m), own)],
        }
    else:
        unknown = model.get("unk_id")
        fields = {
            "unk_id": None if unknown is None else new[unknown],
            "vocab": [piece for i, piece in enumerate(model["vocab"]) if i in new],
        }
    added = tokenizer_json.get("added_tokens") or ()
    known = {i: new.get(i, i) for i in referred(tokenizer_json)}  # not all are of tokens
    changed = {
        "added_tokens": [{**token, "id": new[token["id"]]} for token in added],
        "post_processor": _processor(tokenizer_json.get("post_processor"), known.__getitem__),
        "padding": _padding(tokenizer_json.get("padding"), known.__getitem__),
        "model": {**model, **fields},
    }
    return copy.deepcopy({**tokenizer_json, **changed})


def _can_merge(model: Mapping[str, Any], pair: tuple[str, str], own: Collection[str]) -> bool:
    return pair[0] in own and pair[1] in own and _joined(model, pair) in own


def _processor(node: Any, renumber: Renumber) -> Any:
    """A post-processor with other ids."""
    match node:
        case {"type": "Sequence", "processors": processors}:
            return {**node, "processors": [_processor(part, renumber) for part in processors]}
        case {"type": "TemplateProcessing", "special_tokens": special}:
            changed = {k: {**v, "ids": [*map(renumber, v["ids"])]} for k, v in special.items()}
            return {**node, "special_tokens": changed}
        case {"type": "RobertaProcessing" | "BertProcessing", "sep": [sep, i], "cls": [first, j]}:
            return {**node, "sep": [sep, renumber(i)], "cls": [first, renumber(j)]}
        case _:
            return node


def _padding(node: Any, renumber: Renumber) -> Any:
    return node if node is None else {**node, "pad_id": renumber(node["pad_id"])}
