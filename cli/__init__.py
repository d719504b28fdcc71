"""`tfm-cli` takes arguments, and prints the result on stdout and everything else on stderr.

`main` runs a command. Each command is a file of `commands/`. Commands share the other files.
"""
