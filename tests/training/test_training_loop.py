"""Whole runs on a handful of small images: files, reproducibility, ranks, resume, ADA."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import legacy
from tests import metric_stand_ins as stand_ins
from torch_utils import distributed, launcher, misc
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.loss import StyleGAN2Loss
from training.networks_stylegan2 import Discriminator, Generator
from training.phases import Phase, build_phases, run_phase
from training.relativistic_loss import RelativisticLoss
from training.run import snapshots
from training.training_loop import launch

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES, RESOLUTION, NUM_CLASSES = 24, 16, 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Folder dataset of 24 RGB images in 3 classes: a gray level per class, and noise."""
    folder = tmp_path_factory.mktemp('data') / 'patches'
    (folder / '00000').mkdir(parents=True)
    rng = np.random.RandomState(0)
    labels = []
    for index in range(NUM_IMAGES):
        label = index % NUM_CLASSES
        pixels = np.clip(60 + 60 * label + rng.randn(RESOLUTION, RESOLUTION, 3) * 20, 0, 255).astype(np.uint8)
        name = f'00000/img{index:08d}.png'
        PIL.Image.fromarray(pixels).save(folder / name)
        labels.append([name, label])
    (folder / 'dataset.json').write_text(json.dumps(dict(labels=labels, class_names=['dark', 'middle', 'bright'])))
    return folder


def small_config(data, run_dir, **changes):
    run_dir.mkdir(parents=True, exist_ok=True)
    adam = dict(class_name='torch.optim.Adam', lr=0.0025, betas=[0, 0.99], eps=1e-8)
    sizes = dict(channel_base=128, channel_max=8)
    config = dict(
        run_dir=str(run_dir),
        num_gpus=1,
        device='cpu',
        random_seed=0,
        training_set_kwargs=dict(class_name='training.dataset.ImageFolderDataset', path=str(data), use_labels=True),
        data_loader_kwargs=dict(num_workers=0),
        G_kwargs=dict(
            class_name='training.networks_stylegan2.Generator',
            z_dim=8,
            w_dim=8,
            mapping_kwargs=dict(num_layers=2),
            synthesis_kwargs=sizes,
        ),
        D_kwargs=dict(
            class_name='training.networks_stylegan2.Discriminator', mapping_kwargs=dict(num_layers=1), **sizes
        ),
        G_opt_kwargs=adam,
        D_opt_kwargs=adam,
        loss_kwargs=dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=0.1, style_mixing_prob=0.9, pl_weight=2),
        augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1, brightness=1),
        augment_p=0.0,
        ada_target=0.6,
        ada_kimg=1,
        batch_size=8,
        batch_gpu=4,
        total_kimg=0.08,
        ema_kimg=0.05,
        ema_rampup=None,
        kimg_per_tick=0.032,
        image_snapshot_ticks=1,
        network_snapshot_ticks=1,
        cudnn_benchmark=False,
    )
    return TrainingConfig(**(config | changes))


def final_pickle(run_dir):
    return sorted(Path(run_dir).glob('network-snapshot-*.pkl'))[-1]


def state_of(path):
    content = legacy.open_network(str(path))
    return {
        f'{name}.{key}': tensor
        for name in ('G', 'D', 'G_ema')
        for key, tensor in misc.named_params_and_buffers(content[name])
    }


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """A finished run on one process."""
    run_dir = tmp_path_factory.mktemp('runs') / 'one'
    launch(small_config(data, run_dir))
    return run_dir


# ---------------------------------------------------------------------------------------------------------------------
# Files of a run


def test_every_file_is_there(run):
    names = {path.name for path in run.iterdir()}
    assert {
        'log.txt',
        'stats.jsonl',
        'reals.png',
        'fakes_init.png',
        'fakes000000.png',
        'network-snapshot-000000.pkl',
    } <= names
    assert any(name.startswith('events.out.tfevents') for name in names)
    assert not [name for name in names if name.endswith(('.tmp', '.partial'))]


