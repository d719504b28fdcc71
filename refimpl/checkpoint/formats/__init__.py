"""Bounded readers of file formats: safetensors, GGUF, files of torch, JSON, and the directory of a model.

In: paths of files that nobody has to trust. Out: named tensors and plain values, or a CheckpointError.
Nothing is allocated before its size was checked against the file.
"""
