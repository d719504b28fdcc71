"""The mirror of refimpl/ops in torch: same files, names and signatures; bodies in exportable form.

Sizes that come from weights and from a cache's heads are numbers while a graph is traced; batch,
time, capacity and wanted positions stay free, so no body may look at their values.
"""
