"""Quantizes a checkpoint: chooses the format of each weight, and parameters from a calibration run.

In: a checkpoint and the records of a scheme and a target. Out: parameters in codes, ready to be stored.
"""
