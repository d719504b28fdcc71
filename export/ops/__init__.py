"""The mirror of refimpl/ops in torch: same files, names and signatures; bodies in exportable form.

While a graph is traced, sizes that come from weights and from a cache's heads are numbers. Batch, time,
capacity and output positions stay dynamic, so no body may look at their values.
"""
