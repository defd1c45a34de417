#!/usr/bin/env bash
# Runs the tests, after setting up .venv and a browser if needed.
#   bash scripts/test.sh                      all tests except the slow ones
#   bash scripts/test.sh -m slow              arguments are passed to pytest
#   bash scripts/test.sh tests/test_generate.py -k grid
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
source scripts/setup_browser.sh

if [ $# -eq 0 ]; then
    set -- -m "not slow"
fi
exec "$VENV_PYTHON" -m pytest -q -n auto --dist loadfile "$@"
