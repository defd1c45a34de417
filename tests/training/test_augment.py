"""`AugmentPipe`: golden values, what happens to how many images, and derivatives."""

import inspect
import io
import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from training.augment import AugmentPipe, mirror, reflecting_matrix

GOLDEN = np.load(Path(__file__).parents[1] / 'golden' / 'augment.npz')
CASES = json.loads(str(GOLDEN['cases']))
GEOMETRY = ('xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso', 'xfrac')
COLOUR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')
CORRUPTION = ('imgfilter', 'noise', 'cutout')
EVERYTHING = dict.fromkeys(GEOMETRY + COLOUR + CORRUPTION, 1)


def pipe(p=1.0, **multipliers):
    augment = AugmentPipe(**multipliers)
    augment.p.copy_(torch.as_tensor(p))
    return augment


def pictures(n, channels=3, size=16, dtype=torch.float32):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def share_changed(images, augmented, atol=1e-3):
    return ((images - augmented).abs().amax(dim=(1, 2, 3)) > atol).float().mean().item()


# Golden values.


@pytest.mark.parametrize('case', CASES, ids=[case['name'] for case in CASES])
def test_golden(case):
    augment = AugmentPipe(**case['kwargs'])
    compared = 0
    for key in GOLDEN.files:
        name, _, rest = key.partition('/')
        if name == case['name'] and rest:
            percentile, kind = rest.split('/')
            images = augment(torch.from_numpy(GOLDEN[kind]), debug_percentile=float(percentile))
            expected = torch.from_numpy(GOLDEN[key])
            assert images.shape == expected.shape
            assert (images - expected).abs().max() <= 1e-4 * expected.abs().max(), key
            compared += 1
    assert compared >= 5


def test_state_dict():
    state = AugmentPipe().state_dict()
    assert list(state) == ['p', 'Hz_geom', 'Hz_fbank']
    assert state['p'].shape == () and state['p'] == 1 and state['p'].dtype == torch.float32
    for name in ('Hz_geom', 'Hz_fbank'):
        torch.testing.assert_close(state[name], torch.from_numpy(GOLDEN[name]), rtol=1e-6, atol=1e-7)


def test_arguments_are_kept_as_attributes():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(AugmentPipe).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    augment = AugmentPipe(xflip=1, imgfilter_bands=[1, 0, 1, 0], noise_std=0.3)
    for name, value in (defaults | {'xflip': 1, 'imgfilter_bands': [1, 0, 1, 0], 'noise_std': 0.3}).items():
        assert getattr(augment, name) == value
    assert augment.xint_max == 0.125 and augment.cutout_size == 0.5 and augment.hue_max == 1


# Statistics.


@pytest.mark.parametrize('channels', [1, 3])
def test_nothing_happens_at_probability_zero(channels):
    images = pictures(4, channels)
    assert torch.equal(AugmentPipe()(images), images)
    smooth = torch.nn.functional.avg_pool2d(pictures(4, channels, 22), 7, stride=1)
    augmented = pipe(0, **EVERYTHING)(smooth)
    assert (augmented - smooth).abs().max() < 0.05 * smooth.abs().max()  # Up and down through the low-pass filter.
    others = dict.fromkeys(COLOUR + CORRUPTION, 1)
    torch.testing.assert_close(pipe(0, **others)(images), images, rtol=1e-4, atol=1e-4)


# For half of the images chosen, mirroring and turning to the other side is drawn; a turn by 0 in one of four.
@pytest.mark.parametrize(
    'name, given_chosen',
    [
        ('xflip', 1 / 2),
        ('rotate90', 3 / 4),
        ('brightness', 1),
        ('contrast', 1),
        ('lumaflip', 1 / 2),
        ('hue', 1),
        ('saturation', 1),
        ('imgfilter', None),
        ('noise', 1),
        ('cutout', 1),
        ('scale', 1),
        ('rotate', 1),
        ('xfrac', 1),
        ('aniso', 1),
    ],
)
@pytest.mark.parametrize('p, multiplier', [(0.3, 1), (1, 0.5)])
def test_share_of_images_that_change(name, given_chosen, p, multiplier):
    torch.manual_seed(1)
    n, size = 1000, 8
    images = pictures(n, size=size)
    unchanged = pipe(0, **{name: multiplier})(images)
    augmented = pipe(p, **{name: multiplier})(images)
    chosen = p * multiplier
    expected = 1 - (1 - chosen) ** 4 if name == 'imgfilter' else chosen * given_chosen
    deviation = math.sqrt(expected * (1 - expected) / n)
    if name in ('scale', 'rotate', 'xfrac', 'aniso'):
        # The margins depend on the batch, so even the others differ a little at their borders.
        images, augmented, unchanged = (batch[:, :, 2:-2, 2:-2] for batch in (images, augmented, unchanged))
    assert share_changed(unchanged, augmented, atol=2e-3) == pytest.approx(expected, abs=4 * deviation + 0.02)


