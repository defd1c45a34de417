"""The options of `train.py` that choose methods against overfitting, and what they mean for a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt
from training import known_classes
from training.config import DEFAULT_HEURISTIC, DEFAULT_MAX_P
from training.presets import DEFAULT_AUGPIPE, DIFFAUGMENT_NAMES, NONSATURATING, RELATIVISTIC, augpipe_flags
from training.schema import MAX_FACTOR, MAX_LENGTH, MIN_LENGTH

T = TypeVar('T')

DEFAULT_AUG = 'ada'
DEFAULT_TARGETS = {'rt': 0.6, 'rv': 0.5}  # by heuristic
DEFAULT_BCR = '10'
_QUEUE_SHARE = 0.05  # of the training images
DEFAULT_INSGEN = '1,0.1'
DEFAULT_POSTHOC_EMA = '0.05,0.1'


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The options about methods with their defaults. None means that the preset or a rule decides."""

    # Loss
    loss: str | None = None
    gamma2: float | None = None
    d_reg_interval: int | None = None
    lecam: float | None = None
    bcr: str | None = None  # one or two numbers, separated by a comma
    insgen: str | None = None  # likewise
    # Augmentation
    aug: str | None = None
    p: float | None = None
    init_p: float | None = None
    max_p: float | None = None
    target: float | None = None
    augpipe: str | None = None
    apa: bool = False
    ada_heuristic: str | None = None
    validation: int | str | None = None  # number of images, or path of others
    diffaugment: str | None = None  # names, separated by commas
    # Averages of the generator
    posthoc_ema: str | None = None  # two numbers, separated by a comma


def first_given(value: T | None, default: T) -> T:
    """Return the value of an option, or what it is if it was not given."""
    return default if value is None else value


# ---------------------------------------------------------------------------------------------------------------------
# Loss

_LOSS_CLASSES = {NONSATURATING: known_classes.LOSS, RELATIVISTIC: known_classes.RELATIVISTIC_LOSS}


def method_loss_kwargs(options: MethodOptions, r1_gamma: float, default_loss: str) -> dict[str, Any]:
    """Return the class of the loss, and those of its keywords that these options determine.

    Args:
        options: The options.
        r1_gamma: Weight of R1.
        default_loss: Loss of the preset, one of `presets.LOSS_NAMES`.

    Raises:
        InvalidArgument: Some options contradict each other.
    """
    loss = first_given(options.loss, default_loss)
    kwargs: dict[str, Any] = {'class_name': _LOSS_CLASSES[loss], 'r1_gamma': r1_gamma}
    if loss == RELATIVISTIC:
        kwargs['r2_gamma'] = first_given(options.gamma2, r1_gamma)
    elif options.gamma2 is not None:
        raise InvalidArgument(
            'gamma2',
            f'{options.gamma2:g} is the weight of R2, which belongs to --loss=relativistic: add that, or remove it.',
        )
    if options.diffaugment is not None:
        kwargs['diffaugment'] = parse_diffaugment(options.diffaugment)
    if options.lecam is not None:
        kwargs['lecam_weight'] = options.lecam
    if options.bcr is not None:
        kwargs['bcr_weights'] = parse_bcr(options.bcr)
    if options.insgen is not None:
        kwargs['insgen_weights'] = parse_insgen(options.insgen)
    return kwargs


def parse_bcr(text: str) -> list[float]:
    """Return the weights for real and for generated images in a text such as '10' or '10,5'.

    Raises:
        InvalidArgument: It is not such a text.
    """
    weights = _parse_weights('bcr', text, 'one for real and one for generated images', f'{DEFAULT_BCR} or --bcr=10,5')
    return [weights[0], weights[-1]]


def parse_insgen(text: str) -> list[float]:
    """Return the weights for D and for G in a text such as '1,0.1'; the second one is by default a tenth of the first.

    Raises:
        InvalidArgument: It is not such a text.
    """
    roles = 'one for the discriminator and one for the generator'
    weights = _parse_weights('insgen', text, roles, f'1 or --insgen={DEFAULT_INSGEN}')
    return weights if len(weights) == 2 else [weights[0], weights[0] / 10]


