"""A readable transformer in NumPy. It is the specification that every other implementation is compared
with.
"""