def test_status_lines(run):
    lines = [line for line in (run / 'log.txt').read_text().splitlines() if line.startswith('tick ')]
    pattern = (
        r'tick \d+ +kimg [\d.]+ +time .+ sec/tick [\d.]+ +sec/kimg [\d.]+ +maintenance [\d.]+ +'
        r'cpumem [\d.]+ +gpumem [\d.]+ +augment [\d.]+ '
        r'images/s [\d.]+ +TFLOP/s [\d.e-]+( +Wh/kimg [\d.e-]+)?(  left .+)?$'
    )
    assert len(lines) == 4  # 8, 40, 72 and 80 images
    for number, line in enumerate(lines):
        assert re.match(pattern, line), line
        assert line.split()[:2] == ['tick', str(number)]


def test_statistics(run):
    rows = [json.loads(line) for line in (run / 'stats.jsonl').read_text().splitlines()]
    assert [row['Progress/kimg']['mean'] for row in rows] == pytest.approx([0.008, 0.040, 0.072, 0.080])
    last = rows[-2]
    for name in (
        'Loss/G/loss',
        'Loss/D/loss',
        'Loss/scores/real',
        'Loss/signs/real',
        'Loss/scores/fake',
        'Loss/r1_penalty',
        'Loss/pl_penalty',
        'Loss/G/reg',
        'Loss/D/reg',
    ):
        assert last[name]['num'] > 0 and np.isfinite(last[name]['mean']), name
    assert last['Loss/D/loss']['num'] == 32
    assert all('timestamp' in row for row in rows)
    for row in rows:
        speed, sec_per_kimg = row['Timing/images_per_sec']['mean'], row['Timing/sec_per_kimg']['mean']
        assert speed == pytest.approx(1000 / sec_per_kimg) and row['Timing/tflop_per_sec']['mean'] > 0
        assert 'Timing/share_of_peak' not in row  # unknown for a CPU


def test_the_pickle_names_classes_without_images(data, tmp_path):
    source = shutil.copytree(data, tmp_path / 'data')
    labels = json.loads((source / 'dataset.json').read_text())['labels']
    (source / 'dataset.json').write_text(json.dumps(dict(labels=[[name, 2 * label] for name, label in labels])))
    launch(small_config(source, tmp_path / 'run', total_kimg=0.008))
    assert legacy.open_network(str(final_pickle(tmp_path / 'run')))['classes_without_images'] == [1, 3]


def test_the_pickle_holds_the_published_keys(run, data):
    content = legacy.open_network(str(final_pickle(run)))
    assert 'classes_without_images' not in content
    assert {'G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'} <= content.keys()
    assert content['training_set_kwargs']['path'] == str(data)
    assert content['class_names'] == ['dark', 'middle', 'bright']
    for name in ('G', 'D', 'G_ema', 'augment_pipe'):
        assert not content[name].training
        assert not any(parameter.requires_grad for parameter in content[name].parameters())
    assert (content['G_ema'].img_channels, content['G_ema'].c_dim) == (3, NUM_CLASSES)


def test_the_pickle_opens_elsewhere_with_the_two_low_packages_alone(run, tmp_path):
    for package in ('dnnlib', 'torch_utils'):
        (tmp_path / package).symlink_to(ROOT / package)
    program = (
        'import pickle, sys, torch\n'
        f"with open({str(final_pickle(run))!r}, 'rb') as f: G = pickle.load(f)['G_ema']\n"
        'image = G(torch.randn([2, G.z_dim]), torch.eye(G.c_dim)[:2])\n'
        "assert not any(name == 'training' or name.startswith('training.') for name in sys.modules)\n"
        'print(list(image.shape), G.__class__.__module__)\n'
    )
    result = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('[2, 3, 16, 16]')


