"""The training loop: data in, phases, moving average, ADA, snapshots, statistics.

`launch(config)` starts or joins the processes; each runs `training_loop(world, config)`, which
reads as the list of what happens to a batch. The parts have files of their own beside this one.
A run that was interrupted goes on from its newest training state with `launch(config, resume=True)`.
"""

import contextlib
import copy
import os
import warnings

import numpy as np
import torch

import dnnlib
from dnnlib import signals
from dnnlib.files import locked_folder
from dnnlib.log import Logger
from dnnlib.signals import Request
from torch_utils import distributed, images, misc, training_stats
from training import setup
from training.config import OPTIONS_FILE, TrainingConfig
from training.data.unreadable import ReadableImages, SkippedImages
from training.dataset import InfiniteSampler
from training.ema import ema_decay, update_ema
from training.phases import build_phases, run_phase
from training.run import checkpoint, snapshots
from training.run.checkpoint import Parts, Progress
from training.run.errors import errors_as_sentences
from training.run.saver import Saver
from training.run.stats_writer import RunStatistics


def launch(config, snapshot_metrics=None, resume=False):
    """Train as `config` says, in all its processes; returns when training ends.

    Args:
        config: `training.config.TrainingConfig`; its `run_dir` exists on the main rank.
        snapshot_metrics: Picklable function of (world, G, run_dir, network pickle) that all ranks call after each
            network snapshot; returns a dict of name → value on the main rank. What fails in it, it reports itself.
        resume: Go on from the newest training state in `run_dir`; from the beginning where there is none.

    Returns:
        True: the training is complete. False: a signal (`dnnlib.signals`) has stopped it, with everything saved.

    Raises:
        RuntimeError: where training itself fails.
    """
    return distributed.launch(
        _train_process, config.num_gpus, config.device, config, snapshot_metrics, resume, heeds_signals=True
    )


def join(num_gpus, device):
    """For the other processes of `torchrun` where a run goes on: the first one tells them what `launch` was told."""
    return distributed.launch(_train_process, num_gpus, device, None, None, None, heeds_signals=True)


def _train_process(world, config, snapshot_metrics, resume):
    of_main = distributed.broadcast_object(world, (config, snapshot_metrics, resume))
    run_dir = of_main[0].run_dir
    if config is None:
        config, snapshot_metrics, resume = of_main
    # A pickle shows which texts in it are one object: the same for a new run and for one whose options were read.
    config = TrainingConfig.from_json(config.to_json())
    training_stats.reset()
    if world.is_distributed:
        training_stats.init_multiprocessing(world.rank, world.device)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(signals.SignalWatch(announce=not world.is_distributed))
        with distributed.failing_together(world):
            if world.is_main:
                stack.enter_context(locked_folder(run_dir))
                log = stack.enter_context(Logger(os.path.join(run_dir, 'log.txt'), 'a'))
                stack.enter_context(_last_error_in(log))
        with errors_as_sentences(config):
            state = _take_up(world, config, run_dir) if resume else None
            return training_loop(world, config, run_dir, watch, snapshot_metrics, state)


@contextlib.contextmanager
def _last_error_in(log):
    """An error that leaves this context is in the log too: it is printed after the log is closed."""
    try:
        yield
    except Exception as error:
        log.write(f'Error: {error}\n')
        raise


def _take_up(world, config, run_dir):
    """The state that the run goes on from, on all ranks, with its files as they were then; None: from the beginning."""
    found = None
    with distributed.failing_together(world):
        if world.is_main:
            found = checkpoint.load_newest(run_dir)
            checkpoint.rewind(run_dir, {} if found is None else found[1]['files'])
            config.save(os.path.join(run_dir, OPTIONS_FILE))
            if found is None:
                print(f'{run_dir} has no training state yet: its training starts from the beginning.')
            else:
                path, state = found
                print(f'Resuming from {path}, after {state["progress"]["cur_nimg"] / 1000:g} kimg')
                checkpoint.print_differences(world, state)
    return distributed.broadcast_object(world, None if found is None else found[1])


# ------------------------------------------------------------------------------------------------
# Preparation


def _seed_everything(world, config, cur_nimg):
    seed = (config.random_seed + cur_nimg) * world.size + world.rank
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark and not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # What cuBLAS asks for.
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    torch.backends.cudnn.allow_tf32 = config.allow_tf32


