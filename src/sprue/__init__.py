"""sprue: cut a trained model down to a stated budget, and prove what was kept.

After `import sprue`, transformers' `from_pretrained` loads what `sprue compress` made.
"""

from sprue.runtime.register import register as _register

__version__ = "0.1.0"

_register()
