"""The checks of `verify`, in modules by subject.

Each check takes a `VerifyContext`, and yields rows of the report one at a time. So a check that runs out of
time keeps the rows that it has already yielded.
"""
