"""Verify that an exported bundle still computes the specification's model.

The input is a bundle and, if available, its source and a text. The result is a `Report` with one row per
figure and, if no row failed, certificate.json in the bundle.
"""
