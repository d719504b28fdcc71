"""Text and token ids: the tokenizer of a model, its chat template, and the decoding of a stream of ids.

In: a tokenizer.json, a chat template, texts and messages of users. Out: token ids with their offsets in the
text, and text for generated ids. No text of a user becomes a control token.
"""
