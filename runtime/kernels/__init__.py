"""tfm's own kernels, built from C++ sources into a library of operators for ONNX Runtime.

`source/` contains the operators. `compilers` finds the C++ compilers of this machine, and `build` makes
the library with one of them. `library` finds the library and the instruction set that it uses on this
processor. `probe` first tries the library in a child process.
"""
