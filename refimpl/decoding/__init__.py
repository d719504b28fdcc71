"""Decoding: from logits to tokens, with any engine.

In: an engine, a prompt's token ids and a `Sampler`. Out: new tokens and the reason why the text ended. `loop`
generates one text, `beam` runs a beam search, and `speculative` checks tokens that a draft proposes.
"""
