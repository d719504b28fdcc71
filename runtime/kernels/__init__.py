"""tfm's own kernels. They are built from C++ sources for a processor into a library of operators for ONNX
Runtime.

`source/` has the operators. `compilers` finds the C++ compilers of this machine, and `build` makes the
library with one of them. `library` finds the library and its instruction set for this processor. `probe`
first tries the library in a child process.
"""
