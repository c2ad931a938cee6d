"""The subcommands of ``python -m seaplib``, one file each.

A command's module has ``add(subparsers)``, which adds the command's parser with its ``run`` as
default of ``command``, and ``run(options)``, which returns the exit status. A new command is a new
file here and its name in :data:`COMMANDS`.
"""

from . import compare, init, list, reproduce, status, verify

#: In the order in which the help lists them.
COMMANDS = (reproduce, status, compare, verify, list, init)
