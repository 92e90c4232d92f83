"""A smaller vocabulary: the tokens that some text uses, and those that spell any other text.

What stays is segmented as before: a piece of text (what the tokenizer hands to its model at once, a
word in most) whose tokens all stay gets the same tokens. For BPE, because every merge on the way to
a token that stays is there, in the old order, and none that was not there before; for Unigram,
because the best path is still there, and no other became better. Any other text is spelled in
smaller tokens, down to characters or bytes.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprue.data.text import encode
from sprue.errors import InputError
from sprue.models.plain_config import shapes_of
from sprue.models.wired import told

Renumber = Callable[[int], int]  # old id of a token that stays -> its new one

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_WRITERS = ("replacement", "prepend", "content")  # keys of what normalizers and the like put in
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
_ENDINGS = ("_token_id", "_token_ids", "_token_index")
_BESIDE = ("special_tokens_map.json", "chat_template*", "additional_chat_templates/*")


@dataclass(frozen=True)
class Vocabulary:
    """A part of a tokenizer's vocabulary.

    Attributes:
        kept: [new vocabulary] int64, ascending: new id -> old id.
        tokenizer_json: content of tokenizer.json, in the new ids.
    """

    kept: Tensor
    tokenizer_json: dict[str, Any] = field(repr=False)

    @property
    def new_ids(self) -> dict[int, int]:
        """Old id -> new id."""
        return {old: new for new, old in enumerate(self.kept.tolist())}


def counted(tokenizer: Any, texts: Iterable[str]) -> Tensor:
    """How often each token occurs, [vocabulary] int64, added tokens included.

    Texts are tokenized as `data.windows` does it, without special tokens of the tokenizer's own.

    Args:
        tokenizer: of `transformers`.
        texts: read once, one after the other.

    Raises:
        InputError: no token in the texts.
    """
    found = np.zeros(1 + max(tokenizer.get_vocab().values()), dtype=np.int64)
    for text in texts:
        found += np.bincount(np.asarray(encode(tokenizer, text), np.int64), minlength=len(found))
    if not found.any():
        raise InputError("no text given: there are no tokens to count")
    return torch.from_numpy(found)


def outside(counts: Tensor, kept: Tensor) -> float:
    """Share of token occurrences that lie outside of what is kept, 0 to 1.

    Args:
        counts: [vocabulary] int64, of `counted`.
        kept: [new vocabulary] int64, old ids.

    Raises:
        InputError: counts that are all zero.
    """
    total = int(counts.sum())
    if total == 0:
        raise InputError("all counts are zero: there is no share of nothing; count some text")
    return (total - int(counts[kept].sum())) / total


def named(tokenizer: Any, *configs: Any) -> frozenset[int]:
    """The ids that must stay: added and special tokens, and those that configs name.

    Args:
        tokenizer: of `transformers`.
        configs: of a model and of generation; None is passed over.
    """
    found = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for config in _with_texts(configs):
        for value in _token_fields(config).values():
            found.update(_integers(value))
    return frozenset(int(i) for i in found)


def smaller(
    tokenizer_json: Mapping[str, Any],
    used: Tensor,
    count: int,
    always: Collection[int] = frozenset(),
) -> Vocabulary:
    """The most frequent tokens, and what must stay with them; there can be more than `count`.

    What must stay, whatever `count` is: what spells any text (all single characters; instead of
    them the 256 byte tokens, where the tokenizer falls back on these), the unknown token, added
    tokens, those that post-processor and padding name, `always`, and in BPE all tokens on the way
    to one that stays.

    Args:
        tokenizer_json: content of tokenizer.json, with a model of the type BPE (of bytes or of
            characters, with or without byte_fallback and ignore_merges) or Unigram.
            `json.loads(tokenizer.backend_tokenizer.to_str())` also holds tokens that only
            tokenizer_config.json adds.
        used: [vocabulary] int64, of `counted`.
        count: how many tokens stay for their frequency, those of the lowest id among equals; 0
            keeps only what must stay, the vocabulary's size or more all of it.
        always: old ids, of `named`; those that no token has (rows of an embedding that is longer
            than its vocabulary) are passed over.

    Raises:
        InputError: another type of model, a negative count, counts of another tokenizer, or a file
            that the library of tokenizers reads differently.
    """
    model, kind = tokenizer_json["model"], _kind(tokenizer_json["model"])
    ids = _ids(tokenizer_json)
    tokens = {i: token for token, i in ids.items()}
    _check_counts(used, 1 + max(tokens), count)
    frequent = [i for i in used.argsort(descending=True, stable=True).tolist() if i in tokens]
    stay = {*frequent[:count], *_referred(tokenizer_json), *always}
    names = {tokens[i] for i in stay if i in tokens} | _spelling(tokenizer_json)
    if kind == "BPE":
        names |= _on_the_way(model, names)
    kept = sorted({ids[name] for name in names})
    new = {old: i for i, old in enumerate(kept)}
    found = Vocabulary(torch.tensor(kept), _renumbered(tokenizer_json, kind, new))
    _check_read(found, {token: new[i] for token, i in ids.items() if i in new})
    return found


@torch.no_grad()
def cut(model: Any, vocabulary: Vocabulary) -> Any:
    """A copy of a causal language model of `transformers` that knows only the tokens kept.

    Rows of embedding and head (and its bias) that no kept token has are gone, also those beyond
    the tokenizer's vocabulary; what is tied stays tied. Ids of tokens in `config` and
    `generation_config` are the new ones, None where the token is gone.

    Args:
        model: with a dense embedding and head; it stays as it is.
        vocabulary: of its tokenizer.

    Raises:
        InputError: fewer rows than the tokenizer has tokens, no dense head, or an architecture
            that has other parts of the vocabulary's size.
    """
    # What deepcopy has in its memo is not copied but put in place of the old, wherever that stands.
    rows = {id(t): _rows(t, vocabulary.kept, name) for name, t in _tables(model).items()}
    found = copy.deepcopy(model, dict(rows))
    new = vocabulary.new_ids
    _follow(found, model.config.get_text_config().vocab_size, new)
    for config in _with_texts((found.config, getattr(found, "generation_config", None))):
        for name, value in _token_fields(config).items():
            setattr(config, name, _looked_up(value, new))
    _check_sizes(model, found, rows.values())
    return found


def saved(vocabulary: Vocabulary, original: str | Path, out: str | Path) -> list[Path]:
    """Write a tokenizer that `AutoTokenizer.from_pretrained(out)` loads, over files of these names.

    tokenizer.json, tokenizer_config.json and added_tokens.json have the new ids in them; chat
    templates and special_tokens_map.json are copied. What else describes the old vocabulary
    (vocab.json, merges.txt, tokenizer.model) is not written: the loaded tokenizer needs none of it.

    Args:
        original: folder of the whole tokenizer.
        out: another folder; it is made where there is none.

    Returns:
        The files, by name.

    Raises:
        InputError: no such folder, both the same, or a file in it that is no JSON object.
    """
    original, out = Path(original), Path(out)
    if not original.is_dir() or original.resolve() == out.resolve():
        raise InputError(f"expected the folder of a tokenizer and another one, got {original}")
    new = vocabulary.new_ids
    config = told(original, "tokenizer_config.json")
    fields = {name: _looked_up(value, new) for name, value in config.items() if _names_ids(name)}
    if "added_tokens_decoder" in config:
        fields["added_tokens_decoder"] = _keys(config["added_tokens_decoder"], new)
    added = told(original, "added_tokens.json")
    contents = {
        "tokenizer.json": vocabulary.tokenizer_json,
        "tokenizer_config.json": config | fields,
        "added_tokens.json": {token: new[i] for token, i in added.items() if i in new},
    }
    out.mkdir(parents=True, exist_ok=True)
    written = [_written(out / name, content) for name, content in contents.items() if content]
    for pattern in _BESIDE:
        for file in filter(Path.is_file, original.glob(pattern)):
            target = out / file.relative_to(original)
            target.parent.mkdir(exist_ok=True)
            written.append(Path(shutil.copyfile(file, target)))
    return sorted(written)


# The content of tokenizer.json


def _kind(model: Mapping[str, Any]) -> str:
    """Old files name no type."""
    kind = model.get("type") or ("BPE" if "merges" in model else "tokenizer of no named type")
    if kind not in ("BPE", "Unigram"):
        raise InputError(
            f"the vocabulary of a {kind} cannot be cut: it stays whole (expected BPE or Unigram)"
        )
    return str(kind)


def _ids(tokenizer_json: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, added tokens included."""
    added = {token["content"]: token["id"] for token in tokenizer_json.get("added_tokens") or ()}
    return {**_own_ids(tokenizer_json["model"]), **added}


