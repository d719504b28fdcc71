"""Experiments on models and their parts: cost, memory, attention, perplexity.

In: a Config, weights or texts. Out: records of numbers, which commands print as tables, JSON and pictures.
Nothing here prints.
"""
