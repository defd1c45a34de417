"""Serve a page on this machine that shows what networks can do: latents, projection, snapshots, features, training."""

from __future__ import annotations

from dnnlib.cli import (
    PATH,
    Command,
    check_outdir,
    max_pixels_option,
    resolve_device,
    usage_error,
    usage_errors,
)

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import secrets
import socket
import threading
import webbrowser
from pathlib import Path

import click
import torch

from dataset_format.images import MAX_PIXELS
from dnnlib.outputs import OutputFolder
from dnnlib.util import is_url
from metrics.features import detectors
from network_files.snapshots import complete_snapshots, network_file
from studio_server.serving import Address, missing_packages, serve
from studio_server.settings import Settings

_DEFAULT_PORT = 8790


@click.command(cls=Command)
@click.option(
    '--network',
    'networks',
    type=PATH,
    required=True,
    multiple=True,
    metavar='FILE|URL|RUN',
    help='Network file, or directory of a training run, whose snapshots are all offered; may be given several times',
)
@click.option(
    '--outdir',
    type=OutputFolder(),
    default='out/studio',
    show_default=True,
    metavar='DIR',
    help='Folder for everything that is kept: latents, pictures, videos',
)
@click.option(
    '--port',
    type=click.IntRange(0, 65535),
    default=_DEFAULT_PORT,
    show_default=True,
    metavar='N',
    help='Port of the page; 0 selects a free one',
)
@click.option(
    '--host',
    default='127.0.0.1',
    show_default=True,
    metavar='ADDRESS',
    help='Address to listen at; other machines can reach the page at any but 127.0.0.1, and need the token that is '
    'printed',
)
@click.option('--open', 'open_browser', is_flag=True, help='Open the page in the browser of this machine')
@click.option(
    '--network-memory',
    type=click.IntRange(min=0),
    default=4096,
    show_default=True,
    metavar='MIB',
    help='Memory for networks that are not in use, on each device',
)
@click.option(
    '--directions',
    'direction_files',
    type=PATH,
    multiple=True,
    metavar='FILE',
    help='Directions that edit.py has found; may be given several times',
)
@max_pixels_option(MAX_PIXELS, 'photographs')
@click.option(
    '--detectors',
    'detector_dir',
    type=PATH,
    metavar='DIR',
    help='Folder with vgg16.pt, which projection needs, to use instead of downloading it',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickles (only if you trust their authors)')
@click.option(
    '--device',
    metavar='auto|cuda|cuda:N|mps|cpu[,…]',
    default='auto',
    show_default=True,
    help='Device to run on, or several, among which the networks are divided; auto selects the first one available of '
    'cuda, mps, cpu',
)
def main(
    networks: tuple[str, ...],
    outdir: str,
    port: int,
    host: str,
    open_browser: bool,
    network_memory: int,
    direction_files: tuple[str, ...],
    max_pixels: int,
    detector_dir: str | None,
    trust_pickle: bool,
    device: str,
) -> None:
    """Look at networks in a browser: everything runs on this machine, and nothing is loaded from the internet.

    \b
    Examples:
      python studio.py --network=network.pkl --open
      python studio.py --network=runs/00000-cats-auto1 --network=other.pkl --outdir=out/cats
      ssh -L 8790:localhost:8790 SERVER, there python studio.py --network=network.pkl, here http://localhost:8790/

    The page asks for nothing but what is named here. Ctrl-C ends it.
    """
    missing = missing_packages()
    if missing:
        raise click.ClickException(f'studio.py needs {missing}: pip install starlette uvicorn websockets')
    networks = tuple(checked_network(network) for network in networks)
    for file in direction_files:
        if not Path(file).is_file():
            raise usage_error('--directions', f'{file} does not exist: use a file of edit.py directions.')
    check_outdir(outdir)
    if detector_dir is not None:
        with usage_errors('--detectors'):
            detectors.locate('vgg16', detector_dir)
    settings = Settings(
        networks=networks,
        devices=resolve_devices(device),
        outdir=Path(outdir),
        max_network_bytes=network_memory * 2**20,
        trust=trust_pickle,
        detector_dir=detector_dir,
        direction_files=direction_files,
        max_pixels=max_pixels,
    )
    address = listen(host, port)
    print(f'The page is at {address.url} (Ctrl-C ends it)', flush=True)
    if open_browser:
        threading.Timer(1, webbrowser.open, [address.url]).start()
    serve(settings, address)


def checked_network(network: str) -> str:
    """Return a `--network`, for an address hf://... that of a file at a commit.

    Raises:
        click.BadParameter: The file does not exist, or the run has no network yet.
    """
    path = Path(network)
    with usage_errors('--network'):
        if is_url(network):
            return network_file(network)
        if path.is_dir():
            complete_snapshots(network)
        elif not path.is_file():
            raise usage_error('--network', f'{network} does not exist: use a network file, a URL or a run directory.')
    return network


def resolve_devices(names: str) -> list[torch.device]:
    """Return the devices of `--device`, each once."""
    return list(dict.fromkeys(resolve_device(name) for name in names.split(',')))


def listen(host: str, port: int) -> Address:
    """Open the address that the page will have.

    Raises:
        click.BadParameter: It cannot be used.
    """
    try:
        (family, kind, protocol, _name, where) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise usage_error('--host', f'{host!r} is not an address of this machine ({error.strerror}).') from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
        listener.listen()  # browsers that come before the server is ready wait
    except OSError as error:
        listener.close()
        raise usage_error(
            '--port', f'{port} cannot be used at {host} ({error.strerror}): use another one, or 0 for any free port.'
        ) from error
    return Address(host, listener, secrets.token_urlsafe(24))


if __name__ == '__main__':
    main()
