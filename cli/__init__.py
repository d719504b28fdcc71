"""The command line `tfm-cli`. It prints results on stdout and everything else on stderr.

`main` runs a command. Each command is a file in the folder `commands`. The other files of this folder are
shared by the commands.
"""
