"""Make the detector for fd_dinov2 from the official weights of DINOv2.

Download the weights yourself, for example dinov2_vitl14_pretrain.pth, the network with which published numbers are
computed, or dinov2_vitb14_pretrain.pth. The same networks as safetensors files, as transformers names their tensors,
are accepted, too. Nothing in the file is executed.

The result is a TorchScript file that takes uint8 images of any size: `metrics.features.detectors` describes the call.
Images are resized and normalized as in Stein et al., "Exposing flaws of generative model evaluation metrics and their
unfair treatment of diffusion models" (NeurIPS 2023, arXiv 2306.04675).

The network is a vision transformer (Dosovitskiy et al., arXiv 2010.11929) as in Oquab et al., "DINOv2: Learning robust
visual features without supervision" (arXiv 2304.07193).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import torch

from dnnlib.cli import PATH, Command, usage_errors
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFile
from dnnlib.text import excerpt, join_excerpts
from metrics.features.detectors import ignore_torchscript_deprecation, own_file
from network_files import tensor_archives
from network_files.safetensors_files import require_library

ARCHITECTURES = {384: (12, 6), 768: (12, 12), 1024: (24, 16)}  # width → blocks, attention heads (ViT-S, ViT-B, ViT-L)
PATCH = 14  # pixels
IMAGE = 224  # pixels
TRAINED_GRID = 37  # patches along each side of the images that the positions were learned for
GRID_OFFSET = 0.1  # added to the number of patches before positions are interpolated, as in training
MLP_RATIO = 4
NORM_EPS = 1e-6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colors of ImageNet, in [0, 1]
MAX_FILE_BYTES = 2**32
UNUSED = ('mask_token',)  # tensors that only the training needs

# ---------------------------------------------------------------------------------------------------------------------
# The network: N images, T tokens (one for the image, then one for each patch), D width. Names are those of the weights.


class Attention(torch.nn.Module):
    """Self-attention with several heads."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.proj = torch.nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(2, 3) * (d // self.num_heads) ** -0.5).softmax(dim=3)  # [N, heads, T, T]
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, d))


class LayerScale(torch.nn.Module):
    """A learned factor for each channel of a residual branch (arXiv 2103.17239)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class MLP(torch.nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = torch.nn.Linear(width, MLP_RATIO * width)
        self.fc2 = torch.nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.nn.functional.gelu(self.fc1(x)))


class Block(torch.nn.Module):
    """Attention and MLP, each after a normalization, and added to its input."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.ls1 = LayerScale(width)
        self.norm2 = torch.nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(torch.nn.Module):
    """A linear layer on each patch."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = torch.nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # [N, patches, D]


class DINOv2(torch.nn.Module):
    """The detector. Positions are those for images of `IMAGE` pixels: `positions_for_input`."""

    def __init__(self, width: int, num_blocks: int, num_heads: int):
        super().__init__()
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + (IMAGE // PATCH) ** 2, width))
        self.blocks = torch.nn.Sequential(*(Block(width, num_heads) for _ in range(num_blocks)))
        self.norm = torch.nn.LayerNorm(width, eps=NORM_EPS)
        self.mean = torch.nn.Parameter(torch.tensor(MEAN)[:, None, None])
        self.std = torch.nn.Parameter(torch.tensor(STD)[:, None, None])

    def forward(self, images: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        """Return the features [N, D] of uint8 [N, 3, H, W] images: the normalized token of the image."""
        x = torch.nn.functional.interpolate(
            images.to(self.mean.dtype), size=[224, 224], mode='bicubic', align_corners=False, antialias=True
        )
        x = self.patch_embed((x / 255 - self.mean) / self.std)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a .pth or safetensors file.

    Raises:
        ValueError: It is not such a file. One sentence.
        OSError: It cannot be read.
    """
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise ValueError(f'{path} has more than {MAX_FILE_BYTES >> 30} GiB, more than any of these networks.')
    if path.lower().endswith('.safetensors'):
        require_library()
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except Exception as error:  # the library has errors of its own
            raise ValueError(f'{path} cannot be read as safetensors ({excerpt(error)}).') from error
    try:
        content = tensor_archives.load(path)
    except tensor_archives.DamagedArchive as error:
        raise ValueError(f'{path} cannot be read as a file of weights: it is damaged ({excerpt(error)}).') from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f'{path} does not contain the weights of a network by name.')
    return dict(content)


