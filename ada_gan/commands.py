"""The subcommands of `ada-gan`: scripts, which are imported only when they are used."""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from ada_gan import TREE
from dnnlib.cli import Group

# Scripts outside of the root that users need, too.
_IN_SCRIPTS = ('compare_methods', 'make_dinov2_detector', 'posthoc_ema', 'train_detectors')
_NOT_COMMANDS = ('setup', 'conftest')
_SHELLS = ('bash', 'zsh', 'fish')
_COMPLETE_VARIABLE = '_ADA_GAN_COMPLETE'


def _modules() -> dict[str, str]:
    """Return {subcommand: module} of all scripts: `dataset-tool` is the module `dataset_tool`."""
    names = sorted(path.stem for path in TREE.glob('*.py') if path.stem not in _NOT_COMMANDS)
    modules = {name: name for name in names} | {name: f'scripts.{name}' for name in _IN_SCRIPTS}
    return {name.replace('_', '-'): module for name, module in modules.items()}


def _summary(module: str) -> str:
    """Return the first sentence of a script's docstring, without importing the script."""
    path = Path(TREE, *module.split('.')).with_suffix('.py')
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return ' '.join(docstring.split('\n\n')[0].split()).split('. ')[0].rstrip('.')


class Scripts(Group):
    """A group whose subcommands are scripts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_modules(), *super().list_commands(ctx)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Accept the names of the files, too."""
        return super().resolve_command(ctx, [args[0].removesuffix('.py').replace('_', '-'), *args[1:]])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name, module = cmd_name, _modules().get(cmd_name)
        if module is None:
            return super().get_command(ctx, name)
        command = importlib.import_module(module).main
        command.name = name
        script = f'{module.replace(".", "/")}.py'
        if command.help is not None:
            command.help = command.help.replace(f'python {script}', f'ada-gan {name}')
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section('Commands'):
            formatter.write_dl(self._summaries(ctx))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [(name, text) for name, text in self._summaries(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=text) for name, text in found), *options]

    def _summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        others = ((name, self.commands[name].get_short_help_str(200)) for name in super().list_commands(ctx))
        return [*((name, _summary(module)) for name, module in _modules().items()), *others]


@click.group(cls=Scripts)
def main() -> None:
    """Train generative adversarial networks on limited data, and use them.

    Each command has its own --help. `ada-gan train …` runs what `python train.py …` runs in a checkout.
    """


@main.command()
@click.argument('shell', type=click.Choice(_SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print the script that completes commands and options in a shell: bash, zsh or fish.

    \b
    bash:  echo 'eval "$(ada-gan completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(ada-gan completion zsh)"' >> ~/.zshrc
    fish:  ada-gan completion fish > ~/.config/fish/completions/ada-gan.fish
    """
    shell = shell or Path(os.environ.get('SHELL', '')).name
    completer = get_completion_class(shell) if shell in _SHELLS else None
    if completer is None:
        raise click.UsageError(f'The shell {shell!r} is not known: use one of {", ".join(_SHELLS)}.')
    click.echo(completer(main, {}, 'ada-gan', _COMPLETE_VARIABLE).source())
