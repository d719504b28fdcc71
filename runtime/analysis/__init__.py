"""Experiments on models and their parts: what they cost, what they keep, where they look.

In come a Config, weights or texts; out come records of numbers, which commands print as tables, JSON and
pictures. Nothing here prints.
"""
