"""Turn the keys of config.json and the metadata of GGUF into parts of a Config.

The input is `Keys`: a file's values, with a record of which values were read. The output is layers, rotary
positions, heads and decoders. A key that no reader reads is an error, since it could mean another model. The
families combine these readers.
"""
