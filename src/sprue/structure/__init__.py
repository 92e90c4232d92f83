"""Parts of a model that leave together: which they are, what they are worth, how the rest adapts.

Functions on tensors and torch modules: no file, no model of `transformers`, no device choice.
"""
