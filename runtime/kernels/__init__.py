"""tfm's own kernels. In: C++ sources and a processor. Out: a library of operators for ONNX Runtime.

`source/` has the operators. `compilers` finds the C++ compilers of this machine, and `build` makes the
library with one of them. `library` finds the library and its instruction set for this processor. `probe`
first tries it in a child process.
"""
