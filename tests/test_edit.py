"""edit.py: its commands on networks of both generations, with and without classes and alpha, and its error messages."""

import json
import types

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import edit
import gen_video
import generate
import style_mixing
from dnnlib.outputs import OutputFile, OutputFolder
from generation import latents, projected_latents
from generation.editing import blending, directions
from network_files.reading import open_network
from tests.small_generators import (
    NAMES,
    assert_same_image,
    assert_usage_error,
    make_generator,
    make_stylegan3_generator,
    write_networks,
)
from torch_utils import images
from training import networks_stylegan3


def make_conditional_stylegan3_with_alpha():
    torch.manual_seed(1)
    options = dict(channel_base=256, channel_max=8, num_layers=6, num_fp16_res=0)
    G = networks_stylegan3.Generator(z_dim=8, c_dim=3, w_dim=8, img_resolution=32, img_channels=4, **options)
    return G.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    child = make_generator(w_avg=0.5)
    for parameter in child.synthesis.parameters():
        parameter.mul_(1.2)
    return write_networks(
        tmp_path_factory.mktemp('networks'),
        {
            'plain': make_generator(w_avg=0.5),
            'child': child,
            'named': (make_generator(c_dim=3), {'class_names': NAMES}),
            'alpha': make_generator(img_channels=4),
            'stylegan3': make_stylegan3_generator(),
            'all3': (make_conditional_stylegan3_with_alpha(), {'class_names': NAMES}),
            'large': make_generator(img_resolution=32),
        },
    )


def invoke(command, *arguments):
    return click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])


def run(command, *arguments):
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope='module')
def made(networks, tmp_path_factory):
    """Folders of directions by network, made by SeFa."""
    folders = types.SimpleNamespace()
    for name in ('plain', 'named', 'alpha', 'stylegan3', 'all3'):
        folder = tmp_path_factory.mktemp(name)
        arguments = ['--method=sefa', '--count=2', '--strip-seeds=0-1', '--samples=200', '--device=cpu']
        run(edit.main, 'directions', f'--network={getattr(networks, name)}', f'--outdir={folder}', *arguments)
        setattr(folders, name, folder)
    return folders


def picture(path):
    return np.asarray(PIL.Image.open(path))


def image_of(G, ws):
    return images.to_uint8(G.synthesis(ws, noise_mode='const'))[0].permute(1, 2, 0).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Directions


@pytest.mark.parametrize('name', ['plain', 'named', 'alpha', 'stylegan3', 'all3'])
def test_directions_are_written_with_pictures(name, networks, made):
    folder = getattr(made, name)
    assert sorted(path.name for path in folder.iterdir()) == ['directions.safetensors', 'sefa0.png', 'sefa1.png']
    G = open_network(str(getattr(networks, name)))['G_ema']
    found = directions.read(folder / 'directions.safetensors', G)
    assert list(found) == ['sefa0', 'sefa1'] and found['sefa0'].layers == list(range(G.num_ws))
    strip = picture(folder / 'sefa0.png')
    assert strip.shape[2] == G.img_channels and strip.shape[1] > 7 * 64 and strip.std() > 0


def test_lists_of_layers_and_components_of_a_layer(networks, tmp_path):
    arguments = ['--method=pca', '--count=1', '--strips=0', '--samples=150', '--layers=0-2', '--layers=3,5']
    options = [f'--network={networks.plain}', f'--outdir={tmp_path}', *arguments]
    result = run(edit.main, 'directions', *options)
    assert 'Wrote 2 directions' in result.stdout
    found = directions.read(tmp_path / 'directions.safetensors', make_generator(w_avg=0.5))
    assert {name: direction.layers for name, direction in found.items()} == {'pca0.0-2': [0, 1, 2], 'pca0.3_5': [3, 5]}
    run(edit.main, 'directions', *options[:2], '--method=pca', '--of=b8.conv1', '--count=1', '--strips=0')
    assert list(directions.read(tmp_path / 'directions.safetensors', make_generator(w_avg=0.5))) == ['b8.conv1-pca0']


