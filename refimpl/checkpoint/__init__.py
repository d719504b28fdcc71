"""Checkpoints: a model directory or a .gguf file becomes a Config, lazy weights and a tokenizer (`open`).

Beside them: how the model wants to generate, the names of its labels, its languages, its sentence pooling.
"""
