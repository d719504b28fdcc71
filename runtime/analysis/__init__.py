"""Experiments on models and their parts: cost, memory, attention, perplexity.

The functions here take a Config, weights or texts, and return records of numbers. Commands print these
records as tables, JSON and pictures.
"""
