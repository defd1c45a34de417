# Sourced by the other scripts: creates the virtual environment .venv in the project's root if it is missing or older than
# requirements.txt, and sets VENV_PYTHON to its interpreter.
#
# PYTHON=/path/to/python selects the interpreter it is created from (3.10 or newer; default: the first one found).

_setup_env() {
    local root candidate base="" installed=yes wanted marker
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    VENV_PYTHON="$root/.venv/bin/python"
    marker="$root/.venv/.complete"      # written last: without it, an installation is incomplete and repeated

    local candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            base="$candidate"
            break
        fi
    done
    if [ -z "$base" ]; then
        echo "No Python 3.10 or newer was found (tried: ${candidates[*]}):" \
             "install one, or specify it with PYTHON=/path/to/python." >&2
        return 1
    fi

    wanted="$("$base" -c '
import hashlib, sys
print(sys.version_info[:2], hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
' "$root/requirements.txt")"
    if [ -x "$VENV_PYTHON" ] && [ "$(cat "$marker" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi

    if ! "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$base cannot create virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)," \
             "or use another interpreter with PYTHON=/path/to/python." >&2
        return 1
    fi
    if [ -L "$root/.venv" ]; then
        echo "$root/.venv is a link to another environment, which is not changed: its packages do not match" \
             "requirements.txt. Install them there, or remove the link." >&2
        return 1
    fi
    echo "Setting up .venv with $("$base" --version) (first run, or the requirements have changed) ..." >&2
    rm -f "$marker"
    "$base" -m venv --clear "$root/.venv" || return 1
    if "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" || installed=no
    else                                # the pinned versions need 3.11: use the version ranges instead
        "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check -e "$root[all]" || installed=no
    fi
    if [ "$installed" = no ]; then
        echo "pip could not install the packages (its message is above): fix the problem and run the same command again." >&2
        return 1
    fi
    echo "$wanted" > "$marker.new" && mv "$marker.new" "$marker"
}

_setup_env || return 1
