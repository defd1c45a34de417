"""Variables of the TensorFlow code: the parameters and buffers that they become here, and how arrays are laid out.

Legend: H W height and width of a kernel or an image, I O input and output channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Conversion of an array of TensorFlow to ours, as a view of it."""

    ndim: int | None  # of TensorFlow's array; None: any
    view: Callable[[np.ndarray], np.ndarray]
    plus: float = 0


_SAME = Layout(None, lambda array: array)
_DENSE = Layout(2, lambda array: array.T)  # [I, O] → [O, I]
_CONVOLUTION = Layout(4, lambda array: array.transpose(3, 2, 0, 1))  # [H, W, I, O] → [O, I, H, W]
# For the transposed convolutions that upsample, TensorFlow stores the kernel flipped.
_FLIPPED_CONVOLUTION = Layout(4, lambda array: array[::-1, ::-1].transpose(3, 2, 0, 1))
_STYLE_BIAS = Layout(1, lambda array: array, plus=1)  # TensorFlow adds the 1 at run time
_CONSTANT = Layout(4, lambda array: array[0] if len(array) == 1 else array)  # [1, O, H, W] → [O, H, W]
_NOISE = Layout(4, lambda array: array[0, 0] if array.shape[:2] == (1, 1) else array)  # [1, 1, H, W] → [H, W]


class Rule(NamedTuple):
    """A variable of TensorFlow, the parameter or buffer that it becomes, and the conversion."""

    theirs: str  # for the braces see expand_rules
    ours: str
    layout: Layout


GENERATOR_RULES = (
    Rule('LabelEmbed/weight', 'mapping.embed.weight', _DENSE),
    Rule('LabelEmbed/bias', 'mapping.embed.bias', _SAME),
    Rule('Dense{i}/weight', 'mapping.fc{i}.weight', _DENSE),
    Rule('Dense{i}/bias', 'mapping.fc{i}.bias', _SAME),
    Rule('dlatent_avg', 'mapping.w_avg', _SAME),
    Rule('4x4/Const/const', 'synthesis.b4.const', _CONSTANT),
    Rule('{r}x{r}/Conv0_up/weight', 'synthesis.b{r}.conv0.weight', _FLIPPED_CONVOLUTION),
    Rule('{r}x{r}/Conv0_up/bias', 'synthesis.b{r}.conv0.bias', _SAME),
    Rule('{r}x{r}/Conv0_up/mod_weight', 'synthesis.b{r}.conv0.affine.weight', _DENSE),
    Rule('{r}x{r}/Conv0_up/mod_bias', 'synthesis.b{r}.conv0.affine.bias', _STYLE_BIAS),
    Rule('{r}x{r}/Conv0_up/noise_strength', 'synthesis.b{r}.conv0.noise_strength', _SAME),
    Rule('noise{up_noise}', 'synthesis.b{r}.conv0.noise_const', _NOISE),
    Rule('{r}x{r}/{conv1}/weight', 'synthesis.b{r}.conv1.weight', _CONVOLUTION),
    Rule('{r}x{r}/{conv1}/bias', 'synthesis.b{r}.conv1.bias', _SAME),
    Rule('{r}x{r}/{conv1}/mod_weight', 'synthesis.b{r}.conv1.affine.weight', _DENSE),
    Rule('{r}x{r}/{conv1}/mod_bias', 'synthesis.b{r}.conv1.affine.bias', _STYLE_BIAS),
    Rule('{r}x{r}/{conv1}/noise_strength', 'synthesis.b{r}.conv1.noise_strength', _SAME),
    Rule('noise{noise}', 'synthesis.b{r}.conv1.noise_const', _NOISE),
    Rule('{r}x{r}/Skip/weight', 'synthesis.b{r}.skip.weight', _FLIPPED_CONVOLUTION),
    Rule('{r}x{r}/ToRGB/weight', 'synthesis.b{r}.torgb.weight', _CONVOLUTION),
    Rule('{r}x{r}/ToRGB/bias', 'synthesis.b{r}.torgb.bias', _SAME),
    Rule('{r}x{r}/ToRGB/mod_weight', 'synthesis.b{r}.torgb.affine.weight', _DENSE),
    Rule('{r}x{r}/ToRGB/mod_bias', 'synthesis.b{r}.torgb.affine.bias', _STYLE_BIAS),
)
DISCRIMINATOR_RULES = (
    Rule('{r}x{r}/FromRGB/weight', 'b{r}.fromrgb.weight', _CONVOLUTION),
    Rule('{r}x{r}/FromRGB/bias', 'b{r}.fromrgb.bias', _SAME),
    Rule('{r}x{r}/Conv0/weight', 'b{r}.conv0.weight', _CONVOLUTION),
    Rule('{r}x{r}/Conv0/bias', 'b{r}.conv0.bias', _SAME),
    Rule('{r}x{r}/Conv1_down/weight', 'b{r}.conv1.weight', _CONVOLUTION),
    Rule('{r}x{r}/Conv1_down/bias', 'b{r}.conv1.bias', _SAME),
    Rule('{r}x{r}/Skip/weight', 'b{r}.skip.weight', _CONVOLUTION),
    Rule('LabelEmbed/weight', 'mapping.embed.weight', _DENSE),
    Rule('LabelEmbed/bias', 'mapping.embed.bias', _SAME),
    Rule('Mapping{i}/weight', 'mapping.fc{i}.weight', _DENSE),
    Rule('Mapping{i}/bias', 'mapping.fc{i}.bias', _SAME),
    Rule('4x4/Conv/weight', 'b4.conv.weight', _CONVOLUTION),
    Rule('4x4/Conv/bias', 'b4.conv.bias', _SAME),
    Rule('4x4/Dense0/weight', 'b4.fc.weight', _DENSE),
    Rule('4x4/Dense0/bias', 'b4.fc.bias', _SAME),
    Rule('Output/weight', 'b4.out.weight', _DENSE),
    Rule('Output/bias', 'b4.out.bias', _SAME),
)

