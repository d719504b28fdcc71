"""Readers of config files: the keys of config.json, and the metadata of GGUF, become parts of a Config.

In: `Keys`, a file's values with a record of those that were read. Out: layers, rotary positions, heads,
decoders. A key that nobody reads is an error, since it could mean another model. Families are composed of
these.
"""
