"""The training loop: data in, phases, moving average, ADA, snapshots, statistics.

`launch(config)` starts or joins the processes; each runs `training_loop(world, config)`, which
reads as the list of what happens to a batch. The parts have files of their own beside this one.
"""

import contextlib
import copy
import os
import warnings

import numpy as np
import torch

import dnnlib
import legacy
from torch_utils import distributed, images, misc, training_stats
from training import snapshots
from training.ada import AdaController
from training.dataset import ImageError, InfiniteSampler
from training.ema import ema_decay, update_ema
from training.phases import build_phases, run_phase
from training.statistics import RunStatistics


def launch(config, snapshot_metrics=None):
    """Train as `config` says, in all its processes; returns when training ends.

    Args:
        config: `training.config.TrainingConfig`; its `run_dir` exists on the main rank.
        snapshot_metrics: Picklable function of (world, G, run_dir, network pickle) that all ranks call after each
            network snapshot; returns a dict of name → value on the main rank. What fails in it, it reports itself.

    Raises:
        RuntimeError: where training itself fails.
    """
    distributed.launch(_train_process, config.num_gpus, config.device, config, snapshot_metrics)


def _train_process(world, config, snapshot_metrics):
    run_dir = distributed.broadcast_object(world, config.run_dir)
    training_stats.reset()
    if world.is_distributed:
        training_stats.init_multiprocessing(world.rank, world.device)
    log = dnnlib.util.Logger(os.path.join(run_dir, 'log.txt'), 'a') if world.is_main else contextlib.nullcontext()
    with log, _errors_as_sentences(config):
        training_loop(world, config, run_dir, snapshot_metrics)


