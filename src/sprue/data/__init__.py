"""Calibration and evaluation data: read, tokenize, sample with a seed, fingerprint."""
