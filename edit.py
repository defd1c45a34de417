"""Edit images and networks: the commands of `generation/editing`."""

from __future__ import annotations

import click

from dnnlib.cli import Group
from generation.editing import drag_command


@click.group(cls=Group)
def main() -> None:
    """Edit images and networks. `python edit.py COMMAND --help` describes a command."""


main.add_command(drag_command.drag)


if __name__ == '__main__':
    main()
