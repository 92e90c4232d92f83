"""The teaching of a specialist, kept in a workshop so that a killed command goes on from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sprue import data
from sprue.data.text import Document, encode, of_one_source
from sprue.fleet.corpus import Parts
from sprue.fleet.imagined import Imagined, imagined
from sprue.fleet.schooling import School, rate_for
from sprue.fleet.told import Share
from sprue.models import Writer
from sprue.plan.distill import Schedule
from sprue.plan.workshop import Workshop

_WATCHED = 64  # windows that show how far it is


@dataclass(frozen=True)
class Teaching:
    """A full model, and text of a capability.

    Attributes:
        full: causal, of `transformers`, float32, in eval mode.
        parts: the text.
        context: tokens of a passage.
        schedule: of all of it, with what the full model writes; None: nothing is taught.
        workshop: what is done is kept and noted there.
        seed: of everything that is random.
        progress: called with a few words as it goes.
    """

    full: Any
    parts: Parts
    context: int
    schedule: Schedule | None
    workshop: Workshop
    seed: int
    progress: Callable[[str], object]

    def run(
        self,
        student: Any,
        kept: Tensor | None,
        tokenizer: Any,
        learns: Collection[str] | None = None,
    ) -> None:
        """Teach it, and note its losses and how far it was.

        Args:
            student: changed in place, and left as the best that it was.
            kept: ids of the full model's tokens that the student has too, int64; None: all.
            tokenizer: the student's.
            learns: names of the parameters that are trained; None: all.
        """
        looks, losses = list[dict[str, float]](), list[float]()
        if self.schedule is not None:
            looks, losses = self._taught(self.schedule, student, kept, tokenizer, learns)
        self.workshop.note("losses", losses)
        self.workshop.note("looks", looks)

    def _taught(
        self,
        schedule: Schedule,
        student: Any,
        kept: Tensor | None,
        tokenizer: Any,
        learns: Collection[str] | None,
    ) -> tuple[list[dict[str, float]], list[float]]:
        watched = of_one_source(self.parts.watch)
        held = data.windows(tokenizer, watched, self.context, _WATCHED, self.seed)
        stream = _stream(tokenizer, self.parts.learn)
        begin = time.monotonic()
        texts = self._imagined(schedule, kept, stream)
        if schedule.seconds is not None:
            left = schedule.seconds - (time.monotonic() - begin)
            schedule = replace(schedule, seconds=max(1.0, left))
        rate = rate_for(self.full.config.get_text_config().hidden_size)
        shown = Share(self.progress, "teaching")
        with Writer(self.workshop.folder / "lesson") as writer:
            state = writer.resume(json.dumps(self.workshop.noted("key"), sort_keys=True))
            school = School(
                self.full,
                student,
                kept,
                [stream],
                held,
                replace(schedule, rate=rate),
                writer,
                texts,
                learns,
                self.seed,
                shown,
            )
            looks = school.run(state)
        return [asdict(look) for look in looks], school.losses

    def _imagined(self, schedule: Schedule, kept: Tensor | None, stream: Tensor) -> Imagined:
        """Written once: whoever goes on reads the same."""
        file = self.workshop.folder / "imagined.safetensors"
        if not file.is_file():
            shown = Share(self.progress, "the full model writes examples")
            new = file.with_suffix(".new")  # nothing holds what was written while it is read again
            imagined(self.full, stream, self.context, schedule, kept, self.seed, shown).save(new)
            new.replace(file)
        return Imagined.load(file)


def _stream(tokenizer: Any, documents: Sequence[Document]) -> Tensor:
    """All of a text as one stream, the end token between documents."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for document in documents:
        ids += encode(tokenizer, document.text) + end
    return torch.tensor(ids)
