"""The inputs of a generator."""

from types import SimpleNamespace

import pytest

from generation import latents


@pytest.mark.parametrize('classes', [[0, 2], (0, 2)])
def test_a_class_without_images_is_a_warning(classes, capsys):
    data = {'G_ema': SimpleNamespace(c_dim=3), 'classes_without_images': classes}
    assert latents.make_label(data, '2', None, 'cpu').tolist() == [[0, 0, 1]]
    assert 'class 2 had no image in the training data' in capsys.readouterr().err
    latents.make_label(data, '1', None, 'cpu')
    latents.make_label(data, None, [0.0, 0.0, 1.0], 'cpu')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('classes', [None, 7, 'text', {2: 2}, [None, [2], '2', 2.0, True]])
def test_anything_else_in_a_network_file_is_ignored(classes, capsys):
    data = {'G_ema': SimpleNamespace(c_dim=3), 'classes_without_images': classes}
    latents.make_label(data, '2', None, 'cpu')
    assert capsys.readouterr().err == ''
