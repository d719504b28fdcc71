"""Tokenizers of GGUF files.

Input: the metadata of a GGUF file. Output: the text of the original model's tokenizer.json, and the chat
template. There is one module per kind of tokenizer.
"""
