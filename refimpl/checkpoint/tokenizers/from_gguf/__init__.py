"""Read the tokenizers of GGUF files.

The input is the metadata of a GGUF file. The output is the text of the original model's tokenizer.json, and
the chat template. There is one module for each kind of tokenizer.
"""
