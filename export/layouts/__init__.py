"""Write bundles in the form of other runtimes: with the inputs, outputs and files that these runtimes expect.

The input is an opened bundle, whose weights stay unchanged. The output is a directory that the runtime opens
without tfm. Each layout is a module with a `BundleLayout`. A layout refuses a model that it doesn't cover
before any work begins.
"""
