"""Finds where a graph first differs from the specification.

It takes the bundle of a decoder, and tokens. It returns the parts of a forward pass in order, each with its
error and budget. The first part over its budget has the bug.
"""