def _load_dataset(world, config, cur_nimg, helpers):
    dataset = dnnlib.util.construct_class_by_name(**config.training_set_kwargs)
    readable = ReadableImages(dataset, strict=config.strict_data)
    sampler = InfiniteSampler(
        dataset, rank=world.rank, num_replicas=world.size, seed=config.random_seed, start=cur_nimg // world.size
    )
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='This DataLoader will create')  # More workers than cores.
        loader = torch.utils.data.DataLoader(
            readable,
            sampler=sampler,
            batch_size=config.batch_size // world.size,
            worker_init_fn=helpers.begin,
            **config.data_loader_kwargs,
        )
        return dataset, readable, iter(loader)


def _fakes_grid(config, run_dir, dataset, readable, G_ema, device, is_new):
    """The grid of fakes for the snapshots to come. A new run gets its reals.png and fakes_init.png here."""
    grid_size = snapshots.grid_size_for(dataset.resolution, device)
    reals, labels = snapshots.pick_grid_images(dataset, grid_size, config.random_seed, lambda i: readable[i][:2])
    fakes_grid = snapshots.FakesGrid(labels, grid_size, G_ema.z_dim, config.batch_gpu, config.random_seed, device)
    if is_new:
        images.save_image_grid(reals, os.path.join(run_dir, 'reals.png'), grid_size=grid_size)
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


def _real_batch(loader, skipped, device, batch_gpu):
    """Next real images as [-1, +1] floats, with labels, in pieces of `batch_gpu`."""
    pixels, labels, complaints = next(loader)
    skipped.note(complaints)
    real = pixels.to(device).to(torch.float32) / 127.5 - 1  # [N, C, H, W]
    return real.split(batch_gpu), labels.to(device).split(batch_gpu)


def _phase_batches(real_img, real_c, G, dataset, device):
    """The real pieces, each with fresh latents and labels for the generator."""
    count = sum(len(piece) for piece in real_img)
    sizes = [len(piece) for piece in real_img]
    gen_z = torch.randn([count, G.z_dim], device=device).split(sizes)
    gen_c = _random_labels(dataset, count, device).split(sizes)
    return [
        dict(real_img=img, real_c=c, gen_z=z, gen_c=gc)
        for img, c, z, gc in zip(real_img, real_c, gen_z, gen_c, strict=True)
    ]


# ------------------------------------------------------------------------------------------------
# The loop


