"""Networks of `transformers`, wired so that tensors go in by position and one tensor comes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import nets
from sprue.models.factory import check_finite

Read = Callable[[Any, Mapping[str, Tensor]], Tensor]  # outputs, inputs -> the one tensor

_AUTO = {  # what the class of a model ends with -> task, and the class that opens it
    "ForImageClassification": (nets.IMAGES, "AutoModelForImageClassification"),
    "ForSequenceClassification": (nets.TEXTS, "AutoModelForSequenceClassification"),
    "ForTokenClassification": (nets.TOKENS, "AutoModelForTokenClassification"),
    "ForQuestionAnswering": (nets.ANSWERS, "AutoModelForQuestionAnswering"),
    "ForObjectDetection": (nets.BOXES, "AutoModelForObjectDetection"),
    "Model": (nets.SENTENCES, "AutoModel"),
}
_TOKENS = 16  # of the example
_PIXELS = 224  # of the example, where a model does not say


class Wired(nn.Module):
    """A network of `transformers` as one from tensors to a tensor.

    Attributes:
        net: the network.
    """

    def __init__(self, net: nn.Module, names: tuple[str, ...], answer: Read) -> None:
        super().__init__()
        self.net, self._names, self._answer = net, names, answer

    def forward(self, *inputs: Tensor) -> Tensor:
        """The one tensor that a task reads."""
        given = dict(zip(self._names, inputs, strict=True))
        return self._answer(self.net(**given, return_dict=True), given)


def unwired(module: nn.Module) -> tuple[nn.Module, str]:
    """The user's network, and what stands before the names of its parameters in the wired one."""
    return (module.net, "net.") if isinstance(module, Wired) else (module, "")


def open_folder(folder: Path, task: str | None = None) -> nets.Net:
    """The network of a Hugging Face folder.

    Args:
        folder: config.json, safetensors, and the tokenizer or preprocessor_config.json.
        task: where the class of the model does not say it.

    Raises:
        InputError: not such a folder, pickled or damaged weights, or a class for no known task.
    """
    config = _config(folder)
    task, auto = _task(config, folder, task)
    module = _loaded(folder, auto)
    if task in (nets.IMAGES, nets.BOXES):
        return _of_images(module, config, folder, task)
    return _of_texts(module, config, folder, task)


def tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder.

    Raises:
        InputError: none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{folder} has no tokenizer that can be loaded: {error}") from error
    if not found.is_fast:
        raise InputError(f"the tokenizer of {folder} has no tokenizer.json: save a fast one there")
    return found


