"""Configurations: the numbers of all presets, what options change, names of run directories, and JSON."""

import dataclasses
import json
import multiprocessing
import os

import numpy as np
import PIL.Image
import pytest

import dnnlib
from dnnlib.cli import option_name
from dnnlib.errors import InvalidArgument
from training import freezing, presets
from training import options as cfg
from training.config import TrainingConfig
from training.networks_stylegan2 import Discriminator
from training.options import Options
from training.run import run_dir


def write_images(folder, resolution, count=1, mode='RGB'):
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.full([resolution, resolution, 3], index, dtype=np.uint8)
        PIL.Image.fromarray(pixels).convert(mode).save(folder / f'img{index:08d}.png')
    return str(folder)


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    paths = {resolution: write_images(root / f'r{resolution}', resolution) for resolution in (256, 512, 1024)}
    paths[32] = write_images(root / 'r32', 32, count=10)
    labels = [[f'img{index:08d}.png', index % 3] for index in range(10)]
    (root / 'r32' / 'dataset.json').write_text(json.dumps({'labels': labels}))
    return paths


@pytest.fixture
def build(folders):
    def build_config(resolution=32, num_gpus=1, device='cuda', **options):
        options = Options(outdir='out', data=folders[resolution], **options)
        return cfg.build_config(options, cfg.open_training_set(options), device, num_gpus)

    return build_config


PUBLISHED = {
    'augment_p': 0,
    'ada_target': 0.6,
    'ada_max_p': 1,
    'ada_heuristic': 'rt',
    'validation_set_kwargs': None,
    'apa_target': None,
    'posthoc_ema': None,
    'ada_kimg': 500,
    'ada_interval': 4,
    'G_reg_interval': 4,
    'D_reg_interval': 16,
    'kimg_per_tick': 4,
    'image_snapshot_ticks': 50,
    'network_snapshot_ticks': 50,
    'metrics': ['fid50k_full'],
    'detectors': None,
    'trackers': [],
    'random_seed': 0,
    'keep_states': 2,
    'deterministic': False,
    'strict_data': False,
    'resume_pkl': None,
    'resume_kimg': 0,
    'resume_optimizer': False,
    'frozen_G_layers': 0,
    'frozen_mapping_layers': 0,
    'frozen_embedding': False,
    'cudnn_benchmark': True,
    'allow_tf32': False,
    'cuda_graphs': False,
    'half_dtype': 'float16',
    'run_dir': None,
    'device': 'cuda',
    'data_loader_kwargs': {'num_workers': 3, 'pin_memory': True, 'prefetch_factor': 2},
    'augment_kwargs': {
        'class_name': 'training.augment.AugmentPipe',
        'xflip': 1,
        'rotate90': 1,
        'xint': 1,
        'scale': 1,
        'rotate': 1,
        'aniso': 1,
        'xfrac': 1,
        'brightness': 1,
        'contrast': 1,
        'lumaflip': 1,
        'hue': 1,
        'saturation': 1,
    },
}

