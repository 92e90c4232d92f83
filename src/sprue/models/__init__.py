"""What a model is made of: opened, streamed block by block, written.

`models.open` reads no weight; `Stream` holds one block at a time; a `Writer` folder appears whole.
"""

from __future__ import annotations

from sprue.models.device import check_device
from sprue.models.families import FAMILIES, MIXTURES, find
from sprue.models.family import Family, FeedForward, Group, Mixture
from sprue.models.linears import get_weight, lent, set_weight, thresholded
from sprue.models.source import Source, open
from sprue.models.stream import Stream
from sprue.models.write import Writer

__all__ = [
    "FAMILIES",
    "MIXTURES",
    "Family",
    "FeedForward",
    "Group",
    "Mixture",
    "Source",
    "Stream",
    "Writer",
    "check_device",
    "find",
    "get_weight",
    "lent",
    "open",
    "set_weight",
    "thresholded",
]
