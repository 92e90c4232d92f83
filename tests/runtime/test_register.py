"""The quantizer is known to transformers in whichever order the two are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = """
from transformers.quantizers import auto
assert auto.AUTO_QUANTIZER_MAPPING["sprue"].__name__ == "SprueQuantizer"
assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["sprue"].__name__ == "SprueConfig"
import inspect
assert "def register_quantizer" in inspect.getsource(auto)
assert not any("sprue" in type(finder).__module__ for finder in sys.meta_path)
"""


def _run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import transformers; import sprue",
        "import transformers.quantizers.auto; import sprue",
        "import sprue; from transformers import AutoModelForCausalLM",
    ],
)
def test_either_order(first: str) -> None:
    _run(f"{first}\n{KNOWN}")


def test_importing_sprue_is_cheap() -> None:
    _run(
        "import sprue, sprue.runtime\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy'"
    )
