"""Bundles in the form of other runtimes: conventional names of inputs and outputs, and the files around them.

In: an opened bundle, whose weights stay as they are. Out: a directory that such a runtime opens by itself.
A layout is a file with a `BundleLayout`; what it doesn't cover it refuses before there is work.
"""