def test_safe_and_plain_loading_agree(run):
    with open(final_pickle(run), 'rb') as file:
        plain = pickle.load(file)
    safe = legacy.open_network(str(final_pickle(run)))
    for name in ('G', 'D', 'G_ema', 'augment_pipe'):
        pairs = zip(misc.named_params_and_buffers(plain[name]), misc.named_params_and_buffers(safe[name]), strict=True)
        for (key, tensor), (other_key, other) in pairs:
            assert key == other_key and torch.equal(tensor, other)


def test_every_way_to_load_gives_the_same_images_to_the_bit(run, tmp_path):
    source = final_pickle(run)
    for dest in ('rewritten.pkl', 'rewritten.safetensors', 'there-and-back.pkl'):
        origin = tmp_path / 'rewritten.safetensors' if dest == 'there-and-back.pkl' else source
        legacy.main([f'--source={origin}', f'--dest={tmp_path / dest}'], standalone_mode=False)
    ways = {f'safely {path.name}': legacy.open_network(str(path)) for path in [source, *sorted(tmp_path.iterdir())]}
    for path in (source, tmp_path / 'rewritten.pkl', tmp_path / 'there-and-back.pkl'):
        ways[f'plain {path.name}'] = pickle.loads(path.read_bytes())
        ways[f'trusted {path.name}'] = legacy.open_network(str(path), trust=True)
    assert len(ways) == 10
    z, c = torch.randn([4, 8]), torch.eye(NUM_CLASSES)[[0, 1, 2, 0]]
    with torch.no_grad():
        expected = ways[f'safely {source.name}']['G_ema'](z, c, noise_mode='const')
        logits = ways[f'safely {source.name}']['D'](expected, c)
        for way, data in ways.items():
            assert torch.equal(data['G_ema'](z, c, noise_mode='const'), expected), way
            assert torch.equal(data['D'](expected, c), logits), way


def test_training_changes_the_networks_and_the_average_lags(run, data):
    first, last = state_of(run / 'network-snapshot-000000.pkl'), state_of(final_pickle(run))
    assert first.keys() == last.keys()
    weight = 'synthesis.b16.conv1.weight'
    assert not torch.equal(last[f'G.{weight}'], last[f'G_ema.{weight}'])
    assert torch.equal(last['G.mapping.w_avg'], last['G_ema.mapping.w_avg'])
    assert last['G.mapping.w_avg'].abs().max() > 0


# ---------------------------------------------------------------------------------------------------------------------
# The same again


def test_the_same_seed_gives_the_same_networks(run, data, tmp_path):
    launch(small_config(data, tmp_path / 'again'))
    launch(small_config(data, tmp_path / 'other', random_seed=1))
    one, again, other = (state_of(final_pickle(path)) for path in (run, tmp_path / 'again', tmp_path / 'other'))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert (run / 'fakes000000.png').read_bytes() == (tmp_path / 'again' / 'fakes000000.png').read_bytes()


def test_worker_processes_change_nothing(run, data, tmp_path):
    launch(small_config(data, tmp_path / 'workers', data_loader_kwargs=dict(num_workers=2, prefetch_factor=2)))
    one, other = state_of(final_pickle(run)), state_of(final_pickle(tmp_path / 'workers'))
    assert all(torch.equal(one[key], other[key]) for key in one)


# ---------------------------------------------------------------------------------------------------------------------
# Ranks and accumulation


def test_two_processes_train_with_equal_parameters(data, tmp_path):
    # A snapshot compares all ranks with rank 0, and raises where they differ.
    launch(small_config(data, tmp_path / 'two', num_gpus=2, batch_gpu=4))
    rows = [json.loads(line) for line in (tmp_path / 'two' / 'stats.jsonl').read_text().splitlines()]
    assert rows[1]['Loss/D/loss']['num'] == 32  # of both ranks together
    assert rows[1]['Progress/tick']['num'] == 1  # of rank 0 alone


