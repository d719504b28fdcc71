"""Bounded readers of file formats: safetensors, GGUF, files of torch, JSON, and the directory of a model.

The readers take paths of untrusted files. They return named tensors and plain values, or raise
CheckpointError. Each size is checked against the file before memory is allocated for it.
"""