def only_direction(folder, G):
    (direction,) = directions.read(folder / 'directions.safetensors', G).values()
    return direction


def test_linear_directions_of_all_kinds_of_examples(networks, tmp_path):
    G = make_generator(w_avg=0.5)
    common = ['directions', f'--network={networks.plain}', '--method=linear', '--strips=0', '--samples=200']
    ws = latents.ws_of_seeds(G, range(4), torch.zeros(1, 0))
    expected = (ws[2:].mean(dim=0) - ws[:2].mean(dim=0))[0]
    (tmp_path / 'l.json').write_text(json.dumps({'labels': [[0, 0.5], [1, 0.5], [2, 7], [3, 7.0]]}))
    for name, half in (('a', ws[:2]), ('b', ws[2:])):
        np.savez(tmp_path / f'{name}.npz', w=half.numpy())
    kinds = [
        ['--from-seeds=0,1', '--to-seeds=2,3'],
        [f'--labels={tmp_path / "l.json"}'],
        [f'--from-projected={tmp_path / "a.npz"}', f'--to-projected={tmp_path / "b.npz"}'],
    ]
    for number, examples in enumerate(kinds):
        run(edit.main, *common, '--name=it', *examples, f'--outdir={tmp_path / str(number)}')
        direction = only_direction(tmp_path / str(number), G)
        assert direction.name == 'it'
        torch.testing.assert_close(direction.vectors[0], expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_direction_between_classes(networks, tmp_path):
    G = make_generator(c_dim=3)
    options = ['--from-class=dog', '--to-class=red fox', '--strips=0', f'--outdir={tmp_path}']
    run(edit.main, 'directions', f'--network={networks.named}', '--method=linear', *options)
    dog, fox = (latents.sample_w(G, torch.eye(3)[index : index + 1]).mean(dim=0).float() for index in (1, 2))
    vector = only_direction(tmp_path, G).vectors[4]
    torch.testing.assert_close(vector, (fox - dog) / (fox - dog).norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('arguments, hint', [
    (['--method=linear'], "'--method': linear needs examples"),
    (['--method=sefa', '--from-seeds=1', '--to-seeds=2'], "'--method': sefa takes no examples"),
    (['--method=linear', '--from-seeds=1'], 'use both --from-seeds and --to-seeds'),
    (['--method=linear', '--from-seeds=1', '--to-seeds=1'], "'--to-seeds': seed 1 is in --from-seeds as well"),
    (['--method=linear', '--from-seeds=1', '--to-seeds=2', '--labels=x.json'], 'from seeds or from labels, not'),
    (['--method=linear', '--labels=none.json'], "'--labels': none.json: No such file"),
    (['--method=linear', '--from-class=1', '--to-class=2'], 'this network has no classes'),
    (['--method=linear', '--from-projected=no.npz', '--to-projected=no.npz'], 'No such file'),
    (['--method=linear', '--from-seeds=1', '--to-seeds=2', '--name=1st'], "'--name': '1st' cannot be the name"),
    (['--method=pca', '--of=b9', '--count=1'], "'--of': Unknown layer 'b9': choose w, a number from 0 to 5, or one of"),
    (['--method=sefa', '--of=b8.conv1'], "'--of': sefa decomposes no outputs"),
    (['--method=sefa', '--layers=4-6'], "'--layers': Unknown layer 6: this network has 6 layers"),
    (['--method=linear', '--from-seeds=1', '--to-class=2'], 'from seeds or from class, not from both'),
    (['--method=sefa', '--count=9'], "'--count': 9 is too large: there are 8 directions"),
])  # fmt: skip
def test_mistakes_of_directions(networks, tmp_path, arguments, hint):
    result = invoke(edit.main, 'directions', f'--network={networks.plain}', f'--outdir={tmp_path}', *arguments)
    assert_usage_error(result, hint)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Directions in all scripts


def edited_ws(G, folder, seeds, steps, labels=None, **truncation):
    ws = latents.ws_of_seeds(G, seeds, torch.zeros(1, 0) if labels is None else labels, **truncation)
    found = directions.read(folder / 'directions.safetensors', G)
    for name, strength, layers in steps:
        ws = ws + found[name].offset(strength, layers)
    return ws


def steps_as_options(folder, steps):
    layers_of = {None: '', (1, 2): ':1-2'}
    path = folder / 'directions.safetensors'
    return [f'--direction={path}:{name}:{strength}{layers_of[layers]}' for name, strength, layers in steps]


STEPS = [('sefa0', 2.5, None), ('sefa1', -1, (1, 2))]


@pytest.mark.parametrize('name', ['plain', 'alpha', 'stylegan3'])
def test_generate_along_directions(name, networks, made, tmp_path):
    G = open_network(str(getattr(networks, name)))['G_ema']
    folder = getattr(made, name)
    options = [f'--network={getattr(networks, name)}', f'--outdir={tmp_path}', '--seeds=3', '--trunc=0.7']
    run(generate.main, *options, *steps_as_options(folder, STEPS))
    ws = edited_ws(G, folder, [3], STEPS, truncation_psi=0.7)
    assert_same_image(picture(tmp_path / 'seed0003.png'), image_of(G, ws))


def test_mixing_along_directions(networks, made, tmp_path):
    G = make_generator(w_avg=0.5)
    options = [f'--network={networks.plain}', f'--outdir={tmp_path}', '--rows=1', '--cols=2', '--styles=0-2']
    run(style_mixing.main, *options, *steps_as_options(made.plain, STEPS))
    ws = edited_ws(G, made.plain, [1, 2], STEPS)
    mixed = torch.cat([ws[1:, :3], ws[:1, 3:]], dim=1)
    assert_same_image(picture(tmp_path / '1-2.png'), image_of(G, mixed))


def test_video_along_directions(networks, made, tmp_path, read_video):
    options = [f'--network={networks.plain}', '--seeds=1,1', '--frames=1', '--enlarge=4', f'--output={tmp_path}/v.mp4']
    run(gen_video.main, *options, *steps_as_options(made.plain, STEPS))
    expected = image_of(make_generator(), edited_ws(make_generator(), made.plain, [1], STEPS))
    frame = read_video(tmp_path / 'v.mp4')[0][1::4, 1::4].astype(int)
    assert np.abs(frame - expected).mean() < 12


@pytest.mark.parametrize('direction, hint', [
    ('{file}', 'expected FILE:NAME:STRENGTH[:LAYERS]'),
    ('{file}:sefa0', 'expected FILE:NAME:STRENGTH[:LAYERS]'),
    ('{file}:sefa0:much', 'expected FILE:NAME:STRENGTH[:LAYERS]'),
    ('{file}:sefa0:nan', 'expected FILE:NAME:STRENGTH[:LAYERS]'),
    ('{file}:sefa0:1e9', 'out of range'),
    ('{file}:sefa0:1:3-2', 'descending order'),
    ('{file}:sefa0:1:6', 'Unknown layer 6: this network has 6 layers, 0 to 5.'),
    ('{file}:sefa7:1', "Unknown direction 'sefa7'"),
    ('none.safetensors:sefa0:1', 'none.safetensors: No such file or directory.'),
    ('{network}:sefa0:1', 'is not a file of directions'),
    ('{other}:sefa0:1', 'has directions for another network'),
])  # fmt: skip
def test_mistakes_in_directions(direction, hint, networks, made, tmp_path):
    named = made.named / 'directions.safetensors'
    text = direction.format(file=made.plain / 'directions.safetensors', network=networks.plain, other=named)
    result = invoke(
        generate.main, f'--network={networks.plain}', '--seeds=0', f'--outdir={tmp_path}', f'--direction={text}'
    )
    assert_usage_error(result, hint)
    assert "'--direction'" in result.stderr and not list(tmp_path.iterdir())


def test_class_that_does_not_exist(networks, tmp_path):
    options = ['--method=linear', '--from-class=dog', '--to-class=cat', f'--outdir={tmp_path}']
    result = invoke(edit.main, 'directions', f'--network={networks.named}', *options)
    assert_usage_error(result, "'--to-class': Unknown class 'cat'")


def test_layers_that_a_direction_does_not_change(networks, tmp_path):
    G = make_generator(w_avg=0.5)
    vectors = torch.zeros(6, 8)
    vectors[:2] = torch.arange(16).reshape(2, 8)
    path = tmp_path / 'd.safetensors'
    directions.write(path, [directions.Direction('d', vectors, 1.0, 'linear', [0, 1])], G)
    options = [f'--network={networks.plain}', '--seeds=0', f'--outdir={tmp_path / "out"}']
    result = invoke(generate.main, *options, f'--direction={path}:d:1:3-4')
    assert_usage_error(result, "'d' does not change layers 3, 4, only 0, 1: use some of these.")


def test_directions_of_an_ancestor_can_be_allowed(networks, made, tmp_path):
    step = f'--direction={made.named / "directions.safetensors"}:sefa0:1'
    options = [f'--network={networks.plain}', '--seeds=0', f'--outdir={tmp_path}', step]
    run(generate.main, *options, '--any-directions=1')


def test_file_names_with_colons(networks, made, tmp_path):
    odd = tmp_path / 'a:b:2.safetensors'
    odd.write_bytes((made.plain / 'directions.safetensors').read_bytes())
    options = [f'--network={networks.plain}', '--seeds=0', f'--outdir={tmp_path}']
    run(generate.main, *options, f'--direction={odd}:sefa0:-2:0-1')


# ---------------------------------------------------------------------------------------------------------------------
# Apply


@pytest.mark.parametrize('name', ['plain', 'named', 'alpha', 'stylegan3', 'all3'])
def test_apply(name, networks, made, tmp_path):
    G = open_network(str(getattr(networks, name)))['G_ema']
    c = torch.eye(3)[1:2] if G.c_dim else None
    options = [f'--network={getattr(networks, name)}', f'--outdir={tmp_path}', '--seeds=3,5', '--steps=2']
    options += ['--class=dog'] if G.c_dim else []
    run(edit.main, 'apply', *options, *steps_as_options(getattr(made, name), STEPS))
    ws = edited_ws(G, getattr(made, name), [3, 5], STEPS, c)
    projected = projected_latents.read(tmp_path / 'edited_w.npz', G)
    np.testing.assert_allclose(projected.ws, ws.numpy(), rtol=1e-5, atol=1e-5)
    assert_same_image(picture(tmp_path / 'seed0005.png'), image_of(G, ws[1:]))
    side = G.img_resolution
    strip = picture(tmp_path / 'strip.png')
    assert strip.shape[:2] == (2 * side, 3 * side)
    original = latents.ws_of_seeds(G, [3], torch.zeros(1, 0) if c is None else c)
    assert_same_image(strip[:side, :side], image_of(G, original))
    assert_same_image(strip[:side, side : 2 * side], image_of(G, (original + ws[:1]) / 2))
    run(generate.main, options[0], f'--projected-w={tmp_path / "edited_w.npz"}', f'--outdir={tmp_path / "again"}')
    assert_same_image(picture(tmp_path / 'again' / 'proj01.png'), image_of(G, ws[1:]))


def test_apply_keeps_projected_noise_and_writes_a_video(networks, made, tmp_path, read_video):
    G = make_generator(w_avg=0.5)
    noise = {
        name: np.random.RandomState(0).randn(2, *b.shape) for name, b in projected_latents.noise_buffers(G).items()
    }
    ws = latents.ws_of_seeds(G, [1, 2], torch.zeros(1, 0)).numpy()
    projected_latents.write(tmp_path / 'in.npz', projected_latents.ProjectedLatents(ws, noise))
    options = [f'--network={networks.plain}', f'--outdir={tmp_path / "out"}', f'--projected-w={tmp_path / "in.npz"}']
    options += [f'--video={tmp_path / "v.mp4"}', '--frames=3', '--steps=1']
    run(edit.main, 'apply', *options, *steps_as_options(made.plain, STEPS))
    found = projected_latents.read(tmp_path / 'out' / 'edited_w.npz', G)
    for name, array in noise.items():
        np.testing.assert_allclose(found.noise[name], array, rtol=1e-6)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'proj00.png', 'proj01.png', 'strip.png', 'edited_w.npz',
    }  # fmt: skip
    assert read_video(tmp_path / 'v.mp4').shape[:3] == (6, 16, 32)


def test_mistakes_of_apply(networks, made, tmp_path):
    options = ['apply', f'--network={networks.plain}', f'--outdir={tmp_path}']
    step = f'--direction={made.plain / "directions.safetensors"}:sefa0:1'
    assert_usage_error(invoke(edit.main, *options, '--seeds=0'), 'Nothing to apply')
    assert_usage_error(invoke(edit.main, *options, step), 'Nothing to edit')
    assert_usage_error(invoke(edit.main, *options, step, '--seeds=0', '--trunc=0,1'), "'--trunc'")
    assert_usage_error(invoke(edit.main, *options, step, '--projected-w=no.npz'), "'--projected-w'")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@pytest.mark.parametrize('extension', ['pkl', 'safetensors'])
def test_blend_and_average(extension, networks, tmp_path):
    first, second = (open_network(str(path))['G_ema'] for path in (networks.plain, networks.child))
    dest = tmp_path / f'b.{extension}'
    pair = [f'--network={networks.plain}', f'--with={networks.child}']
    run(edit.main, 'blend', *pair, '--from=16', '--seam=1', f'--dest={dest}')
    z = torch.randn(1, 8)
    found = open_network(str(dest))
    expected = blending.blend(first, second, 16, 1)
    assert torch.equal(found['G_ema'](z, None, noise_mode='const'), expected(z, None, noise_mode='const'))
    run(edit.main, 'average', pair[0], f'--network={networks.child}', '--weights=1,3', f'--dest={dest}')
    expected = blending.average([first, second], [1, 3])
    images_ = [G(z, None, noise_mode='const') for G in (open_network(str(dest))['G_ema'], expected)]
    assert torch.equal(*images_)


def test_blend_keeps_names_of_classes(networks, tmp_path):
    pair = [f'--network={networks.named}', f'--with={networks.named}']
    run(edit.main, 'blend', *pair, '--from=8', f'--dest={tmp_path / "b.pkl"}')
    assert open_network(str(tmp_path / 'b.pkl'))['class_names'] == NAMES


def test_mistakes_with_networks(networks, tmp_path):
    dest = f'--dest={tmp_path / "b.pkl"}'
    plain, large = f'--network={networks.plain}', f'--network={networks.large}'
    for arguments, hint in (
        (
            ['blend', plain, f'--with={networks.large}', '--from=8', dest],
            "'--with': the networks have different layers",
        ),
        (['blend', plain, f'--with={networks.child}', '--from=12', dest], "'--from': 12 is not a resolution"),
        (['blend', plain, f'--with={networks.stylegan3}', '--from=8', dest], "'--with': the networks have different"),
        (['blend', plain, f'--with={tmp_path / "no.pkl"}', '--from=8', dest], "'--with'"),
        (['blend', plain, f'--with={networks.child}', '--from=8', f'--dest={tmp_path / "b.pt"}'], "'--dest'"),
        (['average', plain, dest], 'needs two networks or more'),
        (['average', plain, large, dest], "'--network': the networks have different layers"),
        (['average', plain, plain, '--weights=1,2,3', dest], "'--weights': 3 weights for 2 networks"),
    ):
        assert_usage_error(invoke(edit.main, *arguments), hint)
    assert not list(tmp_path.iterdir())


def test_every_output_is_checked_by_its_type():
    for command in edit.main.commands.values():
        outputs = [option for option in command.params if option.opts[0] in ('--outdir', '--dest', '--video')]
        assert outputs and all(isinstance(option.type, (OutputFile, OutputFolder)) for option in outputs)


def test_help_lists_the_commands():
    result = run(edit.main, '--help')
    assert all(command in result.stdout for command in ('directions', 'apply', 'blend', 'average'))
    for command in ('directions', 'apply', 'blend', 'average'):
        assert 'Example' in run(edit.main, command, '--help').stdout
    assert_usage_error(invoke(edit.main, 'paint'), "No such command 'paint'")
