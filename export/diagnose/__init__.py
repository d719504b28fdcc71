"""Where does a graph leave the specification? In: a bundle of a decoder, and tokens. Out: the parts of a
forward pass in order, each with its error and budget. The first part out of its budget has the bug.
"""
