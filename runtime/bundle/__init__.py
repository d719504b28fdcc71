"""The format of an exported model on disk: its manifest, its graphs' inputs and outputs, its weights.

A directory is opened as a validated `Bundle`. The room also has the records of schemes and targets, and the
rounding of weights.
"""
