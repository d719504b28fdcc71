"""The format of an exported model on disk: its manifest, its graphs' inputs and outputs, its weights.

In: a directory. Out: a validated `Bundle`. Schemes and targets are records here, and weights are rounded
here.
"""
