# Sourced by test.sh: installs Chromium from the system's packages if no browser is found, because tests look at reports
# in one. Where that is not possible (another system, no right to install), those tests fail and say what to install.

_setup_browser() {
    local name
    for name in "${BROWSER_FOR_TESTS:-chromium}" chromium chromium-browser google-chrome google-chrome-stable chrome; do
        if command -v "$name" >/dev/null 2>&1; then
            return 0
        fi
    done
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing Chromium, in which tests look at reports ..." >&2
        { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 \
            || echo "Chromium could not be installed: see apt-get install chromium." >&2
    fi
}

_setup_browser
