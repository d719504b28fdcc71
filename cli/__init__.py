"""`tfm-cli`: arguments in, a result on stdout, everything else on stderr.

`main` runs a command, each a file of `commands/`; the other files are shared by commands.
"""
