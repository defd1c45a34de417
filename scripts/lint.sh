#!/usr/bin/env bash
# Checks style, formatting, types and layers, after setting up .venv if needed; CI runs it before the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
"$VENV_PYTHON" -m mypy
"$(dirname "$VENV_PYTHON")/lint-imports" --no-cache
