"""The options of `train.py` that start a run from trained networks, and those that freeze layers: their rules."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataset_format.sizes import describe_size
from dnnlib.errors import InvalidArgument
from dnnlib.util import is_url
from network_files import hub
from network_files.changes.architectures import STYLEGAN2, STYLEGAN3_R, generation_of
from network_files.snapshots import complete_snapshots
from training import presets
from training.freezing import check_frozen_layers, num_freezable_layers
from training.presets import RESUME_SOURCES, Preset

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset
    from training.transfer import Pretrained

NO_RESUME = 'noresume'
FROM_NETWORK_FILE = ('G_kwargs', 'D_kwargs', 'loss_kwargs', 'G_reg_interval')  # fields of a configuration


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """The options about trained networks to start from, and about layers that are not trained, with their defaults."""

    resume: str | None = None
    arch: str | None = None  # one of schema.ARCHITECTURES
    resume_kimg: float | None = None
    resume_optimizer: bool = False
    freezed: int | None = None
    freezeg: int | None = None
    freezem: int | None = None
    freezee: bool = False


def resume_source(resume: str | None, ask_hub: bool = True) -> str | None:
    """Return the path or URL of the network pickle to start from; for a run, it is the newest one.

    Args:
        resume: Value of --resume.
        ask_hub: Whether an address `hf://...` becomes that of a file at a commit.

    Raises:
        InvalidArgument: There is no such file.
    """
    if resume is None or resume == NO_RESUME:
        return None
    if resume in RESUME_SOURCES:
        return RESUME_SOURCES[resume]
    if hub.is_address(resume) and ask_hub:
        return _pinned(resume)
    if is_url(resume) or os.path.isfile(resume):
        return resume
    if not os.path.isdir(resume):
        raise InvalidArgument(
            'resume',
            f'{resume!r} is not a file, a URL, the directory of a run, or one of {", ".join(RESUME_SOURCES)}, '
            f'{NO_RESUME}: check the path.',
        )
    try:
        return str(complete_snapshots(resume)[-1])
    except (ValueError, OSError) as error:
        raise InvalidArgument('resume', str(error)) from error


@functools.cache
def _pinned(address: str) -> str:
    try:
        return hub.pinned(address)
    except OSError as error:
        raise InvalidArgument('resume', str(error)) from error


def checked_source(options: TransferOptions, total_kimg: float, ask_hub: bool = True) -> str | None:
    """Return the network pickle to start from (see `resume_source`), and check the options that belong to --resume.

    Raises:
        InvalidArgument: There is no such file, or nothing that the options could apply to.
    """
    resume_pkl = resume_source(options.resume, ask_hub)
    for name, is_given, value in (
        ('arch', options.arch is not None, options.arch),
        ('resume_kimg', options.resume_kimg is not None, options.resume_kimg),
        ('resume_optimizer', options.resume_optimizer, 1),
    ):
        if is_given and resume_pkl is None:
            raise InvalidArgument(name, f'{value} is about the networks of --resume: add --resume=FILE, or remove it.')
    if options.resume_kimg is not None and options.resume_kimg >= total_kimg:
        raise InvalidArgument(
            'resume_kimg',
            f'{options.resume_kimg:g} leaves nothing to train, since the run ends at --kimg={total_kimg:g}: use a '
            'larger --kimg, or a smaller number here.',
        )
    return resume_pkl


def for_generator_of(preset: Preset, source: Pretrained | None) -> Preset:
    """Return a preset without what the generator of a file is not trained with.

    StyleGAN3 is trained without path length regularization and style mixing, and only -R starts with a blur, which a
    trained network does not need.
    """
    if source is None:
        return preset
    generation = generation_of(source.networks['G'])
    if generation == STYLEGAN2 or preset.generator != presets.STYLEGAN2:
        return preset
    kind = presets.STYLEGAN3_R if generation == STYLEGAN3_R else presets.STYLEGAN3_T
    return dataclasses.replace(preset, generator=kind, pl_weight=0, style_mixing_prob=0, G_reg_interval=None)


def check_frozen(options: TransferOptions, networks: dict[str, Any], dataset: ImageFolderDataset) -> None:
    """Check that the networks have as many layers as are to be frozen.

    Args:
        options: TransferOptions of the command line.
        networks: `G_kwargs` and `D_kwargs`.
        dataset: The dataset.

    Raises:
        InvalidArgument: They have fewer.
    """
    num_layers = num_freezable_layers(networks['D_kwargs']['architecture'], dataset.resolution)
    if options.freezed is not None and options.freezed > num_layers:
        raise InvalidArgument(
            'freezed',
            f'{options.freezed} is too large: at {describe_size(dataset.resolution)}, the discriminator has '
            f'{num_layers} layers that can be frozen. Use a number from 0 to {num_layers}.',
        )
    check_frozen_layers(
        options.freezeg,
        options.freezem,
        options.freezee,
        networks['G_kwargs'],
        dataset.resolution,
        dataset.label_dim,
    )


def config_fields(options: TransferOptions, resume_pkl: str | None) -> dict[str, Any]:
    """Return the fields of TrainingConfig that these options determine, apart from the networks."""
    return {
        'resume_pkl': resume_pkl,
        'resume_kimg': options.resume_kimg or 0,
        'resume_optimizer': options.resume_optimizer,
        'frozen_G_layers': options.freezeg or 0,
        'frozen_mapping_layers': options.freezem or 0,
        'frozen_embedding': options.freezee,
    }
