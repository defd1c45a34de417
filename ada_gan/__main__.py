"""The command `ada-gan`, also `python -m ada_gan`: every script of this project as a subcommand."""

from __future__ import annotations

import sys

from ada_gan import TREE


def main() -> None:
    """Run the command line."""
    # This process belongs to the command, so the names of this project come first. `python -m` puts the current folder
    # there, which may hold anything.
    sys.path[:] = [str(TREE), *(entry for entry in sys.path if entry != str(TREE))]
    from ada_gan import commands

    commands.main(prog_name='ada-gan')


if __name__ == '__main__':
    main()
