"""The commands, one in each file of this folder. The file's name is the command's.

    command    the function, whose parameters are the options; or a Typer with commands of its own
    GROUP      the group that `tfm-cli --help` lists it in, one of main.GROUPS

The top of a file imports only what its help needs. torch, ONNX Runtime and NumPy are imported where they are
used.
"""
