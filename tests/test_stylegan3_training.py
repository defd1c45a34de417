"""Training of StyleGAN3's generators from the command line: presets, blur, running means, resuming to the bit."""

import json
import pickle
import shutil

import pytest

from tests.small_runs import finish, last_network, only, train, write_images
from training.run.run_dir import RunDir

SMALL = ['--cfg=tiny-t', '--cbase=64', '--cmax=8', '--tick=0.016', '--kimg=0.032', '--snap=1', '--workers=0']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The directory of a finished run."""
    folder = tmp_path_factory.mktemp('place')
    result = finish(train(write_images(folder / 'data'), folder / 'runs', *SMALL))
    assert result.returncode == 0, result.stderr
    return only(folder / 'runs')


def test_a_resumed_run_is_the_uninterrupted_one(finished, tmp_path):
    copy = tmp_path / 'runs' / finished.name
    shutil.copytree(finished, copy)
    states = RunDir(str(copy)).training_states()
    assert len(states) > 1
    states[0].unlink()
    result = finish([*train('', tmp_path)[:2], f'--resume-run={copy}'])
    assert result.returncode == 0, result.stderr
    assert last_network(copy) == last_network(finished)


def test_running_means_have_moved(finished):
    G = pickle.loads(last_network(finished))['G']  # written by this test
    assert float(G.mapping.w_avg.abs().max()) > 0
    magnitudes = [float(tensor) for name, tensor in G.named_buffers() if name.endswith('magnitude_ema')]
    assert len(magnitudes) == G.synthesis.num_layers + 1 and all(magnitude != 1 for magnitude in magnitudes)


def options_of(tmp_path, *args):
    result = finish(train(write_images(tmp_path / 'data'), tmp_path / 'runs', '--dry-run', *args))
    assert result.returncode == 0, result.stderr
    return json.JSONDecoder().raw_decode(result.stdout[result.stdout.index('{') :])[0]


def test_the_presets_have_the_published_numbers(tmp_path):
    t = options_of(tmp_path / 't', '--cfg=stylegan3-t', '--batch=32', '--cbase=32768', '--cmax=512')
    r = options_of(tmp_path / 'r', '--cfg=stylegan3-r', '--batch=32', '--cbase=32768', '--cmax=512')
    assert (t['G_opt_kwargs']['lr'], t['D_opt_kwargs']['lr']) == (0.0025, 0.002)
    assert t['loss_kwargs']['r1_gamma'] == pytest.approx(8.2 * (8 / 512) ** 2)
    assert t['G_kwargs']['magnitude_ema_beta'] == pytest.approx(0.5 ** (32 / 20_000))
    assert (t['loss_kwargs']['pl_weight'], t['loss_kwargs']['style_mixing_prob']) == (0, 0)
    assert 'blur_init_sigma' not in t['loss_kwargs']
    assert (r['loss_kwargs']['blur_init_sigma'], r['loss_kwargs']['blur_fade_kimg']) == (10, 200)
    more = {'conv_kernel': 1, 'use_radial_filters': True, 'channel_base': 65536, 'channel_max': 1024}
    assert r['G_kwargs'] == {**t['G_kwargs'], **more}
    assert r['D_kwargs'] == t['D_kwargs']
