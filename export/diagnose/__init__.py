"""Find the first place where a graph differs from the specification.

The input is the bundle of a decoder, and tokens. The result is the parts of a forward pass in order, each
with its error and its budget. The first part whose error exceeds its budget has the bug.
"""