def _own_ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, of the tokens that the model itself can give."""
    vocab = model["vocab"]
    return dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, (t, _) in enumerate(vocab)}


def _check_counts(used: Tensor, size: int, count: int) -> None:
    if count < 0:
        raise InputError(f"expected a number of tokens to keep, 0 or more, got {count}")
    if tuple(used.shape) != (size,):
        raise InputError(
            f"expected counts of {size} tokens, got {list(used.shape)}: they were counted with "
            "another tokenizer, or tokens were added to this one when it was loaded (give "
            "json.loads(tokenizer.backend_tokenizer.to_str()) then)"
        )


def _spelling(tokenizer_json: Mapping[str, Any]) -> set[str]:
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


def _on_the_way(model: Mapping[str, Any], tokens: Iterable[str]) -> set[str]:
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


def _referred(tokenizer_json: Mapping[str, Any]) -> set[int]:
    """The ids that stand in tokenizer.json outside of its vocabulary."""
    found = {token["id"] for token in tokenizer_json.get("added_tokens") or ()}

    def note(i: int) -> int:
        found.add(i)
        return i

    _processor(tokenizer_json.get("post_processor"), note)
    _padding(tokenizer_json.get("padding"), note)
    return found


def _renumbered(
    tokenizer_json: Mapping[str, Any], kind: str, new: Mapping[int, int]
) -> dict[str, Any]:
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
    known = {i: new.get(i, i) for i in _referred(tokenizer_json)}  # not all are of tokens
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


def _check_read(vocabulary: Vocabulary, expected: Mapping[str, int]) -> None:
    """The library numbers some added tokens itself, by their places."""
    from tokenizers import Tokenizer

    try:
        read = Tokenizer.from_str(json.dumps(vocabulary.tokenizer_json)).get_vocab()
    except Exception as error:  # the library knows no other kind
        raise InputError(f"tokenizer.json cannot be cut: {error}; it stays whole") from error
    wrong = sorted(token for token in {*read, *expected} if read.get(token) != expected.get(token))
    if wrong:
        raise InputError(
            f"tokenizer.json cannot be cut: {wrong[0]!r} should be token {expected.get(wrong[0])} "
            f"and is read as {read.get(wrong[0])}; its ids have gaps, and it stays whole"
        )


# The model


def _tables(model: Any) -> dict[str, nn.Parameter]:
    """The parameters with a row for every token."""
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(inner, nn.Embedding) or not isinstance(outer, nn.Linear):
        raise InputError(
            f"{type(model).__name__} has no dense embedding and head: expected a causal language "
            "model of transformers that is not quantized"
        )
    found = {"embedding": inner.weight, "head": outer.weight, "bias of the head": outer.bias}
    return {name: p for name, p in found.items() if isinstance(p, nn.Parameter)}


def _rows(table: nn.Parameter, kept: Tensor, name: str) -> nn.Parameter:
    if int(kept.max()) >= len(table):
        raise InputError(
            f"the {name} has {len(table)} rows and token {int(kept.max())} should stay: the "
            "tokenizer has more tokens than the model, or is of another model"
        )
    return nn.Parameter(table.detach()[kept.to(table.device)], table.requires_grad)


def _follow(model: Any, old: int, new: Mapping[int, int]) -> None:
    """Attributes that say the vocabulary's size, or a row of it."""
    inner = model.get_input_embeddings()
    inner.num_embeddings = model.get_output_embeddings().out_features = len(new)
    inner.padding_idx = new.get(inner.padding_idx)
    model.config.get_text_config().vocab_size = len(new)
    for module in model.modules():
        if getattr(module, "vocab_size", None) == old:
            module.vocab_size = len(new)