def test_torchrun(data, tmp_path):
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node=2',
        ROOT / 'train.py',
        '--outdir',
        tmp_path / 'runs',
        '--data',
        data,
        '--cfg=tiny',
        '--kimg=1',
        '--cbase=128',
        '--cmax=8',
        '--batch=16',
        '--mbstd-group=4',
        '--cond=1',
        '--device=cpu',
        '--workers=0',
        '--metrics=none',
        '--tick=1',
        '--snap=1',
    ]
    result = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    (run_dir,) = (tmp_path / 'runs').iterdir()
    assert run_dir.name.startswith('00000-patches-cond-tiny')
    assert (run_dir / 'network-snapshot-000001.pkl').is_file()
    options = json.loads((run_dir / 'training_options.json').read_text())
    assert options['num_gpus'] == 2 and options['batch_gpu'] == 8
    assert (run_dir / 'log.txt').read_text().count('Training is complete.') == 1


def networks_that_mix_no_samples():
    torch.manual_seed(0)
    sizes = dict(channel_base=128, channel_max=8)
    G = Generator(
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=16,
        img_channels=1,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(use_noise=False, **sizes),
    )
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=1, epilogue_kwargs=dict(mbstd_num_channels=0), **sizes)
    return G.train().requires_grad_(False), D.train().requires_grad_(False)


METHODS = {
    'nonsaturating': (StyleGAN2Loss, {}),
    'relativistic': (RelativisticLoss, dict(r2_gamma=0.5)),
    'lecam': (StyleGAN2Loss, dict(lecam_weight=0.3)),
    'bcr': (StyleGAN2Loss, dict(bcr_weights=(3, 5))),
    'insgen': (StyleGAN2Loss, dict(insgen_weights=(3, 5), insgen_queue=7)),
}

LECAM_STATE = {
    f'lecam_{name}': torch.tensor(value) for name, value in (('real', 2.0), ('fake', -1.0), ('batches', 1.0))
}


def gradients_of_phases(world, num_rounds, method='nonsaturating'):
    """Gradients of Gmain, Dmain and Dreg on this rank's share of eight images, before any step."""
    G, D = networks_that_mix_no_samples()
    torch.manual_seed(1)
    z, real, c = torch.randn(8, 8), torch.randn(8, 1, 16, 16), torch.zeros(8, 0)
    share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    size = 8 // world.size // num_rounds
    rounds = [
        dict(gen_z=zs, gen_c=cs, real_img=xs, real_c=cs)
        for zs, xs, cs in zip(z[share].split(size), real[share].split(size), c[share].split(size))
    ]
    make_loss, kwargs = METHODS[method]
    loss = make_loss('cpu', G, D, style_mixing_prob=0, r1_gamma=1, **kwargs)
    for regularizer in loss.regularizers:
        regularizer.load_state_dict(LECAM_STATE)
        regularizer.transform = lambda images: images.flip(3)  # the same for all ranks
    if loss.instances is not None:
        loss.other_view = lambda images, c, z: images.flip(3).detach()
        for kind, queue in loss.instances.queues.items():
            queue.normal_()
            loss.instances.counts[kind].fill_(len(queue))
    gradients = {}
    for name, module in (('Gmain', G), ('Dmain', D), ('Dreg', D)):
        phase = Phase(name, module, torch.optim.SGD(module.parameters(), lr=0), interval=16 if name == 'Dreg' else 1)
        run_phase(phase, loss, rounds, world)
        gradients[name] = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    return gradients


def save_gradients(world, path, methods):
    torch.save({method: gradients_of_phases(world, 1, method) for method in methods}, f'{path}/{world.rank}.pt')


def assert_same_gradients(actual, expected):
    for phase in expected:
        for a, b in zip(actual[phase], expected[phase], strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max()) + 1e-12), phase


@pytest.mark.parametrize('size, methods', [(2, tuple(METHODS)), (4, ('nonsaturating',))], ids=['two', 'four'])
def test_gradients_of_ranks_are_those_of_the_whole_batch(tmp_path, size, methods):
    launcher.launch(save_gradients, size, 'cpu', str(tmp_path), methods)
    of_ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in range(size)]
    for method in methods:
        alone = gradients_of_phases(distributed.World(0, 1, torch.device('cpu')), 1, method)
        first = of_ranks[0][method]
        for gradients in (of_rank[method] for of_rank in of_ranks):
            for phase in gradients:  # to the bit, or the ranks would drift apart
                assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients[phase], first[phase])), method
            assert_same_gradients(gradients, alone)