def official_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by their official names, if they have those of transformers; others are returned as they are."""
    if 'embeddings.cls_token' not in weights:
        return dict(weights)
    renamed: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        match = re.fullmatch(r'(.*)\.attention\.attention\.(query|key|value)\.(weight|bias)', name)
        if match is None:
            renamed[name] = tensor
        else:
            parts.setdefault(f'{match[1]}.attn.qkv.{match[3]}', {})[match[2]] = tensor
    for name, tensors in parts.items():
        renamed[name] = torch.cat([tensors[key] for key in ('query', 'key', 'value') if key in tensors])
    return renamed


_RENAMED = (
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.', ''),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^layernorm\.', 'norm.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.layer_scale(\d)\.lambda1$', r'.ls\1.gamma'),
)


def positions_for_input(positions: torch.Tensor) -> torch.Tensor:
    """Interpolate positions [1, 1 + TRAINED_GRID², D] for the patches of `IMAGE` pixels, as in training."""
    of_image, of_patches = positions[:, :1], positions[:, 1:]
    grid = of_patches.reshape(1, TRAINED_GRID, TRAINED_GRID, -1).permute(0, 3, 1, 2)
    scale = (IMAGE // PATCH + GRID_OFFSET) / TRAINED_GRID
    grid = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode='bicubic', align_corners=False)
    return torch.cat([of_image, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def build(weights: Mapping[str, torch.Tensor], path: str) -> DINOv2:
    """Return the network with these weights.

    Args:
        weights: Tensors by name.
        path: Of the file, for messages.

    Raises:
        ValueError: They are not those of a supported network. One sentence.
    """
    weights = {name: tensor.float() for name, tensor in official_names(weights).items() if name not in UNUSED}
    width = weights['cls_token'].shape[-1] if 'cls_token' in weights and weights['cls_token'].ndim == 3 else 0
    if width not in ARCHITECTURES:
        raise ValueError(f'{path} is not one of the networks ViT-S/14, ViT-B/14 and ViT-L/14 of DINOv2.')
    network = DINOv2(width, *ARCHITECTURES[width])
    expected = {
        name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name not in ('mean', 'std')
    }
    expected['pos_embed'] = (1, 1 + TRAINED_GRID**2, width)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        raise ValueError(
            f'{path} is not one of the networks ViT-S/14, ViT-B/14 and ViT-L/14 of DINOv2 without registers: '
            f'{len(differing)} tensors are missing, unknown or of another shape ({join_excerpts(differing)}).'
        )
    weights['pos_embed'] = positions_for_input(weights['pos_embed'])
    network.load_state_dict({**network.state_dict(), **weights})
    return network.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------------
# Command line


@click.command(cls=Command)
@click.option('--weights', type=PATH, required=True, metavar='FILE', help='Official weights, .pth or .safetensors')
@click.option(
    '--dest', type=OutputFile('detector'), show_default='where metrics find it, in the cache', help='File to write'
)
def main(weights: str, dest: str | None) -> None:
    """Make the detector for fd_dinov2 from the official weights of DINOv2."""
    with usage_errors('--weights'):
        network = build(read_weights(weights), weights)
    path = own_file('dinov2') if dest is None else Path(dest)
    with ignore_torchscript_deprecation(), atomic_file(path) as file:
        torch.jit.save(torch.jit.script(network), file)
    print(f'Wrote {path}: {network.norm.normalized_shape[0]} features of an image')


if __name__ == '__main__':
    main()
