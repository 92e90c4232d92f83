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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprue.data.text import encode
from sprue.errors import InputError
from sprue.models import tokenizer_json as inside
from sprue.models.plain_config import shapes_of
from sprue.models.wired import told

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
    model, kind = tokenizer_json["model"], inside.kind(tokenizer_json["model"])
    ids = inside.ids(tokenizer_json)
    tokens = {i: token for token, i in ids.items()}
    _check_counts(used, 1 + max(tokens), count)
    frequent = [i for i in used.argsort(descending=True, stable=True).tolist() if i in tokens]
    stay = {*frequent[:count], *inside.referred(tokenizer_json), *always}
    names = {tokens[i] for i in stay if i in tokens} | inside.spelling(tokenizer_json)
    if kind == "BPE":
        names |= inside.on_the_way(model, names)
    kept = sorted({ids[name] for name in names})
    new = {old: i for i, old in enumerate(kept)}
    found = Vocabulary(torch.tensor(kept), inside.renumbered(tokenizer_json, kind, new))
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


def _check_counts(used: Tensor, size: int, count: int) -> None:
    if count < 0:
        raise InputError(f"expected a number of tokens to keep, 0 or more, got {count}")
    if tuple(used.shape) != (size,):
        raise InputError(
            f"expected counts of {size} tokens, got {list(used.shape)}: they were counted with "
            "another tokenizer, or tokens were added to this one when it was loaded (give "
            "json.loads(tokenizer.backend_tokenizer.to_str()) then)"
        )


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
