"""Packages that came with an extra."""

from __future__ import annotations

import json
import sys

import pytest

from sprue.errors import InputError
from sprue.extras import needed


def test_what_is_there_is_given() -> None:
    assert needed("json", "usage", "ranking") is json


@pytest.mark.parametrize("module", ["no_such_thing.part", "json.no_such_thing"])
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    package = module.partition(".")[0]
    with pytest.raises(InputError, match=rf"ranking needs {package}, .*sprue\[usage\]"):
        needed(module, "usage", "ranking")


def test_what_a_package_lacks_itself_is_named(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "lacking_one.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(InputError, match=r"ranking needs no_such_thing, .*sprue\[usage\]"):
        needed("lacking_one", "usage", "ranking")
    assert "lacking_one" not in sys.modules
