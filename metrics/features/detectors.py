"""The networks that look at images for the metrics: where their files are, and what they can be asked.

Two of them, with the call interface of the published TorchScript files (images are NCHW, RGB):

    inception(uint8 images, return_features=True)    float [N, D]: features of FID and KID
    inception(uint8 images, no_output_bias=True)     float [N, K]: class probabilities of the Inception score
    vgg16(uint8 images, return_features=True)        float [N, D]: features of precision and recall
    vgg16(float images from 0 to 255, resize_images=False, return_lpips=True)
                                                     float [N, D]: squared distances of these are LPIPS

The published files come by URL into the cache. Any TorchScript file (.pt) or `torch.export` program (.pt2; it answers
the one call that it was exported for) can stand in from a folder, under the published file's name or as a
`detectors.json` in that folder says:

    {"label": "digits", "inception": "inception-digits.pt", "vgg16": "vgg16-digits.pt"}

The label becomes part of the names of all results, so that nobody takes them for those of the published detectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset_format.sizes import Resolution, sides
from dnnlib.downloads import cached_file, open_url

_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
URLS = {'inception': _URL + 'inception-2015-12-05.pt', 'vgg16': _URL + 'vgg16.pt'}

FEATURES = {'return_features': True}
PROBABILITIES = {'no_output_bias': True}
LPIPS = {'resize_images': False, 'return_lpips': True}
CALLS = {'inception': (FEATURES, PROBABILITIES), 'vgg16': (FEATURES, LPIPS)}

MANIFEST = 'detectors.json'
_DOWNLOAD_ATTEMPTS = 3
_READ_BYTES = 1 << 20


class DetectorError(ValueError):
    """A detector that is not there, cannot be read, or is of another interface. The text is a sentence."""


@dataclass(frozen=True)
class Detector:
    """A detector, ready to be called: `module(images, **keywords)` with the keywords of this file's top."""

    name: str  # of the file, without its ending
    source: str  # path, or URL of what is in the cache
    sha256: str
    module: Callable[..., torch.Tensor]
    label: str | None = None  # of a stand-in: part of the names of results


# ---------------------------------------------------------------------------------------------------------------------
# Finding files


def locate(name: str, folder: str | os.PathLike | None = None) -> Path | None:
    """The file of the detector 'inception' or 'vgg16', or None where there is none. Downloads nothing.

    Args:
        name:   key of URLS.
        folder: where to look: what its `detectors.json` says, else the published name, ending in .pt or .pt2.
                None: the cache.

    Raises:
        DetectorError: the folder is none, or its `detectors.json` is unusable.
    """
    if folder is None:
        return cached_file(URLS[name])
    folder = Path(folder)
    if not folder.is_dir():
        raise DetectorError(f'--detectors: {str(folder)!r} is not a folder; give the one that holds the detectors.')
    manifest = _read_manifest(folder)
    if name in manifest:
        return folder / manifest[name]
    stem = URLS[name].rpartition('/')[2].removesuffix('.pt')
    candidates = (folder / f'{stem}.pt', folder / f'{stem}.pt2')
    return next((path for path in candidates if path.is_file()), None)


def label_of(folder: str | os.PathLike | None) -> str | None:
    """The label of the stand-ins in a folder; None for the published detectors. DetectorError as `locate`."""
    return None if folder is None else _read_manifest(Path(folder)).get('label')


