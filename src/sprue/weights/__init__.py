"""One matrix at a time: pure functions on tensors, no model, no file, no device choice."""
