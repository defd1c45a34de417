"""Training on two machines, which are two network namespaces here."""

import pytest


@pytest.mark.parametrize('rendezvous', ['c10d', pytest.param('static', marks=pytest.mark.slow)])
def test_two_machines_equal_two_processes(run_script, rendezvous):
    result = run_script('scripts/two_machines.py', f'--rendezvous={rendezvous}', timeout=280)
    if result.returncode == 3:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stdout + result.stderr
    assert f'two machines ({rendezvous}) equal those of two processes on one, to the bit' in result.stdout
