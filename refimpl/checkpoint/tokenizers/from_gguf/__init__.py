"""Tokenizers of GGUF files.

In: the metadata of a GGUF file. Out: the text of the tokenizer.json that the original model has, and the chat
template. One module per kind of tokenizer.
"""
