"""The format of an exported model on disk: its manifest, its graphs' inputs and outputs, its weights.

The package opens a directory as a validated `Bundle`. It also contains the records of schemes and targets,
and the code that rounds weights.
"""