def _read_manifest(folder: Path) -> dict[str, str]:
    """The contents of a folder's `detectors.json`, {} without one."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DetectorError(f'{path} cannot be read as JSON ({error}).') from error
    if not isinstance(manifest, dict) or not all(isinstance(value, str) for value in manifest.values()):
        raise DetectorError(f'{path} must be an object of texts: "label" and the files of {" and ".join(URLS)}.')
    check_label(manifest.get('label', ''), f'"label" in {path}')
    for name in URLS:
        if name in manifest and not (folder / manifest[name]).is_file():
            raise DetectorError(f'{path} names {manifest[name]!r}, which is not in the folder.')
    return manifest


def check_label(label: str, where: str) -> None:
    """DetectorError where a label of stand-ins cannot be part of a result's name."""
    if re.fullmatch(r'([a-z0-9][a-z0-9_]*)?[a-z_]', label) is None:
        raise DetectorError(
            f'{where} is {label!r}; it becomes part of the names of results, so use lower-case letters, digits and _, '
            'with a letter at the end.'
        )


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load(
    name: str,
    device: torch.device | str = 'cpu',
    folder: str | os.PathLike | None = None,
    verbose: bool = False,
) -> Detector:
    """Open a detector, downloading the published file where no folder is given and the cache lacks it.

    Args:
        name:    'inception' or 'vgg16'.
        device:  where it will run.
        folder:  where the file is (see `locate`). None: the cache.
        verbose: show a download's progress.

    Raises:
        DetectorError: a sentence with the way out.
    """
    path = locate(name, folder)
    if path is None:
        if folder is not None:
            raise DetectorError(_missing_in(folder, name))
        path = _download(name, verbose)
    return Detector(
        name=path.stem if folder is not None else URLS[name].rpartition('/')[2].removesuffix('.pt'),
        source=str(path) if folder is not None else URLS[name],
        sha256=_sha256(path),
        module=_open_module(path, torch.device(device), in_cache=folder is None),
        label=label_of(folder),
    )


def _missing_in(folder: str | os.PathLike, name: str) -> str:
    file_name = URLS[name].rpartition('/')[2]
    return (
        f'--detectors: {str(folder)!r} has no detector {name!r}: put {file_name} (or {file_name}2) there, or a '
        f'{MANIFEST} that names its file.'
    )


def _download(name: str, verbose: bool) -> Path:
    try:
        with open_url(URLS[name], verbose=verbose, num_attempts=_DOWNLOAD_ATTEMPTS) as file:
            return Path(file.name)
    except OSError as error:  # its sentence says where the file can be put by hand
        raise DetectorError(
            f'The detector {name!r} is missing: {error}; or name a folder that has it with --detectors.'
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _open_module(path: Path, device: torch.device, in_cache: bool) -> Callable[..., torch.Tensor]:
    try:
        if not zipfile.is_zipfile(path):  # `torch.export.load` would print a traceback
            raise ValueError('it is no complete archive')
        if path.suffix == '.pt2':
            module = torch.export.load(path).module()
        else:
            with deprecated_torchscript():
                module = torch.jit.load(path, map_location='cpu').eval()
    except Exception as error:  # a damaged file can raise anything in the reader
        remedy = 'delete it, and it is downloaded again' if in_cache else 'copy it again'
        raise DetectorError(
            f'{path} cannot be opened as a detector ({_first_line(error)}); it is damaged or of another kind: {remedy}.'
        ) from error
    return module.to(device)


@contextlib.contextmanager
def deprecated_torchscript() -> Iterator[None]:
    """Inside, PyTorch does not say that TorchScript is deprecated: the published files are of that kind."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message=r'`?torch\.jit\.', category=DeprecationWarning)
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Asking


@torch.no_grad()
def ask(detector: Detector, images: torch.Tensor, keywords: dict[str, bool]) -> torch.Tensor:
    """What the detector says of images [N, 3, H, W] (see the top of this file), as float [N, D].

    Raises:
        DetectorError: the detector does not understand the call, or answers with something of another shape.
    """
    call = f'(images, {", ".join(f"{key}={value}" for key, value in keywords.items())})'
    try:
        answer = detector.module(images, **keywords)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the code of the file raises
        raise DetectorError(
            f'{detector.source} does not answer the call {call} for images of shape {list(images.shape[1:])} '
            f'({_first_line(error)}): it is a detector of another interface.'
        ) from error
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2 or len(answer) != len(images):
        got = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise DetectorError(
            f'{detector.source} answers the call {call} for {len(images)} images with {got}, not with a vector for '
            'each image: it is a detector of another interface.'
        )
    return answer


def check(detector: Detector, keywords: dict[str, bool], resolution: Resolution, device: torch.device | str) -> int:
    """Ask a detector about two blank images of the given size: the length D of its answers, or DetectorError."""
    dtype = torch.float32 if 'return_lpips' in keywords else torch.uint8
    images = torch.zeros([2, 3, *sides(resolution)], dtype=dtype, device=device)
    return ask(detector, images, keywords).shape[1]


def _first_line(error: Exception) -> str:
    """What an error says, shortened to a part of a sentence; of TorchScript's traces the last line counts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[-1] if lines and 'TorchScript' in lines[0] else lines[0]) if lines else type(error).__name__
    return text[:200].rstrip('.')
