"""Rows for the model: features, tensors, decoding, baselines."""