def told(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a folder; empty where it is not there.

    Raises:
        InputError: it is no JSON object.
    """
    file = folder / name
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object")
    return found


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: expected a folder with config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}") from error


def _task(config: Any, folder: Path, asked: str | None) -> tuple[str, str]:
    names = getattr(config, "architectures", None) or []
    name = names[0] if names else ""
    for ending, (task, auto) in _AUTO.items():
        if name.endswith(ending) if asked is None else asked == task:
            return task, auto
    if name.endswith(("ForCausalLM", "LMHeadModel")) and asked is None:
        raise InputError(
            f"{folder} holds a language model ({name}): compress and verify it without --target"
        )
    known = ", ".join(nets.TASKS)
    raise InputError(
        f"{folder} holds a {name or 'model of no named class'}, which is for none of the tasks "
        f"{known}; state one with --task"
    )


def _loaded(folder: Path, auto: str) -> nn.Module:
    import transformers

    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder} has no safetensors weights; pickled ones are refused, since loading them "
            "can run code"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            module, info = getattr(transformers, auto).from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged file is told in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder} cannot be opened by transformers: {reason[:300]}") from error
    wrong = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    missing = [n for n in wrong if "pooler" not in str(n)]  # no task here reads a bare pooler
    if missing:
        raise InputError(f"the weights of {folder} lack {missing[0]}, or it has another shape")
    check_finite(module.state_dict(), str(folder))
    found: nn.Module = module.eval()
    return found


def _of_images(module: nn.Module, config: Any, folder: Path, task: str) -> nets.Net:
    how = _preprocess(told(folder, "preprocessor_config.json"), folder)
    size = how.get("size") or _sides(getattr(config, "image_size", None)) or [_PIXELS, _PIXELS]
    answer = _logits if task == nets.IMAGES else _boxes
    channels = getattr(config, "num_channels", 3) or 3
    return nets.Net(
        module=Wired(module, ("pixel_values",), answer),
        task=task,
        inputs=("pixel_values",),
        example=(torch.zeros(2, channels, *size),),
        source=folder,
        varying=((0,),),
        classes=_classes(config),
        preprocess=how,
        decoder="detr" if task == nets.BOXES else None,
        config=config,
    )


def _of_texts(module: nn.Module, config: Any, folder: Path, task: str) -> nets.Net:
    tokens = tokenizer(folder)
    names = tuple(n for n in tokens.model_input_names if n in _taken(module))
    limits = [
        getattr(config, "max_position_embeddings", None),
        told(folder, "sentence_bert_config.json").get("max_seq_length"),
        tokens.model_max_length,
    ]
    length = min([n for n in limits if isinstance(n, int) and n > 0], default=None)
    answers: dict[str, Read] = {
        nets.TEXTS: _logits,
        nets.TOKENS: _logits,
        nets.ANSWERS: _spans,
        nets.SENTENCES: _pooling(folder),
    }
    example = torch.ones(2, min(_TOKENS, length or _TOKENS), dtype=torch.int64)
    zeros = torch.zeros_like(example)
    return nets.Net(
        module=Wired(module, names, answers[task]),
        task=task,
        inputs=names,
        example=tuple(zeros if name == "token_type_ids" else example for name in names),
        source=folder,
        varying=tuple((0, 1) for _ in names),
        classes=_classes(config) if task in (nets.TEXTS, nets.TOKENS) else None,
        length=length,
        config=config,
    )


def _classes(config: Any) -> tuple[str, ...] | None:
    """Their names, where they have been given any."""
    labels = getattr(config, "id2label", None) or {}
    names = tuple(str(labels[i]) for i in sorted(labels))
    return None if all(name.startswith("LABEL_") for name in names) else names


def _taken(module: nn.Module) -> set[str]:
    import inspect

    return set(inspect.signature(module.forward).parameters)


def _logits(outputs: Any, _: Mapping[str, Tensor]) -> Tensor:
    found: Tensor = outputs.logits
    return found


def _spans(outputs: Any, _: Mapping[str, Tensor]) -> Tensor:
    return torch.stack((outputs.start_logits, outputs.end_logits), -1)


def _boxes(outputs: Any, _: Mapping[str, Tensor]) -> Tensor:
    return torch.cat((outputs.pred_boxes, outputs.logits), -1)


def _pooling(folder: Path) -> Read:
    """How vectors of tokens become one of the sentence, as sentence-transformers writes it down."""
    how = told(folder / "1_Pooling", "config.json")
    first, unit = bool(how.get("pooling_mode_cls_token")), _normalized(folder)
    if how and not first and not how.get("pooling_mode_mean_tokens"):
        raise InputError(f"{folder}/1_Pooling: only the mean of the tokens or the first are known")

    def pooled(outputs: Any, given: Mapping[str, Tensor]) -> Tensor:
        states: Tensor = outputs.last_hidden_state
        if first:
            vectors = states[:, 0]
        else:
            mask = given["attention_mask"][:, :, None].to(states.dtype)
            vectors = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(vectors, dim=-1) if unit else vectors

    return pooled


def _normalized(folder: Path) -> bool:
    file = folder / "modules.json"
    return not file.is_file() or "Normalize" in file.read_text(encoding="utf-8")


def _preprocess(how: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What preprocessor_config.json says, in the names of `data.images.Preprocess`."""
    if not how:
        return {}
    found: dict[str, Any] = {}
    size, crop = how.get("size"), how.get("crop_size")
    if how.get("do_resize", True) and size is not None:
        sides = _sides(size)
        edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
        edge = int(size) if isinstance(size, int) and crop is not None else edge
        if edge and how.get("crop_pct"):  # ConvNext: scaled to more, then cropped to the size
            found["size"], found["shortest"] = [edge, edge], round(edge / how["crop_pct"])
        elif edge:
            found["shortest"] = edge
        else:
            found["size"] = sides
    if how.get("do_center_crop") and crop is not None:
        found.setdefault("shortest", min(found.get("size") or [0]) or None)
        found["size"] = _sides(crop)
    if found.get("shortest") and not found.get("size"):
        found["size"] = [found["shortest"]] * 2  # networks are timed and compiled at one size
    factor = how.get("rescale_factor", 1 / 255) if how.get("do_rescale", True) else 1.0
    found["top"] = 255 * factor
    if how.get("do_normalize", True):
        found.update({k: how[f"image_{k}"] for k in ("mean", "std") if how.get(f"image_{k}")})
    if how.get("resample") in (2, 3):
        found["resample"] = {2: "bilinear", 3: "bicubic"}[how["resample"]]
    return found


def _sides(size: Any) -> list[int] | None:
    """[height, width] of what configs write in many ways."""
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, Mapping) and "height" in size:
        return [int(size["height"]), int(size["width"])]
    if isinstance(size, list | tuple) and len(size) == 2:
        return [int(n) for n in size]
    return None
