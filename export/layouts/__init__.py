"""Writes bundles in the form of other runtimes: with their names of inputs and outputs, and their files.

In: an opened bundle, whose weights stay as they are. Out: a directory that such a runtime opens by itself.
A layout is a file with a `BundleLayout`. It refuses a model that it doesn't cover before any work begins.
"""
