"""Parameters: which arrays a Config needs (`shapes`), and the nested dict that contains them (`tree`).

For a Config, this package makes names and shapes, and trees of arrays. `lazy` makes trees that load a
parameter each time it is read.
"""
