"""Parameters: which arrays a Config needs (`shapes`), and the nested dict that holds them (`tree`).

In: a Config. Out: names and shapes, trees of arrays, and trees that load a parameter each time it is read
(`lazy`).
"""