def _with_texts(configs: Iterable[Any]) -> list[Any]:
    """Each config once, and the one of the language model inside of it."""
    found = [config for config in configs if config is not None]
    found += [one.get_text_config() for one in found if hasattr(one, "get_text_config")]
    return list({id(config): config for config in found}.values())


def _check_sizes(model: Any, made: Any, rows: Iterable[nn.Parameter]) -> None:
    """A model of the new config must have the new sizes, and no part that was not cut."""
    if getattr(made.config.get_text_config(), "vocab_size_per_layer_input", None):
        raise InputError(f"{type(model).__name__} embeds tokens in every layer: they stay whole")
    before, after = (shapes_of(type(model), copy.deepcopy(one.config)) for one in (model, made))
    mine = {id(row) for row in rows}
    named = made.named_parameters(remove_duplicate=False)
    cut = {name: tuple(p.shape) for name, p in named if id(p) in mine}
    wrong = [name for name in after if after[name] != cut.get(name, before[name])]
    if wrong:
        raise InputError(
            f"{wrong[0]} of {type(model).__name__} should have the shape {list(after[wrong[0]])} "
            f"with {made.config.get_text_config().vocab_size} tokens: this architecture cannot be "
            "cut so, and its vocabulary stays whole"
        )


def _names_ids(name: str) -> bool:
    return name.endswith(_ENDINGS) or name in _LISTS


def _token_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that name tokens by their ids."""
    return {name: value for name, value in config.to_dict().items() if _names_ids(name)}


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    if isinstance(value, list | tuple):
        for one in value:
            yield from _integers(one)


def _looked_up(value: Any, new: Mapping[int, int]) -> Any:
    """An id, a list of ids, or a list of sequences of ids, without what is gone."""
    if isinstance(value, int):
        return new.get(value)
    if not isinstance(value, list | tuple):
        return value
    whole = [one for one in value if all(i in new for i in _integers(one))]
    return [_looked_up(one, new) for one in whole] or None


# The files


def _keys(decoder: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    return {str(new[int(i)]): token for i, token in decoder.items() if int(i) in new}


def _written(file: Path, content: Mapping[str, Any]) -> Path:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file
