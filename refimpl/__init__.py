"""The transformer in NumPy, written to be read. It is the specification with which everything else is
compared.
"""
