"""Tokenizers in plain Python, written to be read; they do what the `tokenizers` library does fast.

In: a tokenizer.json, or texts to train one on. Out: token ids with their offsets in the text, and text for
ids. In reading order: `normalized_string` (a text that knows which original characters it comes from),
`normalizers`, `pre_tokenizers`, the models `bpe`, `wordpiece` and `unigram` (over `lattice`),
`added_tokens`, `post_processors`, `decoders`, and `tokenizer`, which connects them; `bpe_training` and
`unigram_training`. They compute no arrays, so PyTorch has no part in them.
"""
