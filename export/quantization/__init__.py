"""Quantizing a checkpoint: which format each weight gets, and what a calibration run has to choose for it.

In come a checkpoint and the records of a scheme and a target; out come leaves in codes, ready to be stored.
"""
