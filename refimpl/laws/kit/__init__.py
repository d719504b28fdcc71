"""The machinery of laws.

`declare` reads what a function of refimpl/ops declares, `draw` draws calls from its declaration, and `budget`
computes how far a result may be off. `subject` and `checking` check a function against the specification and
its laws.
"""
