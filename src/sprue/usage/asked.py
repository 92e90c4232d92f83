"""What a ranking is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sprue.errors import InputError
from sprue.usage.totals import COMPUTE, MEASURES

TOP, SAMPLE = 20, 5_000


@dataclass(frozen=True)
class Asked:
    """Which rows count, and what is told of them.

    Attributes:
        by: one of `totals.MEASURES`; where the log does not tell it, the next one ranks.
        tenants: theirs alone; empty: of all.
        since, until: from this moment on, and before that; seconds since 1970, UTC.
        flops: model -> floating-point operations of a token, for rows that tell no FLOPs.
        top: of every list, how many are told.
        min_cluster: requests that a new need must have; None: 0.4% of the sample, 10 at least.
        sample: texts that new needs are looked for in, at most.
        seed: of the sample and the clusters.

    Raises:
        InputError: one of them cannot be.
    """

    by: str = COMPUTE
    tenants: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    flops: Mapping[str, float] = field(default_factory=dict)
    top: int = TOP
    min_cluster: int | None = None
    sample: int = SAMPLE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise InputError(f"expected to rank by {', '.join(MEASURES)}, got {self.by!r}")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InputError("--since must lie before --until")
        for model, value in self.flops.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"--flops {model}: expected FLOPs above 0, got {value:g}")
        counts = {"--top": self.top, "--min-cluster": self.min_cluster, "--sample": self.sample}
        for name, count in counts.items():
            least = 0 if name == "--sample" else 2 if name == "--min-cluster" else 1
            if count is not None and count < least:
                raise InputError(f"{name} must be {least} or more, got {count}")
