"""Publish a network on the Hugging Face Hub, with a model card made from its training run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.cli import BOOL, PATH, Command, check_outdir, device_option, resolve_device, usage_error, usage_errors
from dnnlib.outputs import OutputFolder
from dnnlib.scratch import partial_of, scratch_folder
from network_files import hub
from network_files.cli_types import NetworkFile
from network_files.snapshots import network_file

if TYPE_CHECKING:
    from publishing.card import Terms
    from publishing.contents import Choices, Publication


class Line(click.ParamType):
    """One line of text.

    Args:
        max_length: Largest number of characters.
        pattern: Regular expression of what is allowed, or None for all printable characters.
        rule: What the pattern stands for.
    """

    name = 'text'

    def __init__(self, max_length: int, pattern: str | None = None, rule: str = 'printable characters'):
        self._max_length, self._pattern, self._rule = max_length, pattern, rule

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        is_allowed = text.isprintable() if self._pattern is None else re.fullmatch(self._pattern, text)
        if not 0 < len(text) <= self._max_length or not is_allowed:
            self.fail(f'{value!r} is not valid: use 1 to {self._max_length} {self._rule}, in one line.', param, ctx)
        return text


@click.command(cls=Command)
@click.option('--run', type=PATH, metavar='DIR', help='Directory of a training run, for its newest network')
@click.option(
    '--network', type=NetworkFile(), metavar='FILE', help='Network file; beside it may be the files of its run'
)
@click.option(
    '--repo', required=True, metavar='OWNER/NAME', help='Repository to write to; created if it does not exist'
)
@click.option('--private', is_flag=True, help='Create a repository that only you see, or require that it is one')
@click.option('--revision', metavar='BRANCH', help='Branch to write to; created if it does not exist  [default: main]')
@click.option(
    '--license',
    'license_id',
    type=Line(64, r'[a-z0-9][a-z0-9.+-]*', 'lower-case letters, digits, ., + and -'),
    metavar='ID',
    help='License of the network, as the hub names it: apache-2.0, cc-by-4.0, other, …  [default: not stated]',
)
@click.option(
    '--data-license', type=Line(500), metavar='TEXT', help='License of the training images  [default: not stated]'
)
@click.option('--message', type=Line(200), metavar='TEXT', help='Message of the commit')
@click.option('--pickle', 'as_pickle', is_flag=True, help='Also write network.pkl, for programs that read nothing else')
@click.option(
    '--generator-only', is_flag=True, help='Leave out what only training needs: G and D, which are two thirds'
)
@click.option(
    '--card', 'with_card', type=BOOL, default=True, show_default='1', help='Write README.md; 0 keeps the one on the hub'
)
@click.option('--dry-run', is_flag=True, help='Upload nothing: write what would be uploaded to --dest')
@click.option('--dest', type=OutputFolder(), metavar='DIR', help='New or empty folder for --dry-run')
@device_option()
def main(
    run: str | None,
    network: str | None,
    repo: str,
    private: bool,
    revision: str | None,
    license_id: str | None,
    data_license: str | None,
    message: str | None,
    as_pickle: bool,
    generator_only: bool,
    with_card: bool,
    dry_run: bool,
    dest: str | None,
    device: str,
) -> None:
    """Publish a network on the Hugging Face Hub, with a model card made from its training run.

    What is uploaded: the network as safetensors, in which there can be no code; a grid of samples; metrics; the
    training options; and the card. Nothing else of the run, no image of the dataset, and no path of this machine. It is
    one commit: all of it or nothing. Others then use it as --network=hf://OWNER/NAME.

    The token is that of `hf auth login`, or HF_TOKEN. docs/sharing.md describes the card, and what to say in it.

    \b
    Examples:
      python push.py --run=runs/00000-cats-auto1 --repo=me/cats --dry-run --dest=cats
      python push.py --run=runs/00000-cats-auto1 --repo=me/cats --license=cc-by-4.0 --data-license="my own photographs"
      python push.py --network=network.pkl --repo=me/cats --revision=older --private
    """
    check_options(run, network, repo, revision, dry_run, dest)
    from publishing.card import Terms
    from publishing.contents import Choices

    terms = Terms(repo, revision, license_id, data_license)
    publication = open_publication(
        run, network, terms, Choices(as_pickle, generator_only, with_card), device, private, dest
    )
    if dest is None:
        upload(publication, private, message)
        return
    with new_folder(dest) as folder:
        names = publication.write(folder)
    click.echo(f'Wrote {dest}: {", ".join(names)}. This is all that would be uploaded to {repo}.')


def check_options(
    run: str | None,
    network: str | None,
    repo: str,
    revision: str | None,
    dry_run: bool,
    dest: str | None,
) -> None:
    """Raise click.UsageError if options contradict each other, or have no valid value."""
    if (run is None) == (network is None):
        raise click.UsageError('Publish either a run (--run=DIR) or a network file (--network=FILE).')
    if run is not None and not os.path.isdir(run):
        raise usage_error('--run', f'{run!r} is not a folder: use the directory of a training run, or --network=FILE.')
    with usage_errors('--repo'):
        hub.check_repo(repo)
    if revision is not None:
        with usage_errors('--revision'):
            hub.check_branch(revision)
    if dry_run != (dest is not None):
        raise click.UsageError('--dry-run and --dest=DIR belong together: use both, or neither to upload.')
    if dest is not None:
        check_outdir(dest, '--dest')
        if os.path.isdir(dest) and os.listdir(dest):
            raise usage_error(
                '--dest', f'{dest!r} is not empty: use a new folder, so that it has nothing but these files.'
            )


def open_publication(
    run: str | None,
    network: str | None,
    terms: Terms,
    choices: Choices,
    device: str,
    private: bool,
    dest: str | None,
) -> Publication:
    """Return what will be published. The hub is asked first whether it will take it, unless there is a `dest`.

    Raises:
        click.BadParameter: The network cannot be opened, or the repository not be written.
    """
    from network_files import safetensors_files
    from network_files.reading import open_network
    from publishing import facts, uploading
    from publishing.contents import Publication

    torch_device = resolve_device(device)
    safetensors_files.require_library()
    if dest is None:
        with usage_errors('--repo'):
            uploading.check_destination(terms.repo, private)
    with usage_errors('--network' if run is None else '--run'):
        path = network_file(run or network or '')
        data = open_network(path)
        known = facts.gather(data, path)
    for problem in known.problems:
        click.echo(f'Warning: {problem}', err=True)
    return Publication(data, known, path, terms, choices, torch_device)


def upload(publication: Publication, private: bool, message: str | None) -> None:
    """Write the folder, upload it, and delete it."""
    from publishing import contents, uploading

    terms, kimg = publication.terms, publication.facts.kimg
    message = message or ('Upload network' if kimg is None else f'Upload network after {kimg:,} kimg')
    with scratch_folder('push') as folder:
        names = publication.write(folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        click.echo(f'Uploading {", ".join(names)} ({size / 2**20:.1f} MiB) to {terms.repo}')
        outdated = [name for name in contents.NAMES if name != contents.CARD]
        with usage_errors('--repo'):
            url = uploading.upload(folder, terms.repo, private, terms.revision, message, outdated)
    click.echo(f'Uploaded: {url}\nUse it with --network={terms.address}')


@contextlib.contextmanager
def new_folder(dest: str) -> Iterator[Path]:
    """Yield a folder that becomes `dest` when the block ends, and is deleted if the block raises."""
    Path(dest).parent.mkdir(parents=True, exist_ok=True)
    with partial_of(dest, is_folder=True) as partial:
        folder = partial / 'folder'  # `partial` itself cannot be read by others
        folder.mkdir()
        yield folder
        if os.path.isdir(dest):
            os.rmdir(dest)
        os.replace(folder, dest)


if __name__ == '__main__':
    main()