# cfg, resolution, gpus: kimg, batch, per GPU, mbstd, channel_base, lr, gamma, ema_kimg, ema_rampup, mapping layers
TABLE = [
    ('auto', 32, 1, 25000, 32, 32, 4, 16384, 0.0025, 0.0064, 10, 0.05, 2),
    ('auto', 32, 8, 25000, 64, 8, 4, 16384, 0.0025, 0.0032, 20, 0.05, 2),
    ('auto', 256, 1, 25000, 16, 16, 4, 16384, 0.0025, 0.8192, 5, 0.05, 2),
    ('auto', 256, 2, 25000, 32, 16, 4, 16384, 0.0025, 0.4096, 10, 0.05, 2),
    ('auto', 512, 1, 25000, 8, 8, 4, 32768, 0.0025, 6.5536, 2.5, 0.05, 2),
    ('auto', 1024, 1, 25000, 4, 4, 4, 32768, 0.002, 52.4288, 1.25, 0.05, 2),
    ('auto', 1024, 8, 25000, 32, 4, 4, 32768, 0.002, 6.5536, 10, 0.05, 2),
    ('auto', 32, 128, 25000, 128, 1, 1, 16384, 0.0025, 0.0016, 40, 0.05, 2),
    ('stylegan2', 256, 1, 25000, 32, 4, 4, 32768, 0.002, 10, 10, None, 8),
    ('paper256', 256, 1, 25000, 64, 8, 8, 16384, 0.0025, 1, 20, None, 8),
    ('paper256', 256, 8, 25000, 64, 8, 8, 16384, 0.0025, 1, 20, None, 8),
    ('paper512', 512, 2, 25000, 64, 8, 8, 32768, 0.0025, 0.5, 20, None, 8),
    ('paper1024', 1024, 4, 25000, 32, 4, 4, 32768, 0.002, 2, 10, None, 8),
    ('paper1024', 1024, 16, 25000, 32, 2, 2, 32768, 0.002, 2, 10, None, 8),  # twice the reference: half the share
    ('cifar', 32, 1, 100000, 64, 32, 32, 32768, 0.0025, 0.01, 500, 0.05, 2),
    ('cifar', 32, 2, 100000, 64, 32, 32, 32768, 0.0025, 0.01, 500, 0.05, 2),
]


