"""Edit images and networks: the commands of `generation/editing`."""

from __future__ import annotations

import click

from generation.editing import surgery_command


@click.group()
def main() -> None:
    """Edit images and networks. `python edit.py COMMAND --help` describes a command."""


main.add_command(surgery_command.surgery)


if __name__ == '__main__':
    main()