@pytest.mark.parametrize('method', METHODS)
def test_gradients_of_accumulated_rounds_are_those_of_the_whole_batch(method):
    world = distributed.World(0, 1, torch.device('cpu'))
    assert_same_gradients(gradients_of_phases(world, 4, method), gradients_of_phases(world, 1, method))


def test_lazy_regularization_corrects_rates_and_betas(data, tmp_path):
    config = small_config(data, tmp_path, G_reg_interval=4, D_reg_interval=None)
    G, D = networks_that_mix_no_samples()
    phases = build_phases(G, D, config)
    assert [(phase.name, phase.interval) for phase in phases] == [('Gmain', 1), ('Greg', 4), ('Dboth', 1)]
    assert phases[0].optimizer is phases[1].optimizer
    group_G, group_D = phases[0].optimizer.param_groups[0], phases[2].optimizer.param_groups[0]
    assert group_G['lr'] == pytest.approx(0.0025 * 4 / 5) and group_D['lr'] == 0.0025
    assert group_G['betas'] == pytest.approx((0, 0.99**0.8)) and group_D['betas'] == (0, 0.99)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation and resume


@pytest.mark.parametrize('target, moves', [(-2, True), (2, False)])
def test_ada_moves_towards_its_target(data, tmp_path, target, moves):
    launch(small_config(data, tmp_path / 'run', ada_target=target, ada_kimg=0.16))
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'stats.jsonl').read_text().splitlines()]
    # 10 batches of 8, adjusted after the 4th and the 8th, 32 / 160 at a time.
    assert rows[-1]['Progress/augment']['mean'] == pytest.approx(0.4 if moves else 0)


def test_a_strength_that_stays_large_is_a_warning_once(data, tmp_path, capfd):
    config = small_config(data, tmp_path / 'run', ada_target=-2, augment_p=0.9, ada_kimg=0.16)
    config.kimg_per_tick, config.total_kimg = 0.008, 0.096
    launch(config)
    assert capfd.readouterr().out.count('Warning: the augmentation strength has been above 0.8 for 4 ticks') == 1
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'stats.jsonl').read_text().splitlines()]
    assert rows[-1]['Progress/augment']['mean'] == 1


def test_fixed_strength_and_none(data, tmp_path):
    launch(small_config(data, tmp_path / 'fixed', ada_target=None, augment_p=0.25))
    launch(small_config(data, tmp_path / 'none', ada_target=None, augment_kwargs=None))
    fixed, none = (legacy.open_network(str(final_pickle(tmp_path / name))) for name in ('fixed', 'none'))
    assert float(fixed['augment_pipe'].p) == 0.25 and none['augment_pipe'] is None


def test_resume_takes_the_weights(run, data, tmp_path):
    launch(
        small_config(
            data,
            tmp_path / 'resumed',
            resume_pkl=str(final_pickle(run)),
            total_kimg=0.008,
            G_opt_kwargs=dict(class_name='torch.optim.Adam', lr=0.0, betas=[0, 0.99], eps=1e-8),
        )
    )
    source, resumed = state_of(final_pickle(run)), state_of(final_pickle(tmp_path / 'resumed'))
    assert all(torch.equal(source[key], resumed[key]) for key in source if key.startswith('G.') and 'w_avg' not in key)
    assert not torch.equal(source['D.b16.conv0.weight'], resumed['D.b16.conv0.weight'])


