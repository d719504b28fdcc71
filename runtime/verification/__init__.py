"""Verify that an exported bundle still computes the specification's model.

In: a bundle, and, if available, its source and a text. Out: a `Report` with one row per figure, and
certificate.json in the bundle if no row failed.
"""
