"""Parameters: which arrays a Config needs (`shapes`), and the nested dict that holds them (`tree`).

From a Config, this package makes names and shapes, trees of arrays, and trees that load a parameter each time
it is read (`lazy`).
"""
