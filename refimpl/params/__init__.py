"""Parameters: which arrays a Config needs (`shapes`), and the nested dict that holds them (`tree`).

In: a Config. Out: names and shapes, trees of arrays, trees that load a leaf when it is asked for (`lazy`).
"""
