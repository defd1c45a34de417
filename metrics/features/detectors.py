"""The networks that look at images for the metrics: where their files are, and how to call them.

Two of them are published as TorchScript files, which take these calls (images are NCHW, RGB):

    inception(uint8 images, return_features=True)    float [N, D]: features for FID and KID
    inception(uint8 images, no_output_bias=True)     float [N, K]: class probabilities for the Inception score
    vgg16(uint8 images, return_features=True)        float [N, D]: features for precision and recall
    vgg16(float images from 0 to 255, resize_images=False, return_lpips=True)
                                                     float [N, D]: their squared distances are LPIPS

Two others are files of the user's own, because they are not published in this format. They resize and normalize the
images themselves:

    dinov2(uint8 images, return_features=True)       float [N, D]: features for fd_dinov2, made by
                                                     scripts/make_dinov2_detector.py
    clip(uint8 images, return_features=True)         float [N, D]: embeddings for CMMD

The published files are downloaded into the cache. Any TorchScript file (.pt) in a folder can replace them, either under
the name of the published file or as specified by a `detectors.json` in that folder. Programs of `torch.export` (.pt2)
are not opened: PyTorch's reader runs any Python code that they contain.

    {"label": "digits", "inception": "inception-digits.pt", "vgg16": "vgg16-digits.pt"}

The label becomes part of the names of all results, so that they cannot be mistaken for results of the published
detectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset_format.sizes import Resolution, sides
from dnnlib.cache import make_cache_dir_path
from dnnlib.downloads import cached_file, open_url
from dnnlib.json_input import read_json
from dnnlib.schema import MapOf, Text
from dnnlib.text import excerpt
from metrics.features.clean_resize import clean_resize
from metrics.features.feature_requests import VGG_LPIPS, DetectorCall

_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
URLS = {'inception': _URL + 'inception-2015-12-05.pt', 'vgg16': _URL + 'vgg16.pt'}
# How to get the files that are not published
SOURCES = {
    'dinov2': 'make it with scripts/make_dinov2_detector.py from the official weights',
    'clip': 'save a CLIP image encoder as TorchScript with the interface in docs/metrics.md',
}
NAMES = (*URLS, *SOURCES)

MANIFEST = 'detectors.json'
_MAX_MANIFEST_BYTES = 100_000
_MANIFEST_RULE = MapOf(Text(1000), max_length=1000)
_EXPORTED = '.pt2'
_DOWNLOAD_ATTEMPTS = 3
_READ_BYTES = 1 << 20


class DetectorError(ValueError):
    """A detector cannot be found, read or called. The message is for the user."""


@dataclass(frozen=True)
class Detector:
    """A loaded detector. `module(images, **keywords)` takes the calls listed at the top of this file."""

    name: str  # of the file, without its extension
    source: str  # path, or the URL of a file in the cache
    sha256: str
    module: Callable[..., torch.Tensor]
    label: str | None = None  # part of the names of results if the detector is not the published one


# ---------------------------------------------------------------------------------------------------------------------
# Finding files


def locate(name: str, folder: str | os.PathLike | None = None) -> Path | None:
    """Return the file of a detector, or None if it does not exist. Nothing is downloaded.

    Args:
        name: One of `NAMES`.
        folder: Folder with the file that its `detectors.json` specifies, or with one that has the published name (or
            the name of the detector) and the extension .pt. None: the cache.

    Raises:
        DetectorError: The folder does not exist, or its `detectors.json` is not usable.
    """
    if folder is None:
        return cached_file(URLS[name]) if name in URLS else _existing(own_file(name))
    folder = Path(folder)
    if not folder.is_dir():
        raise DetectorError(f'{str(folder)!r} is not a folder. Use the folder that contains the detectors.')
    manifest = _read_manifest(folder)
    if name in manifest:
        return folder / manifest[name]
    candidates = [folder / f'{_published_name(name)}{extension}' for extension in ('.pt', _EXPORTED)]
    return next((path for path in candidates if path.is_file()), None)


def own_file(name: str) -> Path:
    """Return the place in the cache of a detector that is not published."""
    return Path(make_cache_dir_path('detectors', f'{name}.pt'))


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _published_name(name: str) -> str:
    """Return the name of the published file, or of the detector if it is not published, without its extension."""
    if name not in URLS:
        return name
    return URLS[name].rpartition('/')[2].removesuffix('.pt')


def label_of(folder: str | os.PathLike | None) -> str | None:
    """Return the label of the detectors in a folder, or None if there is no label, as for the published detectors.

    Raises:
        DetectorError: The `detectors.json` of the folder is not usable.
    """
    return None if folder is None else _read_manifest(Path(folder)).get('label')


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return the contents of a folder's `detectors.json`, or {} if there is no such file."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = read_json(path, _MAX_MANIFEST_BYTES)
    except (OSError, ValueError) as error:
        raise DetectorError(f'{path} cannot be read as JSON ({error}).') from error
    try:
        _MANIFEST_RULE.check(manifest, str(path))
    except ValueError as error:
        raise DetectorError(
            f'{path} must be an object of strings: "label" and the files of {", ".join(NAMES)} ({error})'
        ) from error
    try:
        check_label(manifest.get('label', ''))
    except ValueError as error:
        raise DetectorError(f'"label" in {path}: {error}') from error
    for name in NAMES:
        if name in manifest and not _is_in_folder(folder, manifest[name]):
            raise DetectorError(f'{path} refers to {excerpt(manifest[name])!r}, which is not in the folder.')
    return manifest


def _is_in_folder(folder: Path, name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and '..' not in path.parts and (folder / path).is_file()


def check_label(label: str) -> None:
    """Check that the label of detectors can be part of the names of results.

    Raises:
        ValueError: It cannot.
    """
    if re.fullmatch(r'([a-z0-9][a-z0-9_]*)?[a-z_]', label) is None:
        raise ValueError(
            f'{excerpt(label)!r} cannot be part of the names of results. Use lower-case letters, digits and _, with a '
            'letter at the end.'
        )


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load(
    name: str,
    device: torch.device | str = 'cpu',
    folder: str | os.PathLike | None = None,
    verbose: bool = False,
) -> Detector:
    """Load a detector. The published file is downloaded if no folder is given and it is not in the cache.

    Args:
        name: One of `NAMES`.
        device: Where the detector will run.
        folder: Folder with the file (see `locate`). None: the cache.
        verbose: Show the progress of a download.

    Raises:
        DetectorError: The detector cannot be found, downloaded or read.
    """
    path = locate(name, folder)
    if path is None:
        if folder is not None:
            raise DetectorError(_missing_message(folder, name))
        if name not in URLS:
            raise DetectorError(
                f'The detector {name!r} is missing: {SOURCES[name]}, and store it as {own_file(name)}, or in a folder '
                'for --detectors.'
            )
        path = _download(name, verbose)
    return Detector(
        name=path.stem if folder is not None else _published_name(name),
        source=str(path) if folder is not None else URLS.get(name, str(path)),
        sha256=_sha256(path),
        module=_open_module(path, torch.device(device), is_downloaded=folder is None and name in URLS),
        label=label_of(folder),
    )


def _missing_message(folder: str | os.PathLike, name: str) -> str:
    return (
        f'{str(folder)!r} has no detector {name!r}. Add {_published_name(name)}.pt, or a {MANIFEST} that '
        'specifies another file.'
    )


def _download(name: str, verbose: bool) -> Path:
    try:
        with open_url(URLS[name], verbose=verbose, num_attempts=_DOWNLOAD_ATTEMPTS) as file:
            return Path(file.name)
    except OSError as error:  # The message says where the file can be placed manually.
        raise DetectorError(
            f'The detector {name!r} is missing: {error}; or specify a folder that contains it with --detectors.'
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _open_module(path: Path, device: torch.device, is_downloaded: bool) -> Callable[..., torch.Tensor]:
    if path.suffix == _EXPORTED:
        raise DetectorError(
            f'{path} is not opened, because a program of torch.export can run any code while PyTorch reads it: save '
            'the detector as a TorchScript file (.pt).'
        )
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError('not a complete archive')
        # From a file, because PyTorch requires names that are UTF-8.
        with open(path, 'rb') as file, ignore_torchscript_deprecation():
            module = torch.jit.load(file, map_location='cpu').eval()
    except Exception as error:  # The reader of a damaged file can raise anything.
        remedy = 'Delete it, so that it is downloaded again' if is_downloaded else 'Copy it again'
        raise DetectorError(
            f'{path} cannot be opened as a detector ({_summary(error)}), because it is damaged or of another kind. '
            f'{remedy}.'
        ) from error
    return module.to(device)


@contextlib.contextmanager
def ignore_torchscript_deprecation() -> Iterator[None]:
    """Within this context, PyTorch does not warn that TorchScript, the format of the published files, is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message=r'`?torch\.jit\.', category=DeprecationWarning)
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Calling


