"""The training loop: real images, phases, moving average, augmentation strength; then snapshots and metrics.

`launch(config)` starts or joins the processes. Each of them runs `training_loop`, which prepares a run and trains it in
`_train`, batch by batch and tick by tick. With `launch(config, resume=True)`, a run that was interrupted continues from
its newest training state.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from dnnlib.files import locked_folder
from dnnlib.log import Logger
from dnnlib.signals import Request, SignalWatch
from dnnlib.text import message_line
from torch_utils import distributed, images, launcher, misc, precision, training_stats
from torch_utils.distributed import World
from training import setup
from training.batches import TrainingBatches
from training.config import TrainingConfig
from training.cuda_graphs import PhaseGraphs
from training.dataset import ImageFolderDataset
from training.ema import ema_decay, update_ema
from training.phases import build_phases, run_phase
from training.power_averages import PowerAverages
from training.run import appended_files, checkpoint, moments, snapshots
from training.run.checkpoint import Checkpoint
from training.run.efficiency import Efficiency
from training.run.errors import expected_errors_explained
from training.run.saver import Saver
from training.run.state import Counters, TrainingRun, run_dir_of
from training.run.stats_writer import RunStatistics
from training.run.tracking import FINISHED, STOPPED, Tracking
from training.transfer_options import FROM_NETWORK_FILE
from training.validation import Validation

# (world, G, run directory, network pickle) → values of the metrics by name, on the main rank
SnapshotMetrics = Callable[[World, torch.nn.Module, str, str], dict[str, float]]
# (G, run directory, images shown); called on the main rank
SnapshotReport = Callable[[torch.nn.Module, str, int], None]


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def launch(
    config: TrainingConfig,
    snapshot_metrics: SnapshotMetrics | None = None,
    resume: bool = False,
    snapshot_report: SnapshotReport | None = None,
) -> bool:
    """Train a run in all its processes, and return when training has ended.

    Args:
        config: Configuration of the run. Its `run_dir` exists on the machine of the main rank.
        snapshot_metrics: Picklable function that all ranks call after each network snapshot. It reports its own errors.
        resume: Continue from the newest training state in `run_dir`; from the beginning if there is none.
        snapshot_report: Picklable function that the main rank calls after each snapshot. It reports its own errors.

    Returns:
        True if training is complete; False if a signal has stopped it (`dnnlib.signals`), with everything saved.

    Raises:
        RuntimeError: Training itself has failed.
    """
    return launcher.launch(
        _train_process,
        config.num_gpus,
        config.device,
        config,
        snapshot_metrics,
        resume,
        snapshot_report,
        handles_signals=True,
    )


def join(num_gpus: int, device: str) -> bool:
    """Join a run that is resumed under `torchrun`, in every process but the first, which provides the arguments."""
    return launcher.launch(_train_process, num_gpus, device, None, None, None, None, handles_signals=True)


def _train_process(
    world: World,
    config: TrainingConfig | None,
    snapshot_metrics: SnapshotMetrics | None,
    resume: bool | None,
    snapshot_report: SnapshotReport | None,
) -> bool:
    from_main: Any = distributed.broadcast_object(world, (config, snapshot_metrics, resume))
    run_dir = from_main[0].run_dir
    if config is None:
        config, snapshot_metrics, resume = from_main
        assert config is not None
    # Pickles record which strings are the same object. Parsing makes their bytes the same in new and resumed runs.
    config = TrainingConfig.from_json(config.to_json())
    config = dataclasses.replace(config, run_dir=run_dir)
    if config.resume_pkl is not None:  # which only the main rank has read, and which decides on these
        config = dataclasses.replace(config, **{name: getattr(from_main[0], name) for name in FROM_NETWORK_FILE})
    training_stats.reset()
    if world.is_distributed:
        training_stats.init_multiprocessing(world.rank, world.device)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(SignalWatch(announce=not world.is_distributed))
        with distributed.failing_together(world):
            if world.is_main:
                stack.enter_context(locked_folder(run_dir_of(config).path))
                log = stack.enter_context(Logger(run_dir_of(config).log_txt, 'a'))
                stack.enter_context(_last_error_logged(log))
        with expected_errors_explained(config):
            state = _load_checkpoint(world, config) if resume else None
            return training_loop(world, config, watch, snapshot_metrics, state, snapshot_report)


@contextlib.contextmanager
def _last_error_logged(log: Logger) -> Iterator[None]:
    """Within this context, an error is also written to the log, which is closed when the error is printed."""
    try:
        yield
    except Exception as error:
        log.write(f'Error: {message_line(error)}\n')
        raise


def _load_checkpoint(world: World, config: TrainingConfig) -> Checkpoint | None:
    """Collective: return the newest training state, and rewind the files of the run to it. None if there is none."""
    newest = None
    with distributed.failing_together(world):
        if world.is_main:
            run_dir = run_dir_of(config)
            newest = checkpoint.load_newest(run_dir)
            if newest is not None:
                newest[1].check_progress(newest[0], config)
            appended_files.rewind(run_dir, {} if newest is None else newest[1].content['files'])
            config.save(run_dir.options_json)
            if newest is None:
                print(f'{run_dir.path} has no training state yet: training starts from the beginning.')
            else:
                path, state = newest
                print(f'Resuming from {path}, after {state.counters().cur_nimg / 1000:g} kimg')
                state.print_differences(world)
    return distributed.broadcast_object(world, None if newest is None else newest[1])


# ---------------------------------------------------------------------------------------------------------------------
# Preparation


def training_loop(
    world: World,
    config: TrainingConfig,
    watch: SignalWatch,
    snapshot_metrics: SnapshotMetrics | None = None,
    state: Checkpoint | None = None,
    snapshot_report: SnapshotReport | None = None,
) -> bool:
    """Train until `total_kimg`, or until a signal requests to stop.

    Args:
        world: Rank of this process among all.
        config: Configuration of the run; its `run_dir` exists on the main rank.
        watch: Collects the signals that this process gets.
        snapshot_metrics: See `launch`.
        state: Training state to continue from. None: start from the beginning.
        snapshot_report: See `launch`.

    Returns:
        See `launch`.
    """
    counters = Counters.at_start(config) if state is None else state.counters()
    if counters.is_complete(config):
        if world.is_main:
            shown_kimg = counters.cur_nimg / 1000
            print(f'\nTraining is complete: it has shown {shown_kimg:g} of {config.total_kimg:g} kimg.')
        return True

    # Load the dataset.
    _seed_everything(world, config, counters.cur_nimg)
    batches = TrainingBatches(world, config, counters.cur_nimg, watch.workers.init_worker)
    setup.check_same_on_all_ranks(world, config, batches.dataset)

    # Construct the networks.
    resume_pkl = config.resume_pkl if state is None else None
    G, D, G_ema = setup.build_networks(world, config, batches.dataset, resume_pkl)
    if world.is_main and state is None:
        _print_summary(world, config, batches.dataset, G, D)

    # Prepare the image grid; a new run writes its first images.
    fakes_grid = None
    if world.is_main:
        fakes_grid = _prepare_fakes_grid(config, batches, G_ema, is_new=state is None)

    # Construct the rest of the run, and restore its state.
    run = _build_run(world, config, counters, batches.dataset, dict(G=G, D=D, G_ema=G_ema))
    dataset = batches.dataset
    saver = Saver(run, dataset.class_names, fakes_grid, dataset.classes_without_images)
    if state is not None:
        state.restore(run)
    elif config.resume_optimizer:
        moments.take_from_file(run)

    with run.statistics.tracking.failing_with_run():
        _train(run, batches, saver, watch, snapshot_metrics, snapshot_report)
    return _finish(run, saver)


def _finish(run: TrainingRun, saver: Saver) -> bool:
    """Say how the run has ended, there and in its trackers; return whether training is complete."""
    run.statistics.close()
    complete = run.counters.is_complete(run.config)
    if run.world.is_main:
        print('\nTraining is complete.' if complete else f'\n{saver.stop_message()}')
    run.statistics.tracking.finish(FINISHED if complete else STOPPED)
    return complete


def _seed_everything(world: World, config: TrainingConfig, cur_nimg: int) -> None:
    seed = (config.random_seed + cur_nimg) * world.size + world.rank
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark and not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS is deterministic only with this
    precision.allow_tensor_float32(config.allow_tf32)


def _print_summary(world: World, config: TrainingConfig, dataset: ImageFolderDataset, G: Any, D: Any) -> None:
    batch_size = min(config.batch_gpu, 4)
    z = torch.empty([batch_size, G.z_dim], device=world.device)
    c = torch.zeros([batch_size, G.c_dim], device=world.device)
    with torch.no_grad():
        fakes = misc.print_module_summary(copy.deepcopy(G).eval(), [z.normal_(), c])
        misc.print_module_summary(copy.deepcopy(D).eval(), [fakes, c])
    print(f'Images: {len(dataset)} of shape {dataset.image_shape}, labels of shape {dataset.label_shape}')
    print(f'Training for {config.total_kimg} kimg on {world.size} x {world.device.type}')
    print()


def _prepare_fakes_grid(
    config: TrainingConfig, batches: TrainingBatches, G_ema: torch.nn.Module, is_new: bool
) -> snapshots.FakesGrid:
    """Return the image grid for snapshots. A new run also gets the grids of real images and of the initial fakes."""
    run_dir, dataset = run_dir_of(config), batches.dataset
    grid_size = snapshots.grid_size_for(dataset.resolution, next(G_ema.parameters()).device)
    reals, labels = snapshots.pick_grid_images(
        dataset, grid_size, config.random_seed, read=lambda index: batches.readable[index][:2]
    )
    fakes_grid = snapshots.FakesGrid(G_ema, labels, grid_size, config.batch_gpu, config.random_seed)
    if is_new:
        images.save_image_grid(reals, run_dir.reals_png, grid_size=grid_size)
        fakes_grid.save(run_dir.fakes_init_png)
    return fakes_grid


def _build_run(
    world: World,
    config: TrainingConfig,
    counters: Counters,
    dataset: ImageFolderDataset,
    networks: dict[str, torch.nn.Module],
) -> TrainingRun:
    augment_pipe, ada = setup.build_augmentation(config, world.device)
    G, D = networks['G'], networks['D']
    pseudo, apa = setup.build_pseudo_augmentation(config, world.device)
    loss = setup.build_loss(config, world.device, G, D, augment_pipe, pseudo)
    phases = build_phases(G, D, config)
    validation = None if config.validation_set_kwargs is None else Validation(world, config)
    efficiency = Efficiency(world, config, dataset)
    tracking = Tracking(config if world.is_main else None)
    statistics = RunStatistics(run_dir_of(config), world, config.total_kimg, counters.cur_nimg, efficiency, tracking)
    graphs = PhaseGraphs(loss, world.device) if config.cuda_graphs else None
    averages = None
    if config.posthoc_ema is not None and world.is_main:
        averages = PowerAverages(G, config.posthoc_ema)
    return TrainingRun(
        world,
        config,
        counters,
        networks,
        phases,
        loss,
        augment_pipe,
        ada,
        statistics,
        apa,
        validation,
        graphs,
        averages,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def _train(
    run: TrainingRun,
    batches: TrainingBatches,
    saver: Saver,
    watch: SignalWatch,
    snapshot_metrics: SnapshotMetrics | None,
    snapshot_report: SnapshotReport | None,
) -> None:
    """Train until all images are shown and the last tick has ended, or until a signal requests to stop."""
    config, counters = run.config, run.counters
    G: Any = run.networks['G']
    G_ema = run.networks['G_ema']
    if counters.cur_nimg == counters.tick_start_nimg:
        run.statistics.start_tick()
    while True:
        if not counters.tick_is_open:
            # Fetch the next batch of real images.
            real_img, real_c = batches.next_real()

            # Run the training phases; before them, D sees held-out images.
            if run.validation is not None:
                run.validation.update(run.loss, counters.batch_idx, counters.cur_nimg)
            for phase in run.phases:
                if phase.is_due(counters.batch_idx):
                    pieces = batches.with_latents(real_img, real_c, G.z_dim)
                    run_phase(phase, run.loss, pieces, run.world, counters.cur_nimg, run.graphs)
            run.loss.end_batch(run.world)

            # Update the moving averages of the generator.
            update_ema(G_ema, G, ema_decay(config.batch_size, counters.cur_nimg, config.ema_kimg, config.ema_rampup))
            if run.averages is not None:
                run.averages.update(counters.cur_nimg, counters.cur_nimg + config.batch_size)
            counters.cur_nimg += config.batch_size
            counters.batch_idx += 1

            # Start to copy the next batch while the GPU works on this one.
            if not counters.all_images_shown(config):
                batches.start_next()

            # Adjust the augmentation strength.
            for controller in run.controllers:
                controller.update(counters.batch_idx)
            run.statistics.show_progress(counters.cur_nimg)

        # End the tick: status line, snapshots, metrics.
        done = counters.all_images_shown(config)
        is_first = counters.tick == 0  # a single batch, so that problems show up at once
        if done or is_first or counters.cur_nimg >= counters.tick_start_nimg + config.kimg_per_tick * 1000:
            batches.print_skipped(run.world)
            _end_tick(run, saver, watch, snapshot_metrics, snapshot_report, is_last=done)
            if done:
                return
            run.statistics.start_tick()

        # Save, or save and stop, if a signal requests it.
        request = distributed.largest_over_ranks(run.world, watch.take())
        if request != Request.NONE:
            saver.save_on_request(is_last=request == Request.STOP)
        if request == Request.STOP:
            return


def _end_tick(
    run: TrainingRun,
    saver: Saver,
    watch: SignalWatch,
    snapshot_metrics: SnapshotMetrics | None,
    snapshot_report: SnapshotReport | None,
    is_last: bool,
) -> None:
    """Write the status line, snapshots, metrics and statistics of a tick, in this order, then the state and the report.

    Metrics can take longer than the tick. So a state is also written before them; a run resumed from it
    computes them again. If a signal requests to stop before or during the metrics, the tick stays open.
    """
    config, counters = run.config, run.counters
    has_network = is_last or counters.tick % config.network_snapshot_ticks == 0
    has_images = is_last or counters.tick % config.image_snapshot_ticks == 0
    fit_to_save = saver.begin() if has_network or has_images else True

    if not counters.tick_is_open:
        # Print the status line.
        tick_nimg = counters.cur_nimg - counters.tick_start_nimg
        run.report_methods()
        run.statistics.end_tick(counters.tick, counters.cur_nimg, tick_nimg, run.augment_p)
        run.print_warnings()
        saver.check_divergence()

        # Save the network pickle and the image grid.
        if has_network:
            saver.save_network()
        if has_images:
            saver.save_images()

    # Compute the metrics.
    values: dict[str, float] = {}
    if has_network and fit_to_save and snapshot_metrics is not None:
        counters.tick_is_open = True
        saver.save_state()
        if distributed.largest_over_ranks(run.world, watch.take()) == Request.STOP:
            saver.finish(is_last=True)
            return
        network_pkl = run.run_dir.network_pkl(counters.cur_nimg)
        with watch.stopping_immediately(lambda: saver.stop_message() if run.world.is_main else ''):
            values = snapshot_metrics(run.world, run.networks['G_ema'], run.run_dir.path, network_pkl)

    # Write the statistics and the training state.
    run.statistics.write(counters.cur_nimg, values)
    counters.tick += 1
    counters.tick_start_nimg = counters.cur_nimg
    counters.tick_is_open = False
    if has_network:
        saver.save_state()
    if has_network or has_images:
        saver.finish(is_last)

    # Write the report.
    if has_network and snapshot_report is not None and run.world.is_main:
        snapshot_report(run.networks['G_ema'], run.run_dir.path, counters.cur_nimg)
