"""The launcher and its collectives, in real processes."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from torch_utils import distributed, launcher


def _collectives(world, path):
    parameters = [torch.nn.Parameter(torch.full([2], float(world.rank))), torch.nn.Parameter(torch.zeros(3))]
    unused = torch.nn.Parameter(torch.zeros(1))
    parameters[0].grad = torch.tensor([1.0, 3.0]) * (world.rank + 1)
    parameters[1].grad = torch.tensor([float('nan'), float('inf'), float('-inf')])
    flat = distributed.flatten_gradients([*parameters, unused])
    nonfinite = distributed.average_gradients(world, flat)
    assert nonfinite == 1 and distributed.average_gradients(world, distributed.flatten_gradients([unused])) == 0
    assert parameters[1].grad.data_ptr() == flat[2:].data_ptr() and not any(flat[2:3])
    received = distributed.broadcast_object(world, {'rank': world.rank})
    distributed.broadcast_tensors(world, [p.data for p in parameters])
    torch.save(
        dict(
            world=(world.rank, world.size, str(world.device)),
            main=world.is_main,
            received=received,
            grads=[p.grad for p in parameters],
            unused=unused.grad,
            value=parameters[0].data,
        ),
        f'{path}/{world.rank}.pt',
    )


@pytest.mark.parametrize('size', [1, 2, 4])
def test_collectives(tmp_path, size):
    launcher.launch(_collectives, size, 'cpu', str(tmp_path))
    for rank in range(size):
        result = torch.load(tmp_path / f'{rank}.pt')
        assert result['world'] == (rank, size, 'cpu') and result['main'] == (rank == 0)
        assert result['received'] == {'rank': 0}
        factor = sum(range(1, size + 1)) / size
        assert result['grads'][0].tolist() == [factor, 3 * factor]
        assert result['grads'][1].tolist() == [0, 1e5, -1e5]
        assert result['unused'] is None
        assert result['value'].tolist() == [0, 0]


def _differing(world):
    tensors = [('same', torch.tensor([1.0, float('nan')])), ('other', torch.tensor([float(world.rank)]))]
    distributed.check_equal_over_ranks(world, tensors[:1], 'G')
    distributed.check_equal_over_ranks(world, tensors, 'G')


def test_tensors_that_differ_are_named():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match='G: 1 tensors of rank 1 differ.*other'):
        launcher.launch(_differing, 2, 'cpu')


def _fails_on_one(world, kind):
    if world.rank == 1:
        raise kind('rank one has had enough')
    torch.distributed.barrier()


def test_a_rank_that_fails_ends_all_with_its_error():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match='rank one has had enough'):
        launcher.launch(_fails_on_one, 2, 'cpu', KeyError)


def test_the_sentence_of_a_users_mistake_arrives_as_it_is():
    with pytest.raises(ValueError, match='^rank one has had enough$'):
        launcher.launch(_fails_on_one, 2, 'cpu', ValueError)


def _waits_at_the_barrier_for_a_failed_one(world):
    try:
        _fails_on_one(world, ValueError)
    except RuntimeError:  # From the barrier, as the other rank has left the group.
        raise KeyError('a consequence') from None


def test_the_sentence_arrives_although_another_rank_fails_of_it_first():
    with pytest.raises(ValueError, match='^rank one has had enough$'):
        launcher.launch(_waits_at_the_barrier_for_a_failed_one, 2, 'cpu')


def _is_killed_on_one(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def test_a_killed_process_is_a_sentence():
    with pytest.raises(ValueError, match=r'^Process 1 of 2 was killed by the system \(signal 9\)'):
        launcher.launch(_is_killed_on_one, 2, 'cpu')


def _sleeps(world, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)


def test_an_interrupt_of_the_starting_process_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, 'GRACE_SEC', 0.1)

    def interrupt_once_all_are_up():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_all_are_up, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        launcher.launch(_sleeps, 2, 'cpu', str(tmp_path))
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def _fails_together(world, folder):
    texts = []
    for error in (ValueError('a sentence.'), KeyError('a bug'), None):
        try:
            with distributed.failing_together(world):
                if world.rank == 1 and error is not None:
                    raise error
        except Exception as caught:
            texts.append(f'{type(caught).__name__}: {caught}')
    gathered = distributed.gather_to_main(world, torch.tensor([world.rank]))
    total = torch.tensor(world.rank + 1.0)
    distributed.sum_tensors(world, [total])
    (folder / str(world.rank)).write_text(json.dumps([texts, [int(t) for t in gathered], float(total)]))


def test_what_fails_on_one_rank_fails_on_all(tmp_path):
    launcher.launch(_fails_together, 2, 'cpu', tmp_path)
    of_main, of_other = (json.loads((tmp_path / name).read_text()) for name in '01')
    assert of_main == [['ValueError: a sentence.', "RuntimeError: rank 1 failed with KeyError: 'a bug'"], [0, 1], 3.0]
    assert of_other == [['ValueError: a sentence.', "KeyError: 'a bug'"], [], 3.0]


def test_a_single_process_fails_by_itself():
    alone = distributed.World(0, 1, torch.device('cpu'))
    with pytest.raises(KeyError), distributed.failing_together(alone):
        raise KeyError('a bug')
