"""The format of an exported model on disk: its manifest, its graphs' inputs and outputs, its weights.

A directory is opened as a validated `Bundle`. This package also contains the records of schemes and targets,
and the code that rounds weights.
"""