class TestPresets:
    @pytest.mark.parametrize('row', TABLE, ids=lambda row: f'{row[0]}-{row[1]}-g{row[2]}')
    def test_published(self, build, folders, row):
        name, resolution, gpus, kimg, batch, batch_gpu, mbstd, base, lr, gamma, ema, rampup, layers = row
        is_cifar = name == 'cifar'
        convolutions = {'channel_base': base, 'channel_max': 512, 'num_fp16_res': 4, 'conv_clamp': 256}
        adam = {'class_name': 'torch.optim.Adam', 'lr': lr, 'betas': [0, 0.99], 'eps': 1e-8}
        expected = PUBLISHED | {
            'num_gpus': gpus,
            'training_set_kwargs': {
                'class_name': 'training.dataset.ImageFolderDataset',
                'path': folders[resolution],
                'use_labels': False,
                'max_size': 10 if resolution == 32 else 1,
                'xflip': False,
                'resolution': resolution,
            },
            'G_kwargs': {
                'class_name': 'training.networks_stylegan2.Generator',
                'z_dim': 512,
                'w_dim': 512,
                'mapping_kwargs': {'num_layers': layers},
                'synthesis_kwargs': convolutions,
            },
            'D_kwargs': {
                'class_name': 'training.networks_stylegan2.Discriminator',
                **convolutions,
                'architecture': 'orig' if is_cifar else 'resnet',
                'block_kwargs': {},
                'mapping_kwargs': {},
                'epilogue_kwargs': {'mbstd_group_size': mbstd},
            },
            'G_opt_kwargs': adam,
            'D_opt_kwargs': adam,
            'loss_kwargs': {
                'class_name': 'training.loss.StyleGAN2Loss',
                'r1_gamma': pytest.approx(gamma),
                'style_mixing_prob': 0 if is_cifar else 0.9,
                'pl_weight': 0 if is_cifar else 2,
            },
            'total_kimg': kimg,
            'batch_size': batch,
            'batch_gpu': batch_gpu,
            'ema_kimg': ema,
            'ema_rampup': rampup,
        }
        actual = dataclasses.asdict(build(resolution, gpus, cfg=name))
        assert actual.pop('options')['cfg'] == name
        assert actual == expected

    def test_tiny_is_small_and_plain(self, build):
        config = build(cfg='tiny', device='cpu')
        assert config.G_kwargs['synthesis_kwargs']['channel_max'] < 512
        assert config.G_kwargs['synthesis_kwargs']['num_fp16_res'] == 0
        assert config.loss_kwargs['pl_weight'] == 0
        assert config.total_kimg < 1000
        assert config.ada_kimg < 500

    def test_small_data_is_tiny_with_another_loss_and_more_comparisons(self, build):
        tiny, small = (dataclasses.asdict(build(cfg=name, device='cpu')) for name in ('tiny', 'small-data'))
        assert small['loss_kwargs'].pop('class_name') == 'training.relativistic_loss.RelativisticLoss'
        assert small['loss_kwargs'].pop('r2_gamma') == small['loss_kwargs'].pop('r1_gamma') == 0.5
        assert small['D_kwargs'].pop('epilogue_kwargs') == {'mbstd_group_size': 32, 'mbstd_num_channels': 8}
        assert small.pop('D_reg_interval') == 4
        assert small.pop('batch_size') == small.pop('batch_gpu') == 32
        assert small.pop('total_kimg') > tiny.pop('total_kimg')
        for name in ('class_name', 'r1_gamma'):
            del tiny['loss_kwargs'][name]
        for name in ('D_reg_interval', 'batch_size', 'batch_gpu'):
            del tiny[name]
        del tiny['options'], small['options'], tiny['D_kwargs']['epilogue_kwargs']
        assert small == tiny

    @pytest.mark.parametrize('options, group, deviations', [({}, 32, 8), ({'batch': 24}, 24, 8), ({'cmax': 4}, 32, 4)])
    def test_small_data_compares_what_there_is(self, build, options, group, deviations):
        config = build(cfg='small-data', device='cpu', **options)
        expected = {'mbstd_group_size': group, 'mbstd_num_channels': deviations}
        assert config.D_kwargs['epilogue_kwargs'] == expected

    @pytest.mark.parametrize('name', [name for name in presets.PRESET_NAMES if name != 'small-data'])
    def test_other_presets_have_one_deviation_as_published(self, build, name):
        assert 'mbstd_num_channels' not in build(cfg=name, device='cpu').D_kwargs['epilogue_kwargs']

    def test_options_replace_the_loss_of_a_preset(self, build):
        config = build(cfg='small-data', loss='nonsaturating', d_reg_interval=16, gamma=0.05)
        plain = build(cfg='tiny')
        assert (config.loss_kwargs, config.D_reg_interval) == (plain.loss_kwargs, plain.D_reg_interval)
        kwargs = build(cfg='small-data', gamma=2.0).loss_kwargs
        assert (kwargs['r1_gamma'], kwargs['r2_gamma']) == (2, 2)

    @pytest.mark.parametrize('name', presets.PRESET_NAMES)
    def test_every_preset_builds_networks_that_take_a_batch(self, build, name):
        """Constructors know every keyword, and the smallest batch goes through both networks."""
        torch = pytest.importorskip('torch')
        config = build(cfg=name, device='cpu', cbase=256, cmax=8)
        common = {'c_dim': 0, 'img_resolution': 32, 'img_channels': 3}
        G = dnnlib.util.construct_class_by_name(**config.G_kwargs, **common)
        D = dnnlib.util.construct_class_by_name(**config.D_kwargs, **common)
        with torch.no_grad():
            logits = D(G(torch.randn([config.batch_gpu, G.z_dim]), None), None)
        assert logits.shape == (config.batch_gpu, 1)
        assert torch.isfinite(logits).all()

    def test_decoding_processes_are_for_gpus(self, build):
        assert build(device='cpu').data_loader_kwargs == {'num_workers': 0, 'pin_memory': False}
        assert build(device='cpu', workers=2).data_loader_kwargs['num_workers'] == 2
        assert build(device='mps').data_loader_kwargs['num_workers'] == 3

    def test_presets_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            presets.get_preset('cifar', 32, 1).lr = 1


