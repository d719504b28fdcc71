"""Quantize a checkpoint: choose the format of each weight, and choose scales and ranges from a calibration
run.

The input is a checkpoint and the records of a scheme and a target. The output is quantized parameters, ready
to be stored.
"""
