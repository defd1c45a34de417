"""The textbook, to measure against: what a straightforward program would run.

Zero insertion, padding, a depthwise convolution in NCHW and strided slicing for resampling; bias, activation, gain and
clamp as separate operators; modulation by grouped convolutions with the weights of each sample.
"""

import contextlib
import functools
from unittest import mock

import torch

from torch_utils.ops import native
from training import networks_stylegan2


@contextlib.contextmanager
def textbook():
    """Within this context operators and networks compute as the textbook has it."""
    modulated = functools.partial(_by_groups, networks_stylegan2.modulated_conv2d)
    with (
        native.textbook_only(),
        mock.patch.object(networks_stylegan2, 'modulated_conv2d', modulated),
        mock.patch.object(networks_stylegan2, '_block_format', _contiguous),
    ):
        yield


def in_textbook(function):
    """A function of no arguments that runs `function` in that context."""

    def run():
        with textbook():
            return function()

    return run


def _by_groups(modulated_conv2d, *args, fused_modconv=True, **kwargs):
    return modulated_conv2d(*args, fused_modconv=True, **kwargs)


def _contiguous(use_fp16, channels_last, force_fp32, weight, batch_size, resolution):
    return weight.dtype, torch.contiguous_format
