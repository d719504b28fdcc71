"""Read checkpoints: `open` turns a model directory or a .gguf file into a Config, lazy weights and a
tokenizer.

This package also reads the model's generation settings, label names, languages and sentence pooling.
"""
