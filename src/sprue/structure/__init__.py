"""Parts of a model that leave together: which they are, what they are worth, how the rest adapts.

Pure functions on tensors: no file, no model of `transformers`, no device choice.
"""
