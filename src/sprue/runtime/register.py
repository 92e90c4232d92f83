"""Makes transformers know the quantizer, whichever of the two packages is imported first.

Importing transformers' quantizers takes seconds, and a quantizer that is not registered makes
`from_pretrained` skip the quantization with a warning and hand out random weights. So neither
importing them here nor leaving the registration to the user will do. Instead the import of
`transformers.quantizers.auto`, the module that holds the registry, is followed by the registration:
at once when it is loaded already, otherwise when it will be.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_REGISTRY = "transformers.quantizers.auto"
_QUANTIZER = "sprue.runtime.quantizer"


def register() -> None:
    """Registers the quantizer now or as soon as transformers' registry is imported."""
    loaded = sys.modules.get(_REGISTRY)
    if loaded is not None and not _being_imported(loaded):
        importlib.import_module(_QUANTIZER)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _being_imported(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the registry the way everyone else does, and gives it a loader that registers."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)  # once; it also keeps the search below from coming back here
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs the registry's own loader, then imports the quantizer, which registers itself."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        importlib.import_module(_QUANTIZER)
