"""Decoding: choosing tokens from an engine's logits until the text ends.

The input is an engine, a prompt's token ids and a `Sampler`. The output is the new tokens, and the reason why
the text ended. `loop` generates one text, `beam` runs a beam search, and `speculative` checks tokens that a
draft proposes.
"""
