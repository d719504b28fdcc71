"""Weights that quantizing libraries store in safetensors: one format a file, each with its formula.

Every format gives what `weight.StoredWeight` says, and `source.Quantized` puts it under the name that the
weight has in a float checkpoint, so that no family knows of it. Values are exact in float32, or rounded once
for each product of the formula: a library that computes in float16 gives them rounded to that.
"""
