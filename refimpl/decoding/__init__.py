"""Decoding: from logits to tokens, with any engine.

The input is an engine, a prompt's token ids and a `Sampler`. The output is new tokens, and the reason why the
text ended. `loop` generates one text, `beam` runs a beam search, and `speculative` checks tokens that a draft
proposes.
"""
