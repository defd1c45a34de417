"""Edit images and networks: the commands of `generation/editing`."""

from __future__ import annotations

from dnnlib.cli import Group

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import click

from generation.editing import (
    apply_command,
    average_command,
    blend_command,
    directions_command,
    drag_command,
    surgery_command,
    tune_command,
)
from metrics.features.projection_features import open_feature_function


@click.group(cls=Group)
def main() -> None:
    """Edit images and networks. `python edit.py COMMAND --help` describes a command."""


main.add_command(directions_command.directions)
main.add_command(apply_command.apply)
main.add_command(blend_command.blend)
main.add_command(average_command.average)
main.add_command(surgery_command.surgery)
main.add_command(drag_command.drag)
main.add_command(tune_command.make_command(open_feature_function))


if __name__ == '__main__':
    main()