class TestOptions:
    def test_half_precision_is_for_cuda(self, build):
        for device, fp32, expected in [
            ('cuda', False, (4, 256)),
            ('cuda:1', False, (4, 256)),
            ('cpu', False, (0, 256)),
            ('mps', False, (0, 256)),
            ('cuda', True, (0, None)),
            ('cpu', True, (0, None)),
        ]:
            config = build(device=device, fp32=fp32)
            for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
                assert (kwargs['num_fp16_res'], kwargs['conv_clamp']) == expected, (device, fp32)

    def test_replaced_numbers(self, build):
        config = build(
            cfg='stylegan2',
            gamma=3.5,
            kimg=7,
            cbase=8192,
            cmax=128,
            glr=0.1,
            dlr=0.2,
            map_depth=5,
            tick=2,
            snap=3,
            seed=9,
            workers=0,
            nobench=True,
            allow_tf32=True,
            nhwc=True,
            freezed=2,
        )
        assert config.loss_kwargs['r1_gamma'] == 3.5
        assert config.total_kimg == 7
        assert config.G_opt_kwargs['lr'] == 0.1
        assert config.D_opt_kwargs['lr'] == 0.2
        assert config.G_kwargs['mapping_kwargs'] == {'num_layers': 5}
        assert config.G_kwargs['synthesis_kwargs']['fp16_channels_last'] is True
        assert config.D_kwargs['block_kwargs'] == {'fp16_channels_last': True, 'freeze_layers': 2}
        for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
            assert (kwargs['channel_base'], kwargs['channel_max']) == (8192, 128)
        assert (config.kimg_per_tick, config.image_snapshot_ticks, config.network_snapshot_ticks) == (2, 3, 3)
        assert config.random_seed == 9
        assert config.data_loader_kwargs == {'num_workers': 0, 'pin_memory': True}
        assert (config.cudnn_benchmark, config.allow_tf32) == (False, True)

    @pytest.mark.parametrize('preset', ['auto', 'cifar', 'tiny'])
    @pytest.mark.parametrize('resolution', [32, [64, 96], [48, 48], [256, 64]])
    def test_layers_that_can_be_frozen(self, preset, resolution):
        architecture = presets.get_preset(preset, resolution, 1).d_architecture
        D = Discriminator(0, resolution, 3, architecture=architecture, channel_base=256, channel_max=4)
        count = freezing.num_freezable_layers(architecture, resolution)
        assert count == sum(getattr(D, f'b{level}').num_layers for level in D.block_resolutions)
        for freezed in (count - 1, count):
            D = Discriminator(0, resolution, 3, architecture=architecture, channel_base=256, channel_max=4,
                              block_kwargs=dict(freeze_layers=freezed))  # fmt: skip
            lowest = getattr(D, f'b{D.block_resolutions[-1]}')
            assert bool(list(lowest.parameters())) == (freezed < count)

    def test_relativistic_loss(self, build):
        plain = build(gamma=2.0)
        for options, expected in [({}, 2), ({'gamma2': 0.5}, 0.5), ({'gamma2': 0.0}, 0)]:
            kwargs = build(gamma=2.0, loss='relativistic', **options).loss_kwargs
            assert kwargs.pop('class_name') == 'training.relativistic_loss.RelativisticLoss'
            assert kwargs.pop('r2_gamma') == expected
            assert kwargs == {name: value for name, value in plain.loss_kwargs.items() if name != 'class_name'}
        intervals = [build(d_reg_interval=n).D_reg_interval for n in (None, 1, 4)]
        assert intervals == [16, None, 4]

    def test_lecam(self, build):
        assert build(lecam=0.3).loss_kwargs['lecam_weight'] == 0.3
        assert 'lecam_weight' not in build().loss_kwargs

    def test_diffaugment(self, build):
        assert build(diffaugment='cutout,color').loss_kwargs['diffaugment'] == ['color', 'cutout']
        for text in ('', 'colour', 'color,color', 'color, cutout'):
            with pytest.raises(InvalidArgument, match='separate some of color, translation, cutout'):
                build(diffaugment=text)

    def test_apa(self, build):
        for options, targets in [
            ({}, (0.6, None)),
            ({'apa': True}, (0.6, 0.6)),
            ({'apa': True, 'aug': 'noaug', 'target': 0.5}, (None, 0.5)),
            ({'apa': True, 'aug': 'fixed', 'p': 0.2}, (None, 0.6)),
        ]:
            config = build(**options)
            assert (config.ada_target, config.apa_target) == targets

    @pytest.mark.parametrize('options', [{}, {'aug': 'noaug', 'apa': True}])
    def test_heuristics(self, build, options):
        config = build(ada_heuristic='rv', validation=3, **options)
        assert config.ada_heuristic == 'rv' and {config.ada_target, config.apa_target} == {0.5, None}
        assert build(ada_heuristic='rv', validation=3, target=0.3, **options).ada_heuristic == 'rv'
        with pytest.raises(InvalidArgument, match='rv needs images that are held out: add --validation=N'):
            build(ada_heuristic='rv', **options)

    @pytest.mark.parametrize('precision, layers, clamp, tf32, half_dtype', [
        (None, 4, 256, False, 'float16'),
        ('fp16', 4, 256, False, 'float16'),
        ('bf16', 4, 256, False, 'bfloat16'),
        ('tf32', 0, None, True, 'float16'),
        ('fp32', 0, None, False, 'float16'),
    ])  # fmt: skip
    def test_precision(self, build, precision, layers, clamp, tf32, half_dtype):
        config = build(precision=precision)
        assert (config.allow_tf32, config.half_dtype) == (tf32, half_dtype)
        for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
            assert (kwargs['num_fp16_res'], kwargs['conv_clamp']) == (layers, clamp)

    def test_two_precisions(self, build):
        with pytest.raises(InvalidArgument, match='bf16 and --fp32 contradict each other'):
            build(precision='bf16', fp32=True)

    def test_cuda_graphs(self, build):
        assert build(cuda_graphs=True).cuda_graphs and not build().cuda_graphs
        with pytest.raises(InvalidArgument, match='needs a CUDA device, but this run is on cpu'):
            build(cuda_graphs=True, device='cpu')
        assert build(cuda_graphs=True, apa=True, insgen='1').cuda_graphs

    @pytest.mark.parametrize('subset, num_training', [(None, 7), (4, 4), (7, 7)])
    def test_held_out_images_are_not_trained_on(self, build, subset, num_training):
        config = build(validation=3, subset=subset, mirror=True, seed=5)
        training, validation = (
            dnnlib.util.construct_class_by_name(**kwargs)
            for kwargs in (config.training_set_kwargs, config.validation_set_kwargs)
        )
        trained_on = {training.get_details(i).raw_idx for i in range(len(training))}
        held_out = {validation.get_details(i).raw_idx for i in range(len(validation))}
        assert len(trained_on) == num_training == len(training) // 2 and len(held_out) == 3 == len(validation)
        assert not trained_on & held_out
        without = build(subset=subset, mirror=True, seed=5).training_set_kwargs
        assert subset is None or config.training_set_kwargs == without  # the same images as ever
        assert build(validation=3, seed=6).validation_set_kwargs != config.validation_set_kwargs

    @pytest.mark.parametrize(
        'options, argument, words',
        [
            ({'validation': 10}, 'validation', '10 images cannot be held out of 10: use a number from 1 to 9'),
            ({'validation': 4, 'subset': 7}, 'subset', 'more than the 10 of the dataset: use a number from 1 to 6'),
            ({'validation': 'nowhere'}, 'validation', 'nowhere'),
        ],
    )
    def test_images_that_cannot_be_held_out(self, build, options, argument, words):
        with pytest.raises(InvalidArgument, match=words) as caught:
            build(**options)
        assert caught.value.argument == argument

    def test_other_images_for_validation(self, build, folders):
        kwargs = build(validation=folders[32], cond=True).validation_set_kwargs
        assert kwargs['path'] == folders[32] and kwargs['use_labels'] is True and 'skip' not in kwargs
        other = next(resolution for resolution in folders if resolution != 32)
        with pytest.raises(
            InvalidArgument, match=r'the images of .* differ from those of the dataset \(.* instead of 32x32'
        ):
            build(validation=folders[other])

    def test_gamma_zero_is_a_value(self, build):
        assert build(gamma=0.0).loss_kwargs['r1_gamma'] == 0

    @pytest.mark.parametrize(
        'gpus, options, expected',
        [
            (1, {'batch': 8}, (8, 8, 4)),
            (2, {'batch': 8}, (8, 4, 4)),
            (1, {'batch': 64, 'batch_gpu': 8}, (64, 8, 4)),
            (1, {'batch': 2}, (2, 2, 2)),  # the group of a preset shrinks with the batch
            (1, {'batch': 12, 'mbstd_group': 6}, (12, 12, 6)),
            (1, {'cfg': 'paper256', 'batch_gpu': 16}, (64, 16, 8)),
            (4, {'cfg': 'paper256', 'batch_gpu': 4}, (64, 4, 4)),
        ],
    )
    def test_batches(self, build, gpus, options, expected):
        config = build(num_gpus=gpus, **options)
        group = config.D_kwargs['epilogue_kwargs']['mbstd_group_size']
        assert (config.batch_size, config.batch_gpu, group) == expected

    @pytest.mark.parametrize(
        'gpus, options, words',
        [
            (3, {}, ['--batch', '64', '--gpus=3', '--batch=63']),
            (8, {'batch': 4}, ['--batch', '--gpus=8', '--batch=8']),
            (1, {'batch': 32, 'batch_gpu': 5}, ['--batch-gpu', '5', '32']),
            (1, {'batch': 8, 'batch_gpu': 16}, ['--batch-gpu', '16', '8']),
            (1, {'batch': 6}, ['--mbstd-group', '4', '6']),
            (1, {'batch': 8, 'mbstd_group': 16}, ['--mbstd-group', '16', '8']),
        ],
    )
    def test_batches_that_do_not_divide(self, build, gpus, options, words):
        with pytest.raises(InvalidArgument) as caught:
            build(num_gpus=gpus, **options)
        message = f'{option_name(caught.value.argument)}: {caught.value}'
        assert all(word in message for word in words), message

    def test_augmentation(self, build):
        assert build(aug='noaug').augment_kwargs is None
        assert build(aug='noaug').ada_target is None
        fixed = build(aug='fixed', p=0.3)
        assert (fixed.augment_p, fixed.ada_target) == (0.3, None)
        assert build(target=0.7).ada_target == 0.7
        assert build(augpipe='filter').augment_kwargs == {'class_name': 'training.augment.AugmentPipe', 'imgfilter': 1}

    @pytest.mark.parametrize('name', presets.AUGPIPE_NAMES)
    def test_augpipes_construct(self, build, name):
        pipe = dnnlib.util.construct_class_by_name(**build(augpipe=name).augment_kwargs)
        flags = presets.augpipe_flags(name)
        assert all(getattr(pipe, flag) == 1 for flag in flags)
        everything = presets.augpipe_flags('bgcfnc')
        assert len(everything) == 15
        assert all(getattr(pipe, flag) == 0 for flag in everything.keys() - flags.keys())

    def test_resume(self, build, tmp_path):
        pickle = tmp_path / 'net.pkl'
        pickle.write_bytes(b'.')
        known = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
        for given, expected in [
            ('ffhq256', known + 'ffhq-res256-mirror-paper256-noaug.pkl'),
            ('celebahq256', known + 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl'),
            (str(pickle), str(pickle)),
            ('https://example.org/net.pkl', 'https://example.org/net.pkl'),
        ]:
            config = build(resume=given)
            assert (config.resume_pkl, config.ada_kimg, config.ema_rampup) == (expected, 100, None)
        config = build(resume='noresume')
        assert (config.resume_pkl, config.ada_kimg, config.ema_rampup) == (None, 500, 0.05)

    def test_dataset(self, build):
        kwargs = build(cond=True, mirror=True, subset=4, seed=5).training_set_kwargs
        assert (kwargs['use_labels'], kwargs['xflip'], kwargs['max_size'], kwargs['random_seed']) == (True, True, 4, 5)
        dataset = dnnlib.util.construct_class_by_name(**kwargs)
        assert (len(dataset), dataset.label_dim) == (8, 3)
        assert 'random_seed' not in build(subset=10).training_set_kwargs


class TestRunDirectory:
    @pytest.mark.parametrize(
        'options, expected',
        [
            ({}, 'mine-auto2'),
            ({'mirror': True, 'resume': 'ffhq256'}, 'mine-mirror-auto2-resumeffhq256'),
            ({'cond': True, 'subset': 1000, 'cfg': 'cifar'}, 'mine-cond-subset1000-cifar'),
            ({'gamma': 10.0, 'kimg': 1000, 'batch': 32}, 'mine-auto2-gamma10-kimg1000-batch32'),
            ({'gamma': 0.0064, 'kimg': 25000000}, 'mine-auto2-gamma0.0064-kimg25000000'),
            ({'aug': 'fixed', 'p': 0.2}, 'mine-auto2-fixed-p0.2'),
            ({'aug': 'ada', 'target': 0.7, 'augpipe': 'bgcfnc'}, 'mine-auto2-ada-target0.7-bgcfnc'),
            ({'aug': 'noaug', 'cfg': 'paper256'}, 'mine-paper256-noaug'),
            ({'loss': 'relativistic', 'gamma2': 1.0, 'd_reg_interval': 1}, 'mine-auto2-relativistic-r2gamma1-dreg1'),
            ({'lecam': 0.3}, 'mine-auto2-lecam0.3'),
            ({'aug': 'noaug', 'diffaugment': 'cutout,color'}, 'mine-auto2-noaug-diffaugment-color-cutout'),
            ({'apa': True}, 'mine-auto2-apa'),
            ({'ada_heuristic': 'rv', 'validation': 100}, 'mine-auto2-rv-validation100'),
            ({'validation': '/x/y.zip'}, 'mine-auto2-validation'),
            ({'init_p': 0.1, 'max_p': 0.8}, 'mine-auto2-initp0.1-maxp0.8'),
            ({'resume': 'noresume'}, 'mine-auto2-noresume'),
            ({'resume': '/x/net.pkl', 'freezed': 3}, 'mine-auto2-resumecustom-freezed3'),
            ({'freezed': 0, 'desc': 'try_2'}, 'mine-auto2-freezed0-try_2'),
            ({'glr': 0.1, 'cbase': 64, 'seed': 3}, 'mine-auto2'),
        ],
    )
    def test_name(self, options, expected):
        assert cfg.run_description(Options(outdir='o', data='d', **options), 'mine', 2) == expected

    def test_number_is_one_more_than_the_highest(self, tmp_path):
        outdir = str(tmp_path / 'new' / 'runs')
        assert run_dir.next_run_dir(outdir, 'a') == os.path.join(outdir, '00000-a')
        assert not os.path.exists(outdir)
        assert run_dir.create_run_dir(outdir, 'a') == os.path.join(outdir, '00000-a')
        for other in ('00041-b', '123456-not-five-digits', 'notes', '99-x'):
            os.mkdir(os.path.join(outdir, other))
        assert run_dir.next_run_dir(outdir, 'c') == os.path.join(outdir, '00042-c')
        assert run_dir.create_run_dir(outdir, 'c') == os.path.join(outdir, '00042-c')
        assert os.path.isdir(os.path.join(outdir, '00042-c'))

    def test_concurrent_runs_get_unique_ids(self, tmp_path):
        """IDs are unique even if the descriptions differ, so that the full names would not collide."""
        context = multiprocessing.get_context('spawn')
        with context.Pool(4) as pool:
            jobs = [(str(tmp_path), f'run{index}') for index in range(40)]
            made = pool.starmap(run_dir.create_run_dir, jobs, chunksize=1)
        assert sorted(os.path.basename(path)[:5] for path in made) == [f'{number:05d}' for number in range(40)]
        assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in made)

    def test_name_too_long_leaves_nothing(self, tmp_path):
        with pytest.raises(OSError, match='File name too long'):
            run_dir.create_run_dir(str(tmp_path), 'x' * 300)
        assert os.listdir(tmp_path) == []