# Early versions of StyleGAN2 count resolutions downwards from the highest one: lod 0 is that of the image.
COUNTED_DOWN = re.compile(r'(?P<layer>ToRGB|FromRGB)_lod(?P<lod>\d{1,2})(?P<rest>/.+)')
PARTS = re.compile(r'^(G_mapping|G_synthesis|mapping|synthesis)/')  # of a generator stored as one network


class Unused(NamedTuple):
    """Variables in the files that our networks do not need."""

    names: re.Pattern[str]
    applies: Callable[[dict[str, Any]], bool]  # to a network with these constructor arguments
    why: str


UNUSED_VARIABLES = (
    Unused(re.compile('lod'), lambda kwargs: True, 'the progress of growing, which is checked separately'),
    Unused(
        re.compile(r'(ToRGB|FromRGB)_lod[1-9]\d*/\w+'),
        lambda kwargs: architecture_of(kwargs) == 'orig',
        'images of lower resolutions, which are used only while the network grows',
    ),
    Unused(
        re.compile(r'noise\d+'),
        lambda kwargs: not kwargs.get('synthesis_kwargs', {}).get('use_noise', True),
        'noise inputs of a network without noise',
    ),
)


def expand_rules(class_name: str, kwargs: dict[str, Any]) -> Iterator[Rule]:
    """Yield the rules with numbers in place of braces.

    {r} is the resolution of a block; at 4×4 the only convolution has no number. Noise inputs are numbered
    consecutively: one at 4×4, two at each higher resolution. {i} is the number of a dense layer.
    """
    blocks: list[dict[str, Any]] = [
        dict(r=2**log2, conv1='Conv1' if log2 > 2 else 'Conv', up_noise=2 * log2 - 5, noise=2 * log2 - 4)
        for log2 in range(2, kwargs['img_resolution'].bit_length())
    ]
    layers: list[dict[str, Any]] = [dict(i=index) for index in range(kwargs['mapping_kwargs']['num_layers'])]
    for rule in GENERATOR_RULES if class_name == 'Generator' else DISCRIMINATOR_RULES:
        all_numbers: list[dict[str, Any]] = blocks if '{r}' in rule.ours else layers if '{i}' in rule.ours else [{}]
        for numbers in all_numbers:
            yield rule._replace(theirs=rule.theirs.format(**numbers), ours=rule.ours.format(**numbers))


def is_unused(name: str, kwargs: dict[str, Any]) -> bool:
    """Return whether our network does not need a variable."""
    return any(unused.names.fullmatch(name) and unused.applies(kwargs) for unused in UNUSED_VARIABLES)


def architecture_of(kwargs: dict[str, Any]) -> str:
    """Return 'orig', 'skip' or 'resnet'."""
    return kwargs.get('synthesis_kwargs', kwargs)['architecture']
