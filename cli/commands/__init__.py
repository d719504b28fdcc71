"""The commands of `tfm-cli`, one in each file of this folder. A command has its file's name.

    command    a function with the options as its parameters, or a Typer with subcommands
    GROUP      the group of main.GROUPS in which `tfm-cli --help` lists the command

The top of a file imports only what the command's help needs. torch, ONNX Runtime and NumPy are imported
inside functions.
"""
