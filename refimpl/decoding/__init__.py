"""Decoding: from logits to tokens, over any engine.

In: an engine, a prompt's token ids and a `Sampler`. Out: new tokens and why the text ended. `loop` generates
one text, `beam` searches several at a time, `speculative` lets a draft propose tokens.
"""