def insgen_queue(options: MethodOptions, num_images: int, batch_size: int) -> dict[str, Any]:
    """Return the length of the queues of --insgen as a keyword of the loss; {} without --insgen.

    A twentieth of the images (arXiv 2106.04566), so that few queues hold an image in two versions; at
    least a batch.
    """
    if options.insgen is None:
        return {}
    return {'insgen_queue': max(round(num_images * _QUEUE_SHARE), batch_size)}


def _parse_weights(option: str, text: str, roles: str, example: str) -> list[float]:
    """Return the one or two weights in the text of an option; `roles` and `example` are for the error."""
    try:
        weights = [float(number) for number in text.split(',')]
    except ValueError:
        weights = []
    if not 1 <= len(weights) <= 2 or not all(0 <= weight <= MAX_FACTOR for weight in weights):
        raise InvalidArgument(
            option,
            f'{excerpt(repr(text), 50)} is not a weight, or {roles}: use numbers from 0 to {MAX_FACTOR:g}, such as '
            f'--{option}={example}.',
        )
    return weights


def canonical_bcr(text: str) -> str:
    """Return the text as it is stored: '10' for '10.0,10'."""
    real, fake = parse_bcr(text)
    return f'{real:g}' if real == fake else f'{real:g},{fake:g}'


def canonical_insgen(text: str) -> str:
    """Return the text as it is stored: '1,0.1' for '1'."""
    return ','.join(f'{weight:g}' for weight in parse_insgen(text))


def d_reg_interval(options: MethodOptions, default: int) -> int | None:
    """Return the field `D_reg_interval` of TrainingConfig; `default` is the interval of the preset."""
    interval = first_given(options.d_reg_interval, default)
    return None if interval == 1 else interval


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def augmentation_fields(options: MethodOptions) -> dict[str, Any]:
    """Return the fields of TrainingConfig that determine what is augmented, and how strongly.

    Raises:
        InvalidArgument: Some options contradict each other.
    """
    aug = first_given(options.aug, DEFAULT_AUG)
    _check_augmentation(options, aug)
    heuristic = first_given(options.ada_heuristic, DEFAULT_HEURISTIC)
    target = first_given(options.target, DEFAULT_TARGETS[heuristic])
    return {
        **_augment_pipe_fields(options, aug, target),
        'apa_target': target if options.apa else None,
        'ada_heuristic': heuristic,
    }


def _augment_pipe_fields(options: MethodOptions, aug: str, target: float) -> dict[str, Any]:
    if aug == 'noaug':
        return {'augment_kwargs': None, 'augment_p': 0, 'ada_target': None}
    flags = augpipe_flags(first_given(options.augpipe, DEFAULT_AUGPIPE))
    pipe = dict(class_name=known_classes.AUGMENTATION, **flags)
    if aug == 'fixed':
        return {'augment_kwargs': pipe, 'augment_p': options.p, 'ada_target': None}
    return {
        'augment_kwargs': pipe,
        'augment_p': first_given(options.init_p, 0),
        'ada_target': target,
        'ada_max_p': first_given(options.max_p, DEFAULT_MAX_P),
    }


def _check_augmentation(options: MethodOptions, aug: str) -> None:
    if options.p is not None and aug != 'fixed':
        raise InvalidArgument('p', f'{options.p:g} is a fixed strength, which needs --aug=fixed, not --aug={aug}.')
    for name, value, meaning in (
        ('init_p', options.init_p, 'the initial strength'),
        ('max_p', options.max_p, 'the largest strength'),
    ):
        if value is not None and aug != 'ada':
            raise InvalidArgument(name, f'{value:g} is {meaning} of --aug=ada; remove it, or --aug={aug}.')
    if options.target is not None and aug != 'ada' and not options.apa:
        raise InvalidArgument(
            'target', f'{options.target:g} is the target of --aug=ada or --apa; remove it, or --aug={aug}.'
        )
    if options.ada_heuristic is not None and aug != 'ada' and not options.apa:
        raise InvalidArgument(
            'ada_heuristic', f'{options.ada_heuristic} is what --aug=ada and --apa follow; remove it, or --aug={aug}.'
        )
    if options.ada_heuristic == 'rv' and options.validation is None:
        raise InvalidArgument('ada_heuristic', 'rv needs images that are held out: add --validation=N.')
    max_p = first_given(options.max_p, DEFAULT_MAX_P)
    if options.init_p is not None and options.init_p > max_p:
        raise InvalidArgument(
            'init_p', f'{options.init_p:g} is more than --max-p={max_p:g} allows: use a number from 0 to {max_p:g}.'
        )
    if options.augpipe is not None and aug == 'noaug':
        raise InvalidArgument('augpipe', f'{options.augpipe!r} contradicts --aug=noaug: remove one of the two.')
    if aug == 'fixed' and options.p is None:
        raise InvalidArgument('aug', 'fixed needs a strength: add --p=P with P from 0 to 1.')