@pytest.mark.parametrize('num_gpus', [1, 2])
def test_resume_from_a_network_without_matching_weights_is_one_sentence(run, data, tmp_path, num_gpus):
    config = small_config(data, tmp_path / 'run', resume_pkl=str(final_pickle(run)), num_gpus=num_gpus)
    sizes = dict(channel_base=64, channel_max=4)
    config.G_kwargs = dict(config.G_kwargs, z_dim=6, w_dim=6, synthesis_kwargs=sizes)
    config.D_kwargs = dict(config.D_kwargs, **sizes)
    with pytest.raises(
        ValueError, match=r'^none of the weights in .*\.pkl match this run by name and shape: .*--cbase'
    ):
        launch(config)


def test_resume_without_labels_starts_from_the_mean_of_the_classes(run, data, tmp_path):
    config = small_config(
        data,
        tmp_path / 'run',
        resume_pkl=str(final_pickle(run)),
        total_kimg=0.008,
        G_opt_kwargs=dict(class_name='torch.optim.Adam', lr=0.0, betas=[0, 0.99], eps=1e-8),
    )
    config.training_set_kwargs = dict(config.training_set_kwargs, use_labels=False)
    launch(config)
    source, resumed = state_of(final_pickle(run)), state_of(final_pickle(tmp_path / 'run'))
    assert torch.equal(resumed['G.synthesis.b16.conv1.weight'], source['G.synthesis.b16.conv1.weight'])
    assert resumed['G.mapping.fc0.weight'].shape != source['G.mapping.fc0.weight'].shape
    log = (tmp_path / 'run' / 'log.txt').read_text()
    assert 'The networks were conditional: they start from the mean of the 3 classes.' in log
    assert 'start from random values' not in log


def test_resume_at_another_resolution_takes_the_lower_blocks(run, data, tmp_path):
    doubled = tmp_path / 'doubled'
    doubled.mkdir()
    for path in data.rglob('*.png'):
        PIL.Image.open(path).resize((2 * RESOLUTION, 2 * RESOLUTION)).save(doubled / path.name)
    config = small_config(
        doubled,
        tmp_path / 'run',
        resume_pkl=str(final_pickle(run)),
        total_kimg=0.008,
        G_opt_kwargs=dict(class_name='torch.optim.Adam', lr=0.0, betas=[0, 0.99], eps=1e-8),
    )
    config.training_set_kwargs = dict(config.training_set_kwargs, use_labels=False)
    launch(config)
    source, resumed = state_of(final_pickle(run)), state_of(final_pickle(tmp_path / 'run'))
    assert torch.equal(resumed['G.synthesis.b16.conv1.weight'], source['G.synthesis.b16.conv1.weight'])
    assert 'The images change from 16x16 to 32x32.' in (tmp_path / 'run' / 'log.txt').read_text()


# ---------------------------------------------------------------------------------------------------------------------
# Grids and pickles


def test_grid_has_a_row_per_label(data):
    dataset = ImageFolderDataset(str(data), use_labels=True)
    pixels, labels = snapshots.pick_grid_images(dataset, grid_size=(4, 5), seed=0)
    assert pixels.shape == (20, 3, 16, 16) and pixels.dtype == np.uint8
    assert labels.argmax(axis=1).reshape(5, 4).tolist() == [[row % 3] * 4 for row in range(5)]
    for row in range(5):  # No image twice, even where a label has a second row.
        for other in range(row % 3, row, 3):
            cells = np.concatenate([pixels[row * 4 : row * 4 + 4], pixels[other * 4 : other * 4 + 4]])
            assert len(np.unique(cells.reshape(8, -1), axis=0)) == 8


def test_grid_of_labels_that_are_no_classes(tmp_path):
    """Each image has a label of its own, and a row of one label would show one image."""
    pictures = np.random.default_rng(0).integers(0, 256, [20, 3, 8, 12], dtype=np.uint8)
    data = stand_ins.write_zip(tmp_path / 'data.zip', pictures, labels=[[index / 20, 0.5] for index in range(20)])
    pixels, labels = snapshots.pick_grid_images(ImageFolderDataset(str(data), use_labels=True), (4, 5), seed=0)
    assert sorted(labels[:, 0].tolist()) == sorted(np.float32(index / 20) for index in range(20))
    for picture, label in zip(pixels, labels):
        assert np.array_equal(picture, pictures[round(label[0] * 20)])


