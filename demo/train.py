"""Train a small language model from text, such as the one that ships with sprue.

    python demo/train.py TEXT --out DIR --minutes 76

TEXT is a folder with one sub-folder per capability, each with a train.txt (and, to measure with, a
valid.txt), documents separated by <|endoftext|>. The model has the Llama architecture with a
byte-level BPE vocabulary made from the same text; AdamW, a cosine schedule, float32 on a CPU.

The state is saved into DIR/.train every few minutes; the same command goes on from there. With
--steps the same seed gives the same model on the same machine; with --minutes the schedule follows
the clock. DIR becomes a Hugging Face folder in bfloat16.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

END = "<|endoftext|>"
DECAY = 0.1
BETAS = (0.9, 0.95)
CLIP = 1.0
WARMUP = 0.02  # of the whole run
FLOOR = 0.1  # of the peak learning rate, at the end
VALID_WINDOWS = 40

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Shape:
    """The sizes of the model; the defaults are those of the embedded one."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 768
    vocab: int = 4096
    context: int = 256


@dataclass
class Run:
    """What is saved and read again: everything that changes while training."""

    model: Any
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


def documents(files: list[Path]) -> list[str]:
    """All documents of the files, without their separators."""
    texts = (file.read_text(encoding="utf-8").split(END) for file in files)
    return [d.strip("\n") for text in texts for d in text if d.strip()]


def train_tokenizer(texts: list[str], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer: any text is representable, and no token is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Tokens:
    """One stream of token ids [n], every document closed by the end token."""
    end = tokenizer.token_to_id(END)
    ids = [i for e in tokenizer.encode_batch(texts) for i in (*e.ids, end)]
    return np.array(ids, dtype=np.uint16)


def build(shape: Shape, vocab: int, seed: int) -> Any:
    """A Llama model with seeded random weights; the global generator is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=vocab,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def make_optimizer(model: Any, rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: a norm's gain has no reason to be small."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS)


def batch(tokens: Tokens, size: int, context: int, seed: int, step: int) -> Tensor:
    """Random windows [size, context] that depend on the seed and the step alone."""
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(tokens) - context, size=size)
    return torch.from_numpy(np.stack([tokens[s : s + context] for s in starts]).astype(np.int64))


def learning_rate(peak: float, done: float) -> float:
    """Linear warm-up, then a cosine; `done` is the share of the run behind us, 0 to 1."""
    if done < WARMUP:
        return peak * (done + 1e-3) / (WARMUP + 1e-3)
    along = min(1.0, (done - WARMUP) / (1 - WARMUP))
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along)))


def train_step(run: Run, ids: Tensor, rate: float) -> float:
    """One update; returns the loss before it, in nats per token."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss = run.model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), CLIP)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return float(loss.detach())


@torch.no_grad()
def perplexity(model: Any, tokens: Tokens, context: int) -> float:
    """Perplexity over the first windows of a stream that was not trained on."""
    model.eval()
    count = min(VALID_WINDOWS, len(tokens) // context)
    losses = []
    for i in range(count):
        window = tokens[i * context : (i + 1) * context].astype(np.int64)
        ids = torch.from_numpy(window)[None]
        losses.append(float(model(input_ids=ids, labels=ids).loss))
    model.train()
    return math.exp(sum(losses) / count)


def save_state(run: Run, folder: Path) -> None:
    """Write the state beside the old one and swap, so that a crash leaves one of the two."""
    state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
    }
    torch.save(state, folder / "state.partial")
    (folder / "state.partial").replace(folder / "state.pt")


def load_state(run: Run, folder: Path) -> None:
    """Go on from a saved state, where there is one."""
    file = folder / "state.pt"
    if not file.exists():
        return
    state = torch.load(file, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.seconds = int(state["step"]), float(state["seconds"])
    print(f"going on from step {run.step}, {run.seconds / 60:.1f} minutes in", flush=True)


def tokenizer_for(texts: list[str], vocab: int, folder: Path) -> Tokenizer:
    """The tokenizer of an earlier part of this run, or a new one."""
    file = folder / "tokenizer.json"
    if not file.exists():
        made = train_tokenizer(texts, vocab)
        made.save(str(folder / "tokenizer.partial"))
        (folder / "tokenizer.partial").replace(file)
    return Tokenizer.from_file(str(file))


def export(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write the Hugging Face folder, weights in bfloat16."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
    fast.save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)


def train(run: Run, tokens: Tokens, valid: dict[str, Tokens], args: argparse.Namespace) -> None:
    """Train until the steps or the minutes are used up, saving the state on the way."""
    state = args.out / ".train"
    before, started = run.seconds, time.monotonic()
    saved = logged = started
    run.model.train()
    while True:
        run.seconds = before + time.monotonic() - started
        done = run.step / args.steps if args.steps else run.seconds / (60 * args.minutes)
        if done >= 1:
            break
        ids = batch(tokens, args.batch, args.context, args.seed, run.step)
        loss = train_step(run, ids, learning_rate(args.rate, done))
        now = time.monotonic()
        if now - logged >= args.log_every:
            print(f"step {run.step:6d}  {100 * done:5.1f}%  loss {loss:.3f}", flush=True)
            logged = now
        if now - saved >= args.save_every:
            save_state(run, state)
            saved = now
    save_state(run, state)
    for name, stream in valid.items():
        print(f"{name}: perplexity {perplexity(run.model, stream, args.context):.2f}", flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="folder with one sub-folder per capability")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=76.0, help="default: %(default)g")
    length.add_argument("--steps", type=int, help="train by steps instead of by the clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="windows (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak (default: %(default)g)")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds")
    parser.add_argument("--log-every", type=float, default=10.0, help="seconds")
    for name in default.__dataclass_fields__:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(default, name))
    args = parser.parse_args(argv)
    if not sorted(args.text.glob("*/train.txt")):
        parser.error(f"expected {args.text}/CAPABILITY/train.txt, found none")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    shape = Shape(**{name: getattr(args, name) for name in Shape.__dataclass_fields__})
    state = args.out / ".train"
    state.mkdir(parents=True, exist_ok=True)
    texts = documents(sorted(args.text.glob("*/train.txt")))
    tokenizer = tokenizer_for(texts, shape.vocab, state)
    tokens = encode(tokenizer, texts)
    valid = {
        file.parent.name: encode(tokenizer, documents([file]))
        for file in sorted(args.text.glob("*/valid.txt"))
    }
    model = build(shape, tokenizer.get_vocab_size(), args.seed)
    run = Run(model, make_optimizer(model, args.rate))
    load_state(run, state)
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens", flush=True)
    train(run, tokens, valid, args)
    export(run.model, tokenizer, args.out)
    print(f"the model is in {args.out}; {state} can be removed")


if __name__ == "__main__":
    main()