def parse_diffaugment(text: str) -> list[str]:
    """Return the names in a list such as 'color,cutout', in the order in which they are applied.

    Raises:
        InvalidArgument: It is not such a list.
    """
    names = text.split(',')
    unknown = [name for name in names if name not in DIFFAUGMENT_NAMES]
    if unknown or len(set(names)) < len(names):
        fault = f'has {excerpt(repr(unknown[0]), 50)}' if unknown else 'names an augmentation twice'
        raise InvalidArgument(
            'diffaugment',
            f'the list {fault}: separate some of {", ".join(DIFFAUGMENT_NAMES)} by commas, without blanks.',
        )
    return [name for name in DIFFAUGMENT_NAMES if name in names]


def canonical_diffaugment(text: str) -> str:
    """Return the text as it is stored: 'color,cutout' for 'cutout, color'."""
    return ','.join(parse_diffaugment(''.join(text.split())))


# ---------------------------------------------------------------------------------------------------------------------
# Averages of the generator


def parse_posthoc_ema(text: str | None) -> list[float] | None:
    """Return the lengths of two averages in a text such as '0.05,0.1', the shorter one first; None for None.

    Raises:
        InvalidArgument: It is not such a text.
    """
    if text is None:
        return None
    try:
        lengths = sorted(float(number) for number in text.split(','))
    except ValueError:
        lengths = []
    if len(lengths) != 2 or not MIN_LENGTH <= lengths[0] < lengths[1] <= MAX_LENGTH:
        raise InvalidArgument(
            'posthoc_ema',
            f'{excerpt(repr(text), 50)} is not two lengths: use two different numbers from {MIN_LENGTH:g} to '
            f'{MAX_LENGTH:g}, such as --posthoc-ema={DEFAULT_POSTHOC_EMA}.',
        )
    return lengths


def canonical_posthoc_ema(text: str) -> str:
    """Return the text as it is stored: '0.05,0.1' for '0.10, 0.05'."""
    return ','.join(f'{length:g}' for length in parse_posthoc_ema(text) or [])


# ---------------------------------------------------------------------------------------------------------------------
# Description


def description_parts(options: MethodOptions) -> list[str]:
    """Return what the name of the run directory says about methods."""
    parts = [] if options.loss is None else [options.loss]
    parts += named_numbers(r2gamma=options.gamma2, dreg=options.d_reg_interval, lecam=options.lecam)
    if options.bcr is not None:
        parts.append(f'bcr{options.bcr.replace(",", "-")}')
    if options.insgen is not None:
        parts.append(f'insgen{options.insgen.replace(",", "-")}')
    if options.aug is not None:
        parts.append(options.aug)
    parts += named_numbers(p=options.p, initp=options.init_p, maxp=options.max_p, target=options.target)
    if options.augpipe is not None:
        parts.append(options.augpipe)
    if options.apa:
        parts.append('apa')
    if options.ada_heuristic is not None:
        parts.append(options.ada_heuristic)
    if options.validation is not None:
        parts.append(f'validation{options.validation if isinstance(options.validation, int) else ""}')
    if options.diffaugment is not None:
        parts += ['diffaugment', *parse_diffaugment(options.diffaugment)]
    if options.posthoc_ema is not None:
        parts.append(f'posthoc{options.posthoc_ema.replace(",", "-")}')
    return parts


def named_numbers(**numbers: float | None) -> list[str]:
    """Return ['gamma0.5'] for gamma=0.5."""
    given = {name: number for name, number in numbers.items() if number is not None}
    return [f'{name}{number if isinstance(number, int) else f"{number:g}"}' for name, number in given.items()]
