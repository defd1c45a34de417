"""Start networks from trained ones of another architecture: all steps, and a report of what was kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dataset_format.images import CHANNEL_KINDS
from dataset_format.sizes import describe_size
from network_files.changes import fitting
from network_files.changes.architectures import (
    canonical_names,
    copy_equal_shapes,
    is_stylegan3,
    keywords_of,
    named_tensors,
    sides_of,
    synthesis_keywords,
)
from network_files.changes.colors import change_colors, to_rgb_layers
from network_files.changes.labels import change_labels, match_classes
from network_files.changes.resolutions import can_pass_image_on, change_resolution
from network_files.changes.widths import change_widths

_MAX_NAMES_LISTED = 4


@dataclass
class Report:
    """What became of the networks of a file.

    Attributes:
        notes: What was changed, and how exactly the function was kept: one sentence each.
        fresh: Names of the parameters that start from random values, by network.
        num_parameters: Number of all parameters, by network.
        image_rms: Root mean square of the difference between the images of G_ema and the old ones, resampled and
            converted, in units of [-1, +1]; None if nothing but the labels has changed.
        image_scale: The same of these images around their mean.
        logit_rms: The same difference of the logits of D for these images; None as above.
        logit_scale: Standard deviation of the logits of the old D.
    """

    notes: list[str] = field(default_factory=list)
    fresh: dict[str, list[str]] = field(default_factory=dict)
    num_parameters: dict[str, int] = field(default_factory=dict)
    image_rms: float | None = None
    image_scale: float = 0.0
    logit_rms: float | None = None
    logit_scale: float = 0.0

    def describe(self) -> list[str]:
        """Return lines about what was changed, how exactly, and what starts from random values."""
        lines = list(self.notes)
        if self.image_rms is not None:
            lines.append(
                f'The images of G_ema differ from the old ones by {self.image_rms:.4f} (root mean square in [-1, +1]; '
                f'they themselves have {self.image_scale:.3f}).'
            )
        if self.logit_rms is not None:
            lines.append(
                f'The logits of D for them differ by {self.logit_rms:.4f} (their standard deviation is '
                f'{self.logit_scale:.3f}).'
            )
        for name, fresh in self.fresh.items():
            if fresh:
                listed = ', '.join(fresh[: _MAX_NAMES_LISTED - 1])
                more = f' ... {fresh[-1]}' if len(fresh) >= _MAX_NAMES_LISTED else ''
                lines.append(
                    f'{name}: {len(fresh)} of {self.num_parameters[name]} parameters start from random values: '
                    f'{listed}{more}'
                )
        return lines


@torch.no_grad()
def convert(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_classes: Sequence[str] | None = None,
    new_classes: Sequence[str] | None = None,
    one_hot: bool = True,
    measure: bool = True,
) -> Report:
    """Fill networks with the values of trained ones, so that they compute the same as far as possible.

    Args:
        old: Trained networks on the CPU: `G_ema`, and `G` and `D` if `new` has them. They are not changed.
        new: Networks on any device, changed in place.
        old_classes: Names of the classes of the trained networks. None: they have none.
        new_classes: The same of the new ones.
        one_hot: Whether labels are classes, in contrast to vectors.
        measure: Whether to measure the differences; images, size or widths must have changed, too.

    Raises:
        ValueError: The size of the images is impossible for networks of this kind.
    """
    report = Report()
    labels = Labels(_matches(old['G_ema'], new['G_ema'], old_classes, new_classes), one_hot)
    samples = _Samples(old['G_ema'])
    changed = {}
    for name, target in new.items():
        steps = _Steps(old[name], target)
        if name == 'D':
            steps.change_discriminator(labels, samples)
        else:
            steps.change_generator(labels)
        copied = copy_equal_shapes(steps.network, target)
        ours = [name for name, _parameter in target.named_parameters()]
        report.fresh[name] = [name for name in ours if name not in copied or name in steps.fresh]
        report.num_parameters[name] = len(ours)
        changed[name] = steps.network
    report.notes = _notes(old['G_ema'], new['G_ema'], labels)
    if report.notes and measure:
        _measure(report, old, changed, labels, samples)
    return report


class _Samples:
    """The w and the images of the old generator on which changes are fitted and measured, made when needed."""

    def __init__(self, G: Any):
        self._G = G

    @functools.cached_property
    def w(self) -> torch.Tensor:
        return fitting.sample_latents(self._G)[0]

    @functools.cached_property
    def images(self) -> torch.Tensor:
        return fitting.synthesize(self._G, self.w)


@dataclass(frozen=True)
class Labels:
    """How new classes correspond to old ones.

    Args:
        matches: For each new class, or entry of the label, the index of the old one, or None.
        one_hot: Whether labels are classes, in contrast to vectors.
    """

    matches: list[int | None]
    one_hot: bool

    def are_changed(self, old: Any, new: Any) -> bool:
        """Return whether a network needs another embedding."""
        return old.c_dim != new.c_dim or self.matches != list(range(new.c_dim))


def _matches(
    old: Any, new: Any, old_classes: Sequence[str] | None, new_classes: Sequence[str] | None
) -> list[int | None]:
    if old.c_dim == 0:
        return [None] * new.c_dim
    return match_classes(
        old.c_dim if old_classes is None else old_classes, new.c_dim if new_classes is None else new_classes
    )


# ---------------------------------------------------------------------------------------------------------------------
# Steps


class _Steps:
    """A network on its way to the architecture of another one.

    Args:
        network: Trained network.
        target: Network of the architecture that is wanted.

    Attributes:
        network: Network after the steps so far.
        fresh: Names of its parameters that are random, although they are in it.
    """

    def __init__(self, network: Any, target: Any):
        self.network, self._target = network, target
        self.fresh: set[str] = set()

    def change_generator(self, labels: Labels) -> None:
        """Change labels, size, colors and widths, if the two generators are of one generation."""
        target = self._target
        if is_stylegan3(self.network) != is_stylegan3(target):
            return
        same_latents = (self.network.z_dim, self.network.w_dim) == (target.z_dim, target.w_dim)
        if same_latents and labels.are_changed(self.network, target):
            self.network = change_labels(self.network, target, labels.matches, labels.one_hot)
        if sides_of(self.network) != sides_of(target):
            before, self.network = self.network, change_resolution(self.network, *sides_of(target))
            if len(to_rgb_layers(before)) == 1 and not is_stylegan3(before):
                self._note_new_blocks(before.synthesis, self.network.synthesis, 'synthesis.')
            if not _is_exact_for_size(before, self.network):
                _fit_generator(before, self.network)
        # After the size: the border of an opaque channel that is upsampled would not be opaque.
        if self.network.img_channels != target.img_channels:
            self.network = change_colors(self.network, target.img_channels)
        self._change_widths()

    def change_discriminator(self, labels: Labels, samples: _Samples) -> None:
        """Change labels, colors, size and widths; `samples` are those of the old generator."""
        target = self._target
        if labels.are_changed(self.network, target):
            self.network = change_labels(self.network, target, labels.matches, labels.one_hot)
        if self.network.img_channels != target.img_channels:
            self.network = change_colors(self.network, target.img_channels)
        if sides_of(self.network) != sides_of(target):
            before, self.network = self.network, change_resolution(self.network, *sides_of(target))
            added = len(self.network.block_resolutions) - len(before.block_resolutions)
            is_skip = keywords_of(before)['architecture'] == 'skip'
            if added < 0 and not is_skip:
                fitting.fit_reader(self.network, before, fitting.converted(samples.images, self.network), -added)
            blocks = [getattr(self.network, f'b{level}') for level in self.network.block_resolutions[: max(added, 0)]]
            if not is_skip and not all(map(can_pass_image_on, blocks)):
                self._note_new_blocks(before, self.network)
        self._change_widths()

    def _note_new_blocks(self, before: Any, after: Any, prefix: str = '') -> None:
        """List the parameters of blocks that a network did not have as fresh."""
        levels = set(after.block_resolutions) - set(before.block_resolutions)
        for level in levels:
            block = getattr(after, f'b{level}')
            self.fresh |= {f'{prefix}b{level}.{name}' for name, _parameter in block.named_parameters()}

    def _change_widths(self) -> None:
        before = self.network
        if _widths(before) == _widths(self._target):
            return
        self.network = change_widths(before, *_widths(self._target))
        tensors, theirs = named_tensors(before), canonical_names(before)
        names = {name: canonical for canonical, name in canonical_names(self.network).items()}
        for name, parameter in self.network.named_parameters():
            old = tensors[theirs[names[name]]]
            if any(now < was for now, was in zip(parameter.shape, old.shape)):
                self.fresh.add(name)


def _widths(network: Any) -> tuple[int, int]:
    """Return `channel_base` and `channel_max`."""
    kwargs = keywords_of(network)
    kwargs = synthesis_keywords(kwargs) if hasattr(network, 'synthesis') else kwargs
    return kwargs['channel_base'], kwargs['channel_max']


def _is_exact_for_size(old: Any, new: Any) -> bool:
    """Return whether the images of a resized generator are the old ones upsampled, but for the nudge of new weights."""
    (old_h, old_w), (new_h, new_w) = sides_of(old), sides_of(new)
    is_larger = new_h >= old_h and old_h * new_w == new_h * old_w and (new_h // old_h).bit_count() == 1
    return is_larger and new_h % old_h == 0 and len(to_rgb_layers(old)) > 1


def _fit_generator(old: Any, new: Any) -> None:
    w, _labels = fitting.sample_latents(old)
    targets = fitting.converted(fitting.synthesize(old, w), new)
    if is_stylegan3(new):
        fitting.measure_magnitudes(new, w)
    fitting.fit_to_rgb(new, w, targets)


# ---------------------------------------------------------------------------------------------------------------------
# Report


def _notes(old: Any, new: Any, labels: Labels) -> list[str]:
    """Return a sentence for each kind of change."""
    notes = []
    if labels.are_changed(old, new):
        notes.append(_note_on_labels(old.c_dim, new.c_dim, labels))
    if old.img_channels != new.img_channels:
        kinds = CHANNEL_KINDS[old.img_channels], CHANNEL_KINDS[new.img_channels]
        notes.append(f'The images change from {kinds[0]} to {kinds[1]}.')
    if sides_of(old) != sides_of(new):
        sizes = (describe_size(sides_of(network)) for network in (old, new))
        notes.append('The images change from {} to {}.'.format(*sizes))
    if _widths(old) != _widths(new):
        notes.append('The layers change their numbers of channels.')
    return notes


def _note_on_labels(old: int, new: int, labels: Labels) -> str:
    if old == 0:
        return f'The networks were unconditional: all {new} classes start as what they computed.'
    if new == 0:
        return f'The networks were conditional: they start from the mean of the {old} classes.'
    known = sum(match is not None for match in labels.matches)
    others = 'the mean of the embedded classes' if labels.one_hot else 'no effect'
    rest = f'; the others start from {others}' if known < new else ''
    return f'{known} of {new} classes are known to the networks by name and keep what they had{rest}.'


def _measure(
    report: Report,
    old: Mapping[str, Any],
    changed: Mapping[str, Any],
    labels: Labels,
    samples: _Samples,
) -> None:
    """Measure the differences for the same w, and the logits for the same images with the same class."""
    G, D = changed['G_ema'], changed.get('D')
    if is_stylegan3(G) == is_stylegan3(old['G_ema']) and G.w_dim == old['G_ema'].w_dim:
        expected = fitting.converted(samples.images, G)
        report.image_rms = fitting.rms(fitting.synthesize(G, samples.w) - expected)
        report.image_scale = fitting.rms(expected - expected.mean())
    if D is None:
        return
    new_images = fitting.converted(samples.images, D)
    seen = fitting.converted(new_images, old['D'])
    old_c, new_c = _same_class(old['D'].c_dim, D.c_dim, labels, len(new_images))
    before = torch.stack([fitting.logits(old['D'], seen, c) for c in old_c]).mean(dim=0)
    report.logit_rms = fitting.rms(fitting.logits(D, new_images, new_c) - before)
    report.logit_scale = float(before.std())


def _same_class(old: int, new: int, labels: Labels, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return labels [count, c_dim] of the old network, over which its logits are averaged, and of the new one."""
    if new == 0:
        indices: list[int] = list(range(min(old, 10)))
        return [torch.eye(old)[[index] * count] for index in indices] or [torch.zeros(count, 0)], torch.zeros(count, 0)
    if old == 0:
        return [torch.zeros(count, 0)], torch.eye(new)[torch.arange(count) % new]
    pairs = [(match, index) for index, match in enumerate(labels.matches) if match is not None]
    if not pairs:
        return [torch.eye(old)[torch.arange(count) % old]], torch.eye(new)[torch.arange(count) % new]
    chosen = [pairs[index % len(pairs)] for index in range(count)]
    return [torch.eye(old)[[match for match, _index in chosen]]], torch.eye(new)[[index for _match, index in chosen]]
