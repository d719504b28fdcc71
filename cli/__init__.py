"""`tfm-cli`: in come arguments, out goes a result on stdout, everything else on stderr.

`main` runs a command, each a file of `commands/`; the other files are what commands share.
"""
