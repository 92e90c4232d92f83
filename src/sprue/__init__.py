"""sprue: cut a trained model down to a stated budget, and prove what was kept."""

__version__ = "0.1.0"
