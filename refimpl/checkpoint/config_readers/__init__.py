"""Readers of config files: they turn the keys of config.json and the metadata of GGUF into parts of a Config.

Input: `Keys`, a file's values with a record of those that were read. Output: layers, rotary positions, heads,
decoders. A key that no reader reads is an error, since it could mean another model. Families are composed of
these readers.
"""
