"""The checks of `verify`, in modules by subject.

In: a `VerifyContext`. Out: rows of the report, yielded one at a time, so that a check that runs out of time
keeps the rows that it has.
"""
