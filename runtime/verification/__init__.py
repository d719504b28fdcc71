"""Verify that an exported bundle still computes the specification's model.

The input is a bundle and, if available, the bundle's source and a text. The result is a `Report` with one row
per figure. If no row failed, certificate.json is written into the bundle.
"""
