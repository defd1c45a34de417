"""Presets of `--cfg`, augmentation pipes of `--augpipe`, and pretrained networks of `--resume`: tables of data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataset_format.sizes import Resolution, sides

# ---------------------------------------------------------------------------------------------------------------------
# Presets


STYLEGAN2, STYLEGAN3_T, STYLEGAN3_R = GENERATORS = ('stylegan2', 'stylegan3-t', 'stylegan3-r')
NONSATURATING, RELATIVISTIC = LOSS_NAMES = ('nonsaturating', 'relativistic')


@dataclass(frozen=True)
class Preset:
    """One complete row of the preset table; None means that this part is not used."""

    generator: str  # one of GENERATORS
    reference_gpus: int  # GPUs that the numbers were chosen for: batch_size / reference_gpus images fit on one of them
    total_kimg: int  # length of the training in thousands of real images
    batch_size: int  # images per step, over all GPUs
    mbstd_group: int  # images that share a minibatch standard deviation in the discriminator
    lr: float  # Adam's learning rate for the generator
    d_lr: float  # Adam's learning rate for the discriminator
    loss: str  # one of LOSS_NAMES
    r1_gamma: float  # weight of the R1 penalty, and of R2 if the loss has it
    d_reg_interval: int  # steps between two with these penalties; 1: in each step
    ema_kimg: float  # half-life of the moving average of the generator's weights
    ema_rampup: float | None  # the half-life is at most this fraction of the images shown so far
    z_dim: int
    w_dim: int
    mapping_layers: int
    d_mapping_layers: int | None  # of the discriminator's label mapping; None: the default of its constructor
    channel_base: int  # a layer at resolution r has min(channel_base / r, channel_max) channels
    channel_max: int
    num_fp16_res: int  # this many of the highest resolutions run in half precision on CUDA
    conv_clamp: float | None  # convolutions clamp their activations to ± this
    d_architecture: str
    style_mixing_prob: float
    pl_weight: float  # weight of the path length penalty
    blur_sigma: float  # of what the discriminator sees at the start, in pixels
    blur_kimg: float  # thousands of images in which the blur fades
    G_reg_interval: int | None  # as in TrainingConfig
    ada_kimg: float  # thousands of images in which the augmentation strength can go from 0 to 1
    more_synthesis_kwargs: Mapping[str, Any]  # of StyleGAN3's generator
    mbstd_channels: int = 1  # standard deviations of a group of images, each of an equal share of the channels


# fmt: off
_PRESETS = {
    'stylegan2': Preset(
        generator=STYLEGAN2, reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.002, d_lr=0.002,
        loss=NONSATURATING, r1_gamma=10, d_reg_interval=16,
        ema_kimg=10, ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0.9, pl_weight=2, blur_sigma=0, blur_kimg=0, G_reg_interval=4, ada_kimg=500,
        more_synthesis_kwargs={}),
    'paper256': Preset(
        generator=STYLEGAN2, reference_gpus=8, total_kimg=25000, batch_size=64, mbstd_group=8, lr=0.0025, d_lr=0.0025,
        loss=NONSATURATING, r1_gamma=1, d_reg_interval=16,
        ema_kimg=20, ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None,
        channel_base=16384, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0.9, pl_weight=2, blur_sigma=0, blur_kimg=0, G_reg_interval=4, ada_kimg=500,
        more_synthesis_kwargs={}),
    'paper512': Preset(
        generator=STYLEGAN2, reference_gpus=8, total_kimg=25000, batch_size=64, mbstd_group=8, lr=0.0025, d_lr=0.0025,
        loss=NONSATURATING, r1_gamma=0.5, d_reg_interval=16,
        ema_kimg=20, ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0.9, pl_weight=2, blur_sigma=0, blur_kimg=0, G_reg_interval=4, ada_kimg=500,
        more_synthesis_kwargs={}),
    'paper1024': Preset(
        generator=STYLEGAN2, reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.002, d_lr=0.002,
        loss=NONSATURATING, r1_gamma=2, d_reg_interval=16,
        ema_kimg=10, ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0.9, pl_weight=2, blur_sigma=0, blur_kimg=0, G_reg_interval=4, ada_kimg=500,
        more_synthesis_kwargs={}),
    # The generator is not regularized, but its learning rate and betas are those of lazy regularization (interval 4),
    # as in the published configuration.
    'cifar': Preset(
        generator=STYLEGAN2, reference_gpus=2, total_kimg=100000, batch_size=64, mbstd_group=32, lr=0.0025, d_lr=0.0025,
        loss=NONSATURATING, r1_gamma=0.01, d_reg_interval=16,
        ema_kimg=500, ema_rampup=0.05, z_dim=512, w_dim=512, mapping_layers=2, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='orig', style_mixing_prob=0,
        pl_weight=0, blur_sigma=0, blur_kimg=0, G_reg_interval=4, ada_kimg=500, more_synthesis_kwargs={}),
    # R1 weights at 512 pixels; `get_preset` scales them. The numbers of channels are those of the discriminator: the
    # generator of -r has twice as many.
    STYLEGAN3_T: Preset(
        generator=STYLEGAN3_T, reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.0025, d_lr=0.002,
        loss=NONSATURATING, r1_gamma=8.2, d_reg_interval=16,
        ema_kimg=10, ema_rampup=0.05, z_dim=512, w_dim=512, mapping_layers=2, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0, pl_weight=0, blur_sigma=0, blur_kimg=0, G_reg_interval=None, ada_kimg=500,
        more_synthesis_kwargs={}),
    STYLEGAN3_R: Preset(
        generator=STYLEGAN3_R, reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.0025, d_lr=0.002,
        loss=NONSATURATING, r1_gamma=8.2, d_reg_interval=16,
        ema_kimg=10, ema_rampup=0.05, z_dim=512, w_dim=512, mapping_layers=2, d_mapping_layers=None,
        channel_base=32768, channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet',
        style_mixing_prob=0, pl_weight=0, blur_sigma=10, blur_kimg=200, G_reg_interval=None, ada_kimg=500,
        more_synthesis_kwargs={}),
    # This project's own: images of 16 or 32 pixels on a CPU, in minutes. Few channels and a high learning rate, so that
    # a few thousand steps suffice; z is three times as wide as the embedded label (w_dim), so that the label does not
    # dominate the latent.
    'tiny': Preset(
        generator=STYLEGAN2, reference_gpus=1, total_kimg=90, batch_size=16, mbstd_group=4, lr=0.01, d_lr=0.01,
        loss=NONSATURATING, r1_gamma=0.05, d_reg_interval=16,
        ema_kimg=3, ema_rampup=0.05, z_dim=192, w_dim=64, mapping_layers=2, d_mapping_layers=2,
        channel_base=512, channel_max=64, num_fp16_res=0, conv_clamp=None, d_architecture='resnet', style_mixing_prob=0,
        pl_weight=0, blur_sigma=0, blur_kimg=0, G_reg_interval=None, ada_kimg=100, more_synthesis_kwargs={}),
    # The same for few images, with what makes the discriminator notice missing variety: a loss that compares pairs, and
    # eight standard deviations of the whole batch instead of one of four images. docs/small-data.md has the numbers.
    'small-data': Preset(
        generator=STYLEGAN2, reference_gpus=1, total_kimg=120, batch_size=32, mbstd_group=32, lr=0.01, d_lr=0.01,
        loss=RELATIVISTIC, r1_gamma=0.5, d_reg_interval=4, ema_kimg=3, ema_rampup=0.05, z_dim=192, w_dim=64,
        mapping_layers=2, d_mapping_layers=2, channel_base=512, channel_max=64, num_fp16_res=0, conv_clamp=None,
        d_architecture='resnet', style_mixing_prob=0, pl_weight=0, blur_sigma=0, blur_kimg=0, G_reg_interval=None,
        ada_kimg=100, more_synthesis_kwargs={}, mbstd_channels=8),
    # `tiny` with a small generator of StyleGAN3-T: fewer layers and narrower margins than published.
    'tiny-t': Preset(
        generator=STYLEGAN3_T, reference_gpus=1, total_kimg=90, batch_size=16, mbstd_group=4, lr=0.01, d_lr=0.01,
        loss=NONSATURATING, r1_gamma=0.05, d_reg_interval=16,
        ema_kimg=3, ema_rampup=0.05, z_dim=192, w_dim=64, mapping_layers=2, d_mapping_layers=2,
        channel_base=512, channel_max=64, num_fp16_res=0, conv_clamp=None, d_architecture='resnet', style_mixing_prob=0,
        pl_weight=0, blur_sigma=0, blur_kimg=0, G_reg_interval=None, ada_kimg=100,
        more_synthesis_kwargs={'num_layers': 6, 'margin_size': 4}),
    # The same with a small generator of StyleGAN3-R; for images of so few pixels, a blur of ten would be too much.
    'tiny-r': Preset(
        generator=STYLEGAN3_R, reference_gpus=1, total_kimg=90, batch_size=16, mbstd_group=4, lr=0.01, d_lr=0.01,
        loss=NONSATURATING, r1_gamma=0.05, d_reg_interval=16,
        ema_kimg=3, ema_rampup=0.05, z_dim=192, w_dim=64, mapping_layers=2, d_mapping_layers=2,
        channel_base=512, channel_max=64, num_fp16_res=0, conv_clamp=None, d_architecture='resnet', style_mixing_prob=0,
        pl_weight=0, blur_sigma=1, blur_kimg=10, G_reg_interval=None, ada_kimg=100,
        more_synthesis_kwargs={'num_layers': 6, 'margin_size': 4}),
}
# fmt: on

PRESET_NAMES = ('auto', *_PRESETS)


def auto_preset(resolution: int, num_gpus: int) -> Preset:
    """Return the row of `--cfg=auto`: reasonable numbers for any dataset, from its resolution and the number of GPUs.

    Batch: as many images per GPU as usually fit (4096 / resolution, at most 32), at most 64 in total, at least one per
    GPU. The R1 weight grows with the number of pixels and shrinks with the batch. The EMA half-life is 10 kimg at a
    batch of 32.
    """
    batch_size = max(min(num_gpus * min(4096 // resolution, 32), 64), num_gpus)
    return Preset(
        generator=STYLEGAN2,
        reference_gpus=num_gpus,
        total_kimg=25000,
        batch_size=batch_size,
        mbstd_group=min(batch_size // num_gpus, 4),
        lr=0.002 if resolution >= 1024 else 0.0025,
        d_lr=0.002 if resolution >= 1024 else 0.0025,
        loss=NONSATURATING,
        r1_gamma=0.0002 * resolution**2 / batch_size,
        d_reg_interval=16,
        ema_kimg=batch_size * 10 / 32,
        ema_rampup=0.05,
        z_dim=512,
        w_dim=512,
        mapping_layers=2,
        d_mapping_layers=None,
        channel_base=32768 if resolution >= 512 else 16384,
        channel_max=512,
        num_fp16_res=4,
        conv_clamp=256,
        d_architecture='resnet',
        style_mixing_prob=0.9,
        pl_weight=2,
        blur_sigma=0,
        blur_kimg=0,
        G_reg_interval=4,
        ada_kimg=500,
        more_synthesis_kwargs={},
    )


def loss_of(name: str) -> str:
    """Return the loss of a preset, or of `auto` if the name is not in PRESET_NAMES."""
    return _PRESETS[name].loss if name in _PRESETS else NONSATURATING


def get_preset(name: str, resolution: Resolution, num_gpus: int) -> Preset:
    """Return the row called `name`, one of PRESET_NAMES, for images of a resolution and a number of GPUs.

    Images that are not square get the numbers of a square with as many pixels.
    """
    side = math.isqrt(math.prod(sides(resolution)))
    if name == 'auto':
        return auto_preset(side, num_gpus)
    preset = _PRESETS[name]
    if name in (STYLEGAN3_T, STYLEGAN3_R):
        return dataclasses.replace(preset, r1_gamma=preset.r1_gamma * (side / 512) ** 2)
    return preset


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation pipes

DEFAULT_AUGPIPE = 'bgc'

_AUGMENTATION_GROUPS = {
    'blit': ('xflip', 'rotate90', 'xint'),
    'geom': ('scale', 'rotate', 'aniso', 'xfrac'),
    'color': ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation'),
    'filter': ('imgfilter',),
    'noise': ('noise',),
    'cutout': ('cutout',),
}
_AUGMENTATION_SUMS = {
    'bg': ('blit', 'geom'),
    'bgc': ('blit', 'geom', 'color'),
    'bgcf': ('blit', 'geom', 'color', 'filter'),
    'bgcfn': ('blit', 'geom', 'color', 'filter', 'noise'),
    'bgcfnc': ('blit', 'geom', 'color', 'filter', 'noise', 'cutout'),
}
AUGPIPE_NAMES = (*_AUGMENTATION_GROUPS, *_AUGMENTATION_SUMS)
DIFFAUGMENT_NAMES = ('color', 'translation', 'cutout')  # in the order in which they are applied


def augpipe_flags(name: str) -> dict[str, int]:
    """Return the keywords of `AugmentPipe` that switch on the augmentations of a pipe, one of AUGPIPE_NAMES."""
    groups = _AUGMENTATION_SUMS.get(name, (name,))
    return {augmentation: 1 for group in groups for augmentation in _AUGMENTATION_GROUPS[group]}


# ---------------------------------------------------------------------------------------------------------------------
# Pretrained networks

_TRANSFER_SOURCES_URL = (
    'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
)
RESUME_SOURCES = {
    'ffhq256': _TRANSFER_SOURCES_URL + 'ffhq-res256-mirror-paper256-noaug.pkl',
    'ffhq512': _TRANSFER_SOURCES_URL + 'ffhq-res512-mirror-stylegan2-noaug.pkl',
    'ffhq1024': _TRANSFER_SOURCES_URL + 'ffhq-res1024-mirror-stylegan2-noaug.pkl',
    'celebahq256': _TRANSFER_SOURCES_URL + 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl',
    'lsundog256': _TRANSFER_SOURCES_URL + 'lsundog-res256-paper256-kimg100000-noaug.pkl',
}
