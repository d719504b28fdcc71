"""Bounded readers of file formats: safetensors, GGUF, files of torch, JSON, and the directory of a model.

The readers take paths of untrusted files. A reader returns named tensors and plain values, or raises
CheckpointError. Each size is checked against the file before memory is allocated for it.
"""