def test_grid_sizes_of_images_that_are_not_square():
    assert snapshots.grid_size_for([256, 512], torch.device('cuda')) == (15, 16)
    assert snapshots.grid_size_for([512, 256], torch.device('cuda')) == (30, 8)


def test_grid_sizes():
    assert snapshots.grid_size_for(1024, torch.device('cuda')) == (7, 4)
    assert snapshots.grid_size_for(256, torch.device('cuda')) == (30, 16)
    assert snapshots.grid_size_for(32, torch.device('cuda')) == (32, 32)
    assert snapshots.grid_size_for(32, torch.device('cpu')) == (12, 10)
    assert snapshots.grid_size_for(1024, torch.device('cpu')) == (7, 4)


def test_a_pickle_that_cannot_be_written_leaves_nothing(tmp_path):
    G, _D = networks_that_mix_no_samples()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        snapshots.save_network_pickle(tmp_path / 'network.pkl', dict(G=G), {}, extra=lambda: None)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong on the way


def small_command(*args):
    """train.py on 16x16 images with small networks, as a list of words."""
    return [
        sys.executable,
        ROOT / 'train.py',
        '--cfg=tiny',
        '--cbase=128',
        '--cmax=8',
        '--batch=16',
        '--tick=1',
        '--device=cpu',
        '--metrics=none',
        *args,
    ]


@pytest.mark.parametrize('workers, num_gpus', [(0, 1), (2, 1), (1, 2)])
def test_an_image_that_is_found_damaged_late_is_one_sentence(data, tmp_path, workers, num_gpus):
    damaged = shutil.copytree(data, tmp_path / 'damaged')
    path = sorted(damaged.rglob('*.png'))[-1]
    path.write_bytes(path.read_bytes()[:60])  # With a sound header: only decoding fails.
    command = small_command(
        f'--outdir={tmp_path / "runs"}',
        f'--data={damaged}',
        '--kimg=1',
        '--snap=100',
        f'--workers={workers}',
        f'--gpus={num_gpus}',
        '--strict-data=1',
        '--verify-data=headers',
    )
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert result.returncode == 1
    assert result.stderr.startswith('Error: ') and result.stderr.count('\n') == 1, result.stderr
    assert path.name in result.stderr and '--skip-bad' in result.stderr


@pytest.mark.parametrize(
    'error, words',
    [
        (torch.cuda.OutOfMemoryError('CUDA out of memory.'), 'the GPU is too small for 4 .*: add --batch-gpu=2 or 1'),
        (MemoryError(), 'this machine is too small for 4 .*: add --batch-gpu=2 or 1'),
        (
            RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that'),
            r'A process that reads images has ended \(process 7 is killed by signal: Bus error\), .*--workers',
        ),
        (
            RuntimeError('DataLoader worker (pid(s) 7, 8) exited unexpectedly'),
            r'has ended \(process 7, 8 exited unexpectedly\), .*--workers',
        ),
        (
            RuntimeError('DataLoader worker (pid 7) exited unexpectedly with exit code 3. Details are lost.'),
            r'has ended \(process 7 exited unexpectedly with exit code 3\), .*--workers',
        ),
    ],
)
def test_lack_of_memory_is_one_sentence(data, tmp_path, monkeypatch, error, words):
    def fail(*_args):
        raise error

    monkeypatch.setattr('training.training_loop.run_phase', fail)
    with pytest.raises(ValueError, match=words):
        launch(small_config(data, tmp_path))


def test_a_connection_that_breaks_by_itself_stays_what_it_is(data, tmp_path, monkeypatch):
    def fail(*_args):
        raise ConnectionResetError('by the peer')

    monkeypatch.setattr('training.training_loop.run_phase', fail)
    monkeypatch.setattr('training.run.errors._WORKER_EXIT_SEC', 0.1)
    with pytest.raises(ConnectionResetError, match='by the peer'):
        launch(small_config(data, tmp_path))