def move_of(moved, image, reach):
    """(error, (turns, flipped, dx, dy)) of the whole-pixel move that explains `moved` best, borders left out."""
    size = image.shape[-1]
    canvas = torch.nn.functional.pad(image[None, None], [size - 1] * 4, mode='reflect')[0, 0]
    found = []
    for turns, flipped in itertools.product(range(4), (False, True)):
        back = torch.rot90(moved.flip(1) if flipped else moved, turns)
        for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
            window = canvas[size - 1 + dy :, size - 1 + dx :][:size, :size]
            found.append(((window - back)[4:-4, 4:-4].abs().max().item(), (turns, flipped, dx, dy)))
    return min(found)


def test_translation_by_whole_pixels_loses_nothing():
    """The symlet is orthogonal: what it upsamples, its transpose restores exactly."""
    torch.manual_seed(2)
    images = pictures(1, 1).expand(40, -1, -1, -1)
    moves = [move_of(moved, images[0, 0], reach=2) for moved in pipe(xint=1)(images)[:, 0]]
    assert max(error for error, _ in moves) < 1e-4
    assert {(turns, flipped) for _, (turns, flipped, _, _) in moves} == {(0, False)}
    assert len({move for _, move in moves}) > 8


def test_mirrored_and_turned_images_keep_their_pixels():
    """Nearly: the symlet is only nearly symmetric, so the images are smooth here."""
    torch.manual_seed(3)
    smooth = torch.nn.functional.avg_pool2d(pictures(1, 1, 22), 7, stride=1)
    images = (smooth / smooth.abs().max()).expand(60, -1, -1, -1)
    moves = [move_of(moved, images[0, 0], reach=1) for moved in pipe(xflip=1, rotate90=1)(images)[:, 0]]
    assert max(error for error, _ in moves) < 0.05
    assert {move for _, move in moves} == set(itertools.product(range(4), (False, True), [0], [0]))


def test_translation_goes_right_and_down_for_positive_draws():
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 8, 8] = 1
    moved = pipe(xint=1)(image, debug_percentile=1.0)  # 0.125 * 16 = 2 pixels
    assert divmod(moved.argmax().item(), 16) == (10, 10)


def test_cutout_erases_a_rectangle():
    torch.manual_seed(3)
    kept = pipe(cutout=1, cutout_size=0.5)(torch.ones(200, 3, 16, 16))[:, 0]
    assert set(kept.unique().tolist()) == {0, 1}
    for mask in kept == 0:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert rows.sum() <= 8 and columns.sum() <= 8
        assert torch.equal(mask, rows[:, None] & columns[None, :])
    assert (kept == 0).float().mean() == pytest.approx(0.25 * 0.875**2 / 1, abs=0.03)


def test_noise_has_the_strength_of_a_half_normal_draw():
    torch.manual_seed(4)
    strength = pipe(noise=1, noise_std=0.2)(torch.zeros(1000, 1, 16, 16)).std(dim=(1, 2, 3))
    assert strength.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.1)