class TestJson:
    def test_round_trip(self, build, tmp_path):
        for options in ({}, {'cfg': 'cifar', 'cond': True, 'resume': 'ffhq256'}, {'aug': 'noaug', 'cfg': 'tiny'}):
            config = build(**options)
            config.run_dir = str(tmp_path)
            assert TrainingConfig.from_json(config.to_json()) == config

    def test_saved_file(self, build, tmp_path):
        config = build()
        config.save(tmp_path / 'training_options.json')
        assert os.listdir(tmp_path) == ['training_options.json']
        text = (tmp_path / 'training_options.json').read_text()
        assert TrainingConfig.from_json(text) == config
        assert json.loads(text)['G_kwargs']['z_dim'] == 512

    @pytest.mark.parametrize(
        'change, words',
        [
            ({'bach_size': 4}, ['bach_size', 'unknown']),
            ({'batch_size': '4'}, ['batch_size', "'4'", 'int']),
            ({'batch_size': True}, ['batch_size', 'True']),
            ({'batch_size': None}, ['batch_size', 'None']),
            ({'augment_p': 'x'}, ['augment_p', 'a number from 0 to 1']),
            ({'metrics': 'none'}, ['metrics', 'list']),
            ({'cudnn_benchmark': 1}, ['cudnn_benchmark', 'true or false']),
        ],
    )
    def test_wrong_values_are_named(self, build, change, words):
        values = json.loads(build().to_json()) | change
        with pytest.raises(ValueError) as caught:
            TrainingConfig.from_json(json.dumps(values))
        assert all(word in str(caught.value) for word in words), str(caught.value)

    @pytest.mark.parametrize(
        'text, words',
        [
            ('{', 'not valid JSON'),
            ('[]', 'object'),
            ('{}', "missing.*'G_kwargs'|missing"),
        ],
    )
    def test_text_that_is_not_a_configuration(self, text, words):
        with pytest.raises(ValueError, match=words):
            TrainingConfig.from_json(text)


