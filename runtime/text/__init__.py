"""Text and token ids: the tokenizer of a model, its chat template, and the decoding of a stream of ids.

The input is a tokenizer.json, a chat template, and the texts and messages of users. The results are token ids
with their offsets in the text, and the text of generated ids. A user's text never becomes a control token.
"""