def test_colour_keeps_gray_gray_and_hue_keeps_brightness():
    torch.manual_seed(5)
    gray = pictures(8, 1).expand(-1, 3, -1, -1)
    colours = pipe(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)(gray)
    torch.testing.assert_close(colours[:, 0], colours[:, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(colours[:, 0], colours[:, 2], rtol=1e-4, atol=1e-5)
    images = pictures(8)
    torch.testing.assert_close(pipe(hue=1, saturation=1)(images).mean(dim=1), images.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pipe(hue=1)(images).norm(dim=1), images.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_hue_and_saturation_leave_gray_images_alone():
    images = pictures(4, channels=1)
    assert torch.equal(pipe(hue=1, saturation=1)(images), images)


def test_band_switched_off_is_left_alone():
    torch.manual_seed(6)
    images = pictures(4, size=32)
    assert torch.equal(
        pipe(imgfilter=1, imgfilter_bands=[0, 0, 0, 0])(images).round(decimals=4),
        pipe(0, imgfilter=1)(images).round(decimals=4),
    )
    assert share_changed(images, pipe(imgfilter=1, imgfilter_bands=[0, 0, 0, 1])(images)) == 1


@pytest.mark.parametrize('size', [22, 40])
def test_reflecting_matrix_is_padding_and_convolution(size):
    taps = torch.randn(2, 43, dtype=torch.float64)
    taps = taps + taps.flip(1)
    x = torch.randn(1, 2, size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, [21, 21], mode='reflect')
    expected = torch.nn.functional.conv1d(padded, taps[:, None], groups=2)[0]
    torch.testing.assert_close((reflecting_matrix(taps, size) @ x[0, :, :, None])[..., 0], expected)


@pytest.mark.parametrize('size', [1, 2, 4, 8])
def test_small_images(size):
    images = pictures(3, size=size)
    torch.manual_seed(7)
    assert pipe(**EVERYTHING)(images).isfinite().all()
    constant = torch.ones(3, 3, size, size)
    torch.testing.assert_close(pipe(0, imgfilter=1)(constant), constant)


def test_draws_come_from_torchs_generator():
    images = pictures(4)
    augment = pipe(0.7, **EVERYTHING)
    results = []
    for seed in (8, 8, 9):
        torch.manual_seed(seed)
        results.append(augment(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# Derivatives.


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('names', [GEOMETRY, COLOUR, CORRUPTION, tuple(EVERYTHING)])
def test_derivatives(names, channels):
    augment = pipe(**dict.fromkeys(names, 1)).double()
    images = pictures(2, channels, size=6, dtype=torch.float64).requires_grad_()

    def op(images):
        torch.manual_seed(10)
        return augment(images)

    assert torch.autograd.gradcheck(op, images, fast_mode=True, atol=1e-4)
    assert torch.autograd.gradgradcheck(lambda x: op(x.tanh()).square(), images, fast_mode=True, atol=1e-4)


def test_r1_goes_through():
    augment = pipe(**EVERYTHING)
    images = pictures(4).requires_grad_()
    weight = torch.randn(3, requires_grad=True)
    logits = (augment(images).tanh() * weight[:, None, None]).sum(dim=(1, 2, 3))
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert weight.grad.abs().min() > 0


# The rest.


def test_empty_batch():
    assert pipe(**EVERYTHING)(torch.zeros(0, 3, 16, 16)).shape == (0, 3, 16, 16)


def test_oblong_images_and_channels_last():
    images = torch.randn(3, 3, 12, 20)
    augment = pipe(**{name: 1 for name in EVERYTHING if name != 'noise'})
    results = [
        augment(images.contiguous(memory_format=layout), debug_percentile=0.4)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    assert results[0].shape == images.shape
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4, check_stride=False)


def test_pickle_round_trip():
    augment = pipe(0.25, xflip=1, imgfilter=1)
    again = pickle.load(io.BytesIO(pickle.dumps(augment)))
    assert again.p == 0.25 and again.init_kwargs == {'xflip': 1, 'imgfilter': 1}
    images = pictures(2)
    torch.testing.assert_close(again(images, debug_percentile=0.7), augment(images, debug_percentile=0.7))


@pytest.mark.parametrize('shape', [(2, 5, 8, 8), (2, 0, 8, 8), (3, 8, 8)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match='1 channel'):
        pipe(brightness=1)(torch.zeros(shape))


def test_wrong_bands():
    with pytest.raises(ValueError, match='imgfilter_bands'):
        AugmentPipe(imgfilter_bands=[1, 1])


# Images that are not square, and images with alpha.


def oblong(n, channels=3, dtype=torch.float32):
    return torch.randn(n, channels, 16, 24, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_nothing_happens_to_oblong_images_at_probability_zero(channels):
    images = oblong(3, channels)
    torch.testing.assert_close(pipe(0.0, **EVERYTHING)(images), images, atol=2e-4, rtol=0)


def test_oblong_images_are_mirrored_and_turned_by_half_a_turn_only():
    """Smooth ones, as in the test of square images above."""
    torch.manual_seed(3)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 22, 30), 7, stride=1)
    image = (smooth / smooth.abs().max())[0, 0]  # [16, 24]
    moved = pipe(xflip=1, rotate90=1)(image.expand(60, 1, -1, -1))[:, 0]
    found = set()
    for other in moved:
        errors = {
            (flipped, turned): ((image.flip(1) if flipped else image).rot90(2 * turned) - other)[4:-4, 4:-4]
            .abs()
            .max()
            .item()
            for flipped, turned in itertools.product((0, 1), (0, 1))
        }
        assert min(errors.values()) < 0.15 < sorted(errors.values())[1]
        found.add(min(errors, key=errors.get))
    assert len(found) == 4


def test_translations_of_oblong_images_are_shares_of_each_side_and_whole_pixels():
    images = oblong(60)
    seen = set()
    for image, other in zip(images, pipe(xint=1)(images)):
        matches = []
        for dy, dx in itertools.product(range(-2, 3), range(-3, 4)):
            inner = image[:, 3:-3, 4:-4]
            shifted = other[:, 3 + dy : 13 + dy, 4 + dx : 20 + dx]
            if (inner - shifted).abs().max() < 1e-3:
                matches.append((dy, dx))
        assert len(matches) == 1
        seen |= set(matches)
    assert {dy for dy, _ in seen} == set(range(-2, 3)) and {dx for _, dx in seen} == set(range(-3, 4))


def test_rotation_of_oblong_images_is_one_of_pixels():
    """A disc stays a disc of its size wherever the image is turned to; on squeezed axes it would be an ellipse."""
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(48) - 23.5, indexing='ij')
    disc = torch.sigmoid(8 - (x.square() + y.square()).sqrt()).expand(20, 1, 32, 48)
    inside = (x.square() + y.square()).sqrt() < 15  # farther out its mirror images come in
    rotated = pipe(rotate=1)(disc.contiguous())
    torch.testing.assert_close(rotated[..., inside], disc[..., inside], atol=0.05, rtol=0)
    stripe = torch.sigmoid(3 - x.abs()).expand(20, 1, 32, 48).contiguous()
    assert ((pipe(rotate=1)(stripe) - stripe)[..., inside].abs().amax(dim=2) > 0.05).all()


def test_long_images_have_no_empty_corners_when_they_are_turned():
    """Their mirror images alone do not reach as far: those of these are there too."""
    for size in ((8, 32), (32, 8)):
        images = torch.ones(40, 1, *size)
        torch.testing.assert_close(pipe(rotate=1)(images), images, atol=0.01, rtol=0)


@pytest.mark.parametrize('channels', [2, 4])
@pytest.mark.parametrize('name', COLOUR)
def test_colour_leaves_alpha_alone_and_colours_as_without_it(name, channels):
    images = pictures(4, channels)
    augment = pipe(**{name: 1})
    changed = augment(images, debug_percentile=0.9)
    assert torch.equal(changed[:, -1], images[:, -1])
    assert torch.equal(changed[:, :-1], augment(images[:, :-1], debug_percentile=0.9))


@pytest.mark.parametrize('channels', [2, 4])
@pytest.mark.parametrize('name', GEOMETRY + ('imgfilter', 'cutout'))
def test_what_is_about_places_treats_alpha_like_a_colour(name, channels):
    images = pictures(3, 1).repeat(1, channels, 1, 1)
    changed = pipe(**{name: 1})(images)
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed), atol=1e-5, rtol=0)
    assert not torch.equal(changed, images)


def test_second_derivatives_of_oblong_images_with_alpha():
    augment = pipe(0.8, **EVERYTHING).double()
    images = torch.randn(1, 4, 8, 12, dtype=torch.float64, requires_grad=True)

    def seeded(images):
        torch.manual_seed(3)
        return augment(images).square().mean(dim=(2, 3))

    assert torch.autograd.gradcheck(seeded, images, fast_mode=True, atol=1e-4)
    assert torch.autograd.gradgradcheck(lambda x: seeded(x.tanh()), images, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize('margins', [(2, 3, 1, 4), (0, 0, 0, 0), (0, 5, 4, 0)])
def test_mirroring_by_copies_is_reflection(margins):
    left, right, top, bottom = margins
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    padded = mirror(mirror(images, left, right, 3), top, bottom, 2)
    expected = torch.nn.functional.pad(images, margins, mode='reflect')
    assert torch.equal(padded, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, images, weights)[0] for result in (padded, expected)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)
