"""Reading the arguments that the operators share: which implementation, factors per axis, padding per side."""

import operator

IMPLEMENTATIONS = ('cuda', 'ref')


def check_impl(op, impl):
    """Raise ValueError unless `impl` names an implementation that every operator has."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{op}: impl={impl!r} is unknown; use 'cuda' (the fastest available) or 'ref' (plain PyTorch)")


def check_image_batch(op, x):
    """Raise ValueError unless `x` is a floating-point tensor of shape [N, C, H, W]."""
    if x.ndim != 4:
        raise ValueError(f'{op}: x must have the four dimensions [N, C, H, W], but has the shape {list(x.shape)}')
    if not x.is_floating_point():
        raise ValueError(f'{op}: x must hold floating-point numbers, but its type is {x.dtype}; convert it first')


def as_whole(value):
    """An integer of whatever kind (Python's, NumPy's, a traced one) as an int; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def as_whole_numbers(values):
    """One integer or a sequence of them as a tuple of ints, with None for what is none."""
    try:
        return tuple(as_whole(value) for value in values)
    except TypeError:  # Nothing to iterate over.
        return (as_whole(values),)


def factor(op, name, value):
    """A sampling factor as an int of at least 1."""
    number = as_whole(value)
    if number is None or number < 1:
        raise ValueError(f'{op}: {name}={value!r} must be an integer of at least 1')
    return number


def factor_xy(op, name, value):
    """A sampling factor, one number or [x, y], as a tuple (x, y) of ints of at least 1."""
    numbers = as_whole_numbers(value)
    pair = numbers * 2 if len(numbers) == 1 else numbers
    if len(pair) != 2 or not all(number is not None and number >= 1 for number in pair):
        raise ValueError(f'{op}: {name}={value!r} must be an integer of at least 1, or two of them as [x, y]')
    return pair


def padding_xxyy(op, padding):
    """Padding, one number, [x, y] or [x0, x1, y0, y1], as a tuple of four ints; negative ones crop."""
    numbers = as_whole_numbers(padding)
    if None in numbers or len(numbers) not in (1, 2, 4):
        raise ValueError(f'{op}: padding={padding!r} must be an integer, [x, y] or [x0, x1, y0, y1]')
    if len(numbers) == 4:
        return numbers
    x, y = numbers[0], numbers[-1]
    return x, x, y, y
