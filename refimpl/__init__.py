"""The transformer in NumPy, written to be read: the specification that everything else is compared with."""