class TestImagesThatAreNotSquare:
    @pytest.mark.parametrize('size, square', [([64, 64], 64), ([256, 1024], 512), ([1024, 256], 512), ([192, 48], 96)])
    def test_auto_goes_by_the_number_of_pixels(self, size, square):
        assert presets.get_preset('auto', size, num_gpus=2) == presets.get_preset('auto', square, num_gpus=2)

    def test_the_other_presets_ignore_the_size(self):
        assert presets.get_preset('paper256', [64, 96], num_gpus=1) == presets.get_preset('paper256', 256, num_gpus=1)

    def test_configuration(self, tmp_path):
        for index in range(2):
            PIL.Image.fromarray(np.zeros([64, 96, 4], np.uint8)).save(tmp_path / f'{index}.png')
        options = Options(outdir='runs', data=str(tmp_path), cfg='tiny')
        dataset = cfg.open_training_set(options)
        config = cfg.build_config(options, dataset, 'cpu', num_gpus=1)
        assert TrainingConfig.from_json(config.to_json()).training_set_kwargs['resolution'] == [64, 96]
        assert '96x64 RGB with alpha' in cfg.describe(config, dataset)
        with pytest.raises(InvalidArgument, match='no channels at 96x64.*use 64 or more'):
            cfg.build_config(dataclasses.replace(options, cbase=63), dataset, 'cpu', num_gpus=1)