@contextlib.contextmanager
def _errors_as_sentences(config):
    """What other data, options or more memory help against becomes a ValueError that says so, raised here."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(f'The memory of the GPU is too small for {config.batch_gpu} images at once: use a smaller '
                         '--batch-gpu (which leaves the batch as it is), or a smaller --cbase or --cmax.') from error
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise ValueError('A process that reads images was killed, perhaps for want of memory: use fewer --workers, or '
                         'none (0), or give a container more shared memory (docker --ipc=host).') from error


# ------------------------------------------------------------------------------------------------
# Preparation

def _seed_everything(world, config):
    seed = config.random_seed * world.size + world.rank
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    torch.backends.cudnn.allow_tf32 = config.allow_tf32


def _load_dataset(world, config):
    dataset = dnnlib.util.construct_class_by_name(**config.training_set_kwargs)
    sampler = InfiniteSampler(dataset, rank=world.rank, num_replicas=world.size, seed=config.random_seed)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='This DataLoader will create')    # More workers than cores.
        loader = torch.utils.data.DataLoader(
            dataset, sampler=sampler, batch_size=config.batch_size // world.size, **config.data_loader_kwargs)
        return dataset, iter(loader)


def _construct_networks(config, dataset):
    common = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    G = dnnlib.util.construct_class_by_name(**config.G_kwargs, **common)
    D = dnnlib.util.construct_class_by_name(**config.D_kwargs, **common)
    return G, D


def _build_networks(world, config, dataset):
    """G, D and G_ema on the device, with the same weights on all ranks; from a pickle on a resume."""
    G, D = _construct_networks(config, dataset)
    for module in (G, D):
        module.train().requires_grad_(False).to(world.device)
    G_ema = copy.deepcopy(G).eval()
    if config.resume_pkl is not None and world.is_main:
        print(f'Resuming from "{config.resume_pkl}"')
        source = _open_source(config.resume_pkl, G, D)
        for name, module in dict(G=G, D=D, G_ema=G_ema).items():
            misc.copy_params_and_buffers(source[name], module, require_all=False)
            _print_fresh_parameters(name, source[name], module)
    for module in (G, D, G_ema):
        distributed.broadcast_tensors(world, misc.params_and_buffers(module))
    return G, D, G_ema


def check_resume(config, dataset):
    """Refuse a network to start from that is none, or does not fit, before anything is written.

    Raises click.BadParameter where the file cannot be opened, ValueError where it does not fit.
    """
    _open_source(config.resume_pkl, *_construct_networks(config, dataset))


def _open_source(url, G, D):
    """Content of the network pickle to start from, which has all that training needs, in the shapes of G and D."""
    source = legacy.open_network(url, option='--resume')
    for name, module in dict(G=G, D=D, G_ema=G).items():
        if source[name] is None:
            raise ValueError(f'--resume={url}: it has no {name}, but training goes on with G, D and G_ema; use a '
                             'snapshot of a training run')
        _check_shapes(name, source[name], module, url)
    return source


def _print_fresh_parameters(name, source, module):
    given = {key for key, _tensor in source.named_parameters()} | {key for key, _tensor in source.named_buffers()}
    fresh = [key for key, _tensor in module.named_parameters() if key not in given]
    if fresh:
        print(f'{name}: {len(fresh)} parameters are not in that network and start fresh: {fresh[0]} ... {fresh[-1]}')


def _check_shapes(name, source, module, url):
    wanted = {key: list(tensor.shape) for key, tensor in misc.named_params_and_buffers(module)}
    given = {key: list(tensor.shape) for key, tensor in misc.named_params_and_buffers(source)}
    for key in wanted:
        if key in given and wanted[key] != given[key]:
            raise ValueError(
                f'--resume={url}: its {name} has {key} of shape {given[key]}, this run {wanted[key]}; choose --cfg, '
                '--cbase, --cmax, --cond and the resolution of the dataset as that network has them')


def _build_augmentation(config, device):
    """The augmentation pipe and the controller of its strength; None for what the run goes without."""
    if config.augment_kwargs is None or (config.augment_p == 0 and config.ada_target is None):
        return None, None
    augment_pipe = dnnlib.util.construct_class_by_name(**config.augment_kwargs)
    augment_pipe.train().requires_grad_(False).to(device)
    augment_pipe.p.copy_(torch.as_tensor(config.augment_p))
    if config.ada_target is None:
        return augment_pipe, None
    return augment_pipe, AdaController(
        augment_pipe, config.ada_target, config.ada_interval, config.ada_kimg, config.batch_size)


def _save_first_grids(config, run_dir, dataset, G_ema, device):
    """Write reals.png and fakes_init.png; returns the grid of fakes for the snapshots to come."""
    grid_size = snapshots.grid_size_for(dataset.resolution, device)
    reals, labels = snapshots.pick_grid_images(dataset, grid_size, config.random_seed)
    images.save_image_grid(reals, os.path.join(run_dir, 'reals.png'), grid_size=grid_size)
    fakes_grid = snapshots.FakesGrid(labels, grid_size, G_ema.z_dim, config.batch_gpu, config.random_seed, device)
    fakes_grid.save(G_ema, os.path.join(run_dir, 'fakes_init.png'))
    return fakes_grid


def _print_summary(world, config, dataset, G, D):
    batch_gpu = min(config.batch_gpu, 4)
    z = torch.empty([batch_gpu, G.z_dim], device=world.device)
    c = torch.zeros([batch_gpu, G.c_dim], device=world.device)
    with torch.no_grad():
        fakes = misc.print_module_summary(copy.deepcopy(G).eval(), [z.normal_(), c])
        misc.print_module_summary(copy.deepcopy(D).eval(), [fakes, c])
    print(f'Images: {len(dataset)} of shape {dataset.image_shape}, labels of shape {dataset.label_shape}')
    print(f'Training for {config.total_kimg} kimg on {world.size} x {world.device.type}')
    print()


# ------------------------------------------------------------------------------------------------
# One batch

def _random_labels(dataset, count, device):
    """[count, c_dim] labels of images drawn at random."""
    labels = torch.from_numpy(np.stack([dataset.get_label(i) for i in np.random.randint(len(dataset), size=count)]))
    return labels.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else labels.to(device)


def _real_batch(loader, device, batch_gpu):
    """Next real images as [-1, +1] floats, with labels, in pieces of `batch_gpu`."""
    pixels, labels = next(loader)
    real = pixels.to(device).to(torch.float32) / 127.5 - 1                      # [N, C, H, W]
    return real.split(batch_gpu), labels.to(device).split(batch_gpu)


def _phase_batches(real_img, real_c, G, dataset, device):
    """The real pieces, each with fresh latents and labels for the generator."""
    count = sum(len(piece) for piece in real_img)
    sizes = [len(piece) for piece in real_img]
    gen_z = torch.randn([count, G.z_dim], device=device).split(sizes)
    gen_c = _random_labels(dataset, count, device).split(sizes)
    return [dict(real_img=img, real_c=c, gen_z=z, gen_c=gc)
            for img, c, z, gc in zip(real_img, real_c, gen_z, gen_c, strict=True)]


# ------------------------------------------------------------------------------------------------
# The loop

def training_loop(world, config, run_dir, snapshot_metrics=None):
    """Train until `total_kimg`; all files of the run go to `run_dir`.

    Args:
        world: `torch_utils.distributed.World` of this process.
        config: `training.config.TrainingConfig`.
        run_dir: Existing directory.
        snapshot_metrics: As in `launch`.
    """
    device = world.device
    _seed_everything(world, config)
    dataset, loader = _load_dataset(world, config)
    G, D, G_ema = _build_networks(world, config, dataset)
    if world.is_main:
        _print_summary(world, config, dataset, G, D)

    augment_pipe, ada = _build_augmentation(config, device)
    loss = dnnlib.util.construct_class_by_name(device=device, G=G, D=D, augment_pipe=augment_pipe, **config.loss_kwargs)
    phases = build_phases(G, D, config)

    fakes_grid = _save_first_grids(config, run_dir, dataset, G_ema, device) if world.is_main else None
    statistics = RunStatistics(run_dir, world, config.total_kimg)
    cur_nimg = batch_idx = tick = tick_start_nimg = 0
    statistics.start_tick()
    while True:
        real_img, real_c = _real_batch(loader, device, config.batch_gpu)
        for phase in phases:
            if phase.is_due(batch_idx):
                run_phase(phase, loss, _phase_batches(real_img, real_c, G, dataset, device), world)
        update_ema(G_ema, G, ema_decay(config.batch_size, cur_nimg, config.ema_kimg, config.ema_rampup))
        cur_nimg += config.batch_size
        batch_idx += 1
        if ada is not None:
            ada.after_batch(batch_idx)
        statistics.show_progress(cur_nimg)

        done = cur_nimg >= config.total_kimg * 1000
        first = tick == 0       # A short one, so that a run shows at once whether it works.
        if not (done or first or cur_nimg >= tick_start_nimg + config.kimg_per_tick * 1000):
            continue
        augment_p = float(augment_pipe.p) if augment_pipe is not None else 0.0
        statistics.end_tick(tick, cur_nimg, cur_nimg - tick_start_nimg, config.total_kimg, augment_p)
        network_pkl = _save_snapshots(world, config, run_dir, done, tick, cur_nimg, fakes_grid, dataset,
                                      dict(G=G, D=D, G_ema=G_ema, augment_pipe=augment_pipe))
        values = {}
        if network_pkl is not None and snapshot_metrics is not None:
            values = snapshot_metrics(world, G_ema, run_dir, network_pkl)
        statistics.write(cur_nimg, values)
        if done:
            break
        tick += 1
        tick_start_nimg = cur_nimg
        statistics.start_tick()

    statistics.close()
    if world.is_main:
        print('\nTraining is complete.')


def _save_snapshots(world, config, run_dir, done, tick, cur_nimg, fakes_grid, dataset, modules):
    """Image grid and network pickle where this tick is the turn of one; the path of the pickle, None without one."""
    name = f'{cur_nimg // 1000:06d}'

    def is_due(every_ticks):
        return every_ticks is not None and (done or tick % every_ticks == 0)

    network_pkl = None
    if is_due(config.network_snapshot_ticks):
        network_pkl = os.path.join(run_dir, f'network-snapshot-{name}.pkl')
        for module_name in ('G', 'D', 'G_ema'):
            # The running mean of W is each rank's own.
            tensors = misc.named_params_and_buffers(modules[module_name])
            shared = [(key, tensor) for key, tensor in tensors if not key.endswith('w_avg')]
            distributed.check_equal_over_ranks(world, shared, what=module_name)
        if world.is_main:
            extra = {} if dataset.class_names is None else dict(class_names=list(dataset.class_names))
            snapshots.save_network_pickle(network_pkl, modules, config.training_set_kwargs, **extra)
    if is_due(config.image_snapshot_ticks) and world.is_main:
        fakes_grid.save(modules['G_ema'], os.path.join(run_dir, f'fakes{name}.png'))
    return network_pkl