def training_loop(world, config, run_dir, watch, snapshot_metrics=None, state=None):
    """Train until `total_kimg`, or until a signal asks to stop; all files of the run go to `run_dir`.

    Args:
        world: `torch_utils.distributed.World` of this process.
        config: `training.config.TrainingConfig`.
        run_dir: Existing directory.
        watch: `dnnlib.signals.SignalWatch` that knows what this process is asked for.
        snapshot_metrics: As in `launch`.
        state: Training state to go on from, as `checkpoint.read` gives it; None: from the beginning.

    Returns:
        As `launch`.
    """
    device = world.device
    progress = Progress() if state is None else Progress(**state['progress'])
    total_nimg = config.total_kimg * 1000
    if progress.cur_nimg >= total_nimg and not progress.tick_is_open:
        if world.is_main:
            print(f'\nTraining is complete: it has shown {progress.cur_nimg / 1000:g} of {config.total_kimg:g} kimg.')
        return True
    _seed_everything(world, config, progress.cur_nimg)
    dataset, readable, loader = _load_dataset(world, config, progress.cur_nimg, watch.helpers)
    setup.check_same_on_all_ranks(world, config, dataset)
    G, D, G_ema = setup.build_networks(world, config, dataset, config.resume_pkl if state is None else None)
    if world.is_main and state is None:
        _print_summary(world, config, dataset, G, D)

    augment_pipe, ada = setup.build_augmentation(config, device)
    loss = dnnlib.util.construct_class_by_name(device=device, G=G, D=D, augment_pipe=augment_pipe, **config.loss_kwargs)
    phases = build_phases(G, D, config)

    fakes_grid = None
    if world.is_main:
        fakes_grid = _fakes_grid(config, run_dir, dataset, readable, G_ema, device, is_new=state is None)
    statistics = RunStatistics(run_dir, world, config.total_kimg, progress.cur_nimg)
    parts = Parts(
        dict(G=G, D=D, G_ema=G_ema),
        {phase.name[0]: phase.optimizer for phase in phases},
        loss,
        augment_pipe,
        ada,
        statistics,
    )
    saver = Saver(world, config, run_dir, parts, phases, dataset, fakes_grid)
    skipped = SkippedImages()
    if state is not None:
        checkpoint.restore(world, parts, state)
    if progress.cur_nimg == progress.tick_start_nimg:
        statistics.start_tick()
    while True:
        if not progress.tick_is_open:
            real_img, real_c = _real_batch(loader, skipped, device, config.batch_gpu)
            for phase in phases:
                if phase.is_due(progress.batch_idx):
                    run_phase(phase, loss, _phase_batches(real_img, real_c, G, dataset, device), world)
            decay = ema_decay(config.batch_size, progress.cur_nimg, config.ema_kimg, config.ema_rampup)
            update_ema(G_ema, G, decay)
            progress.cur_nimg += config.batch_size
            progress.batch_idx += 1
            if ada is not None:
                ada.after_batch(progress.batch_idx)
            statistics.show_progress(progress.cur_nimg)

        done = progress.cur_nimg >= total_nimg
        first = progress.tick == 0  # A short one, so that a run shows at once whether it works.
        if done or first or progress.cur_nimg >= progress.tick_start_nimg + config.kimg_per_tick * 1000:
            skipped.print_new(world)
            _end_tick(world, config, run_dir, done, progress, parts, saver, watch, snapshot_metrics)
            if done:
                break
            statistics.start_tick()
        request = distributed.largest_over_ranks(world, watch.take())
        if request != Request.NONE:
            _save_as_asked(saver, progress, is_last=request == Request.STOP)
        if request == Request.STOP:
            break

    statistics.close()
    complete = done and not progress.tick_is_open
    if world.is_main:
        print('\nTraining is complete.' if complete else f'\n{saver.parting_words(progress)}')
    return complete


def _end_tick(world, config, run_dir, done, progress, parts, saver, watch, snapshot_metrics):
    """Snapshots, metrics and statistics of a tick, in this order, and after them the training state.

    Metrics can take longer than the tick. So a state is written before them too, from which they are computed again.
    Where a signal asks to stop before or during them, the tick stays open.
    """
    has_networks = done or progress.tick % config.network_snapshot_ticks == 0
    has_images = done or progress.tick % config.image_snapshot_ticks == 0
    is_sound = saver.begin() if has_networks or has_images else True
    if not progress.tick_is_open:
        augment_p = 0.0 if parts.augment_pipe is None else float(parts.augment_pipe.p)
        tick_nimg = progress.cur_nimg - progress.tick_start_nimg
        parts.statistics.end_tick(progress.tick, progress.cur_nimg, tick_nimg, config.total_kimg, augment_p)
        saver.check_finite()
        if has_networks:
            saver.save_network(progress.cur_nimg)
        if has_images:
            saver.save_images(progress.cur_nimg)

    values = {}
    if has_networks and is_sound and snapshot_metrics is not None:
        progress.tick_is_open = True
        saver.save_state(progress)
        if distributed.largest_over_ranks(world, watch.take()) == Request.STOP:
            saver.conclude(progress, is_last=True)
            return
        with watch.leaving_at_once(lambda: saver.parting_words(progress) if world.is_main else ''):
            values = snapshot_metrics(world, parts.networks['G_ema'], run_dir, saver.network_pkl(progress.cur_nimg))
    parts.statistics.write(progress.cur_nimg, values)
    progress.tick += 1
    progress.tick_start_nimg = progress.cur_nimg
    progress.tick_is_open = False
    if has_networks:
        saver.save_state(progress)
    if has_networks or has_images:
        saver.conclude(progress, is_last=done)


def _save_as_asked(saver, progress, is_last):
    """What a signal asks for: a network pickle and a training state, unless a snapshot has just written both."""
    if saver.saved_nimg != progress.cur_nimg:
        saver.begin()
        if not progress.tick_is_open:
            saver.save_network(progress.cur_nimg)
        saver.save_state(progress)
        saver.conclude(progress, is_last)
