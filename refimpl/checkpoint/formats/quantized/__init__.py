"""Weights that quantizing libraries store in safetensors. Each format has one file here, with its formula.

Every format returns its weights as `weight.StoredWeight`. `source.Quantized` gives each weight the name that
it has in a float checkpoint, so families needn't know about quantization. Values are exact in float32, or
rounded once for each product of the formula. A library that computes in float16 rounds these values to
float16.
"""
