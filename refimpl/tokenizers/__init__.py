"""Tokenizers in plain Python, written to be read: what the `tokenizers` library does fast.

In reading order: `aligned` (a text that remembers where it comes from), `normalizers`, `pretokenizers`,
the models `bpe`, `wordpiece`, `unigram` (over `lattice`), `added`, `postprocessors`, `decoders`, and
`tokenizer`, which puts them together as a tokenizer.json states; `bpe_training` and `unigram_training`.

These files compute no arrays, so they have no mirror.
"""
