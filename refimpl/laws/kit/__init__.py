"""The machinery that checks laws.

`declare` reads what a function of refimpl/ops declares. `draw` generates random calls from the
declaration. `budget` computes how large the error of a result may be. `subject` and `checking` check a
function against the specification and its laws.
"""
