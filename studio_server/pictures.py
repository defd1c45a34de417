"""From the inputs of a picture to the bytes of an image file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import torch

from dataset_format.images import paste_on_white
from generation import rendering
from studio_server import previews
from studio_server.networks import Network
from studio_server.picture_specs import Latent
from torch_utils import images

FORMATS = ('png', 'jpeg', 'webp')
_QUALITY = 90


class _Enough(Exception):
    """Ends the computation of a network early."""


def render(network: Network, latent: Latent, left_out: int = 0) -> np.ndarray:
    """Render a picture as the scripts do.

    Args:
        network: The network.
        latent: Its inputs.
        left_out: Leave out so many blocks of layers at the end, and return the image of the block before them.

    Returns:
        uint8 [C, H, W].
    """
    if left_out == 0:
        return _render(network, latent)
    caught: list[torch.Tensor] = []

    def stop(_module: Any, _inputs: Any, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        caught.append(outputs[1])
        raise _Enough

    with hooked(previews.smaller_images(network.G)[left_out - 1], stop), contextlib.suppress(_Enough):
        _render(network, latent)
    return images.to_uint8(caught[0])[0].cpu().numpy()


def _render(network: Network, latent: Latent) -> np.ndarray:
    rendered = rendering.render_projected(
        network.G,
        latent.projected,
        network.device,
        latent.noise_mode,
        first_noise_seed=latent.noise_seed,
        as_projected=latent.is_kept,
        transforms=[latent.transform],
    )
    return next(iter(rendered))


@contextlib.contextmanager
def hooked(module: torch.nn.Module, hook: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Call a function with what a module computes, within this context."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def encode(image: np.ndarray | PIL.Image.Image, file_format: str, max_side: int | None = None) -> bytes:
    """Encode a picture.

    Args:
        image: uint8 [C, H, W] or an image.
        file_format: 'png' keeps every pixel; 'jpeg' and 'webp' are smaller. JPEG has no alpha: it is put on white.
        max_side: Scale the picture down to so many pixels.
    """
    picture = image if isinstance(image, PIL.Image.Image) else images.to_pil(image)
    if max_side is not None and max(picture.size) > max_side:
        factor = max_side / max(picture.size)
        size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
        picture = picture.resize(size, PIL.Image.Resampling.BOX)
    if file_format == 'jpeg' and picture.mode in ('LA', 'RGBA'):
        picture = paste_on_white(picture)
    if file_format == 'webp' and picture.mode in ('L', 'LA'):
        picture = picture.convert('RGBA' if picture.mode == 'LA' else 'RGB')
    file = io.BytesIO()
    options: dict[str, Any] = {
        'png': {'compress_level': 1},
        'jpeg': {'quality': _QUALITY, 'subsampling': 0},
        'webp': {'quality': _QUALITY, 'method': 0},
    }[file_format]
    picture.save(file, format=file_format, **options)
    return file.getvalue()


def jpeg_of(image: torch.Tensor) -> bytes:
    """Encode an image [1, C, H, W] from -1 to +1 as JPEG, as jobs show it."""
    return encode(images.to_uint8(image)[0].cpu().numpy(), 'jpeg')
