"""Quantizing a checkpoint: the format of each weight, and the parameters that a calibration run chooses.

In: a checkpoint and the records of a scheme and a target. Out: leaves in codes, ready to be stored.
"""