@torch.no_grad()
def apply(detector: Detector, images: torch.Tensor, call: DetectorCall) -> torch.Tensor:
    """Return what a detector computes for images.

    Args:
        detector: The detector of the call.
        images: [N, 3, H, W], as the call expects them: see the top of this file.
        call: How to call the detector.

    Returns:
        Float [N, D].

    Raises:
        DetectorError: The detector does not support the call, or returns something else.
    """
    signature = f'(images, {", ".join(f"{key}={value}" for key, value in call.keywords)})'
    try:
        images = clean_resize(images) if call.clean_resize else images
        features = detector.module(images, **dict(call.keywords))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # The code in the file can raise anything.
        raise DetectorError(
            f'{detector.source} does not support the call {signature} for images of shape {list(images.shape[1:])} '
            f'({_summary(error)}): it is a detector with another interface.'
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(images):
        returned = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise DetectorError(
            f'{detector.source} returns {returned} from the call {signature} for {len(images)} images, not a vector '
            'for each image: it is a detector with another interface.'
        )
    return features


def check(detector: Detector, call: DetectorCall, resolution: Resolution, device: torch.device | str) -> int:
    """Apply a detector to two blank images of the given size, and return the length D of its features.

    Raises:
        DetectorError: The detector does not support the call.
    """
    dtype = torch.float32 if call == VGG_LPIPS else torch.uint8
    images = torch.zeros([2, 3, *sides(resolution)], dtype=dtype, device=device)
    return apply(detector, images, call).shape[1]


def _summary(error: Exception) -> str:
    """Return the line of an error message that says most, shortened; the last one of a TorchScript traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[-1] if lines and 'TorchScript' in lines[0] else lines[0]) if lines else type(error).__name__
    return text[:200].rstrip('.')
