"""Tokenizers in plain Python, written to be read. The `tokenizers` library does the same, but faster.

The input is a tokenizer.json, or texts on which to train a tokenizer. The results are token ids with their
offsets in the text, and text for ids. The modules, in reading order, are `normalized_string` (a text that
stores where each of its characters comes from), `normalizers`, `pre_tokenizers`, the models `bpe`,
`wordpiece` and `unigram` (which uses `lattice`), `added_tokens`, `post_processors`, `decoders`, and
`tokenizer`, which connects them. `bpe_training` and `unigram_training` train models. Tokenizers compute no
arrays, so they don't use PyTorch.
"""
