"""Readers of config files: the keys of config.json, and the metadata of GGUF, become parts of a Config.

In: `Keys`, the values of a file with what was read of them. Out: layers, rotary positions, heads, decoders.
A key that nobody reads is an error, since it could mean another model. Families are put together from these.
"""
