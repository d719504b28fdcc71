"""Kernels of our own: in come C++ sources and a processor, out goes a library of operators for ONNX Runtime.

`source/` has the operators. `compilers` names the C++ compilers of this machine, `build` makes the library
with one of them, `library` finds it and says which instruction set it uses here, and `probe` tries it in a
child process first.
"""
