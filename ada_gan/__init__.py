"""The installed form of this project: one package, which makes everything in a checkout importable.

    import ada_gan
    G = ada_gan.load('network.pkl')                     # a file, a URL, or the directory of a training run
    G = ada_gan.from_pretrained('owner/name')           # or a network on the Hugging Face Hub
    images = G(torch.randn([4, G.z_dim]), None)         # [4, C, H, W] in [-1, +1]

Network pickles name `dnnlib` and `torch_utils`. Importing `ada_gan` makes these importable, so that `pickle.load` opens
such a file, which runs code in it; `ada_gan.load` opens it without. In a wheel, the files of a checkout are in
`ada_gan/_tree/`; in a checkout, they are in the folder above this one.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ['TREE', 'from_pretrained', 'load']

_FOLDER = Path(__file__).resolve().parent
TREE = _FOLDER / '_tree' if (_FOLDER / '_tree').is_dir() else _FOLDER.parent
"""The folder with the files of a checkout."""

# What opening and running networks needs. These names mean the packages of this project as soon as `ada_gan` is
# imported; all its other names are found after those of everybody else.
_PACKAGES = (
    'dataset_format',
    'dnnlib',
    'generation',
    'network_files',
    'plain_pickle',
    'torch_utils',
    'training',
)


class _Finder:
    """Finds the packages of this project, whatever else has their names on the path."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in _PACKAGES:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [str(TREE)], target)


def _make_importable() -> None:
    if not any(finder is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder)
    if str(TREE) not in sys.path:
        sys.path.append(str(TREE))  # processes that this one starts by `multiprocessing` inherit the path


def _check_packages() -> None:
    """Raise ImportError if another package of the same name was imported before this one."""
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is not None and not _is_in_tree(module):
            place = getattr(module, '__file__', None) or name
            raise ImportError(
                f'another package named {name!r} was imported before, from {place}: import ada_gan first, or rename '
                'that package.'
            )


def _is_in_tree(module: ModuleType) -> bool:
    return any(Path(folder).resolve().parent == TREE for folder in getattr(module, '__path__', []))


def load(
    network: str | os.PathLike,
    key: str = 'G_ema',
    device: torch.device | str = 'cpu',
    trust_pickle: bool = False,
) -> Any:
    """Open a network without running anything in its file.

    Args:
        network: Pickle of this project or of the published code (PyTorch or TensorFlow), safetensors file, URL of one,
            address `hf://owner/name[/file][@revision]`, or directory of a training run for its newest network.
        key: Which network: 'G_ema' (the averaged generator), 'G' or 'D'.
        device: Where its parameters are stored.
        trust_pickle: Run the code inside the file, as `pickle.load` does.

    Returns:
        The module, in evaluation mode and without gradients. A generator is called as `G(z, c)` with z [N, z_dim] and
        c [N, c_dim] (None if `c_dim` is 0), and returns float32 [N, C, H, W] in [-1, +1].

    Raises:
        OSError: The file cannot be read or downloaded.
        ValueError: It is not a network file, or does not contain this network. One sentence.
        ImportError: Another package has the name of one of this project, and was imported before.
    """
    _check_packages()
    from network_files import reading, snapshots

    if key not in reading.NETWORK_KEYS:
        raise ValueError(f'key={key!r}: must be one of {", ".join(map(repr, reading.NETWORK_KEYS))}')
    data = reading.open_network(snapshots.network_file(os.fspath(network)), trust=trust_pickle)
    if data[key] is None or (key != 'G_ema' and data[key] is data['G_ema']):
        raise ValueError(f'{os.fspath(network)} has no network {key!r}')
    return data[key].to(device)


def from_pretrained(
    repo: str,
    file: str | None = None,
    revision: str | None = None,
    key: str = 'G_ema',
    device: torch.device | str = 'cpu',
) -> Any:
    """Download a network from the Hugging Face Hub, unless it is in the cache, and open it.

    Nothing in its file is run. A token for private repositories is that of `hf auth login` or `HF_TOKEN`.

    Args:
        repo: 'owner/name', or an address `hf://owner/name[/file][@revision]`.
        file: Name of a file there. None: the one that the repository stands for, safetensors first.
        revision: Branch, tag or commit. None: the newest commit.
        key: As for `load`.
        device: As for `load`.

    Returns:
        The module, as for `load`.

    Raises:
        OSError: The network does not exist or cannot be downloaded, or huggingface_hub is not installed.
        ValueError: It is not a network file, or does not contain this network. One sentence.
        ImportError: As for `load`.
    """
    _check_packages()
    from network_files import hub

    address = hub.Address.parse(repo if hub.is_address(repo) else f'{hub.SCHEME}{repo}')
    if (file is not None and address.file) or (revision is not None and address.revision):
        raise ValueError(f'{repo} already names a file or a revision: leave out the argument.')
    chosen = hub.Address(address.repo, file or address.file, revision or address.revision)
    return load(str(hub.Address.parse(str(chosen))), key, device)


_make_importable()
