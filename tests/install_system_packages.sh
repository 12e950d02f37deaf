#!/bin/sh
# Installs what the tests need and pip cannot install, where this user may: as root, or by a sudo that
# asks for no password, with apt. Elsewhere it says what is missing and ends with status 0, for the
# tests that need it are skipped then (tests/system_programs.py). With CI=true that is an error.
#
# CHROMIUM and POSTGRESQL_FOLDER in the environment name a browser and the folder of PostgreSQL's
# programs where they are in no usual place.
set -eu
cd "$(dirname "$0")/.."

# One package or more for each program; Debian's names.
missing=""
need() {
    missing="$missing $*"
}

has_any() {
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 && return 0
    done
    return 1
}

has_postgresql() {
    # Debian keeps the server's programs out of the path
    for folder in "${POSTGRESQL_FOLDER:-}" /usr/lib/postgresql/*/bin; do
        [ -n "$folder" ] && [ -x "$folder/initdb" ] && return 0
        [ -z "${POSTGRESQL_FOLDER:-}" ] || return 1
    done
    has_any initdb
}

has_any make || need make
python=${PYTHON:-python3}
has_any "$python" || need python3 python3-venv
if has_any "$python" && ! "$python" -c "import ensurepip" 2>/dev/null; then need python3-venv; fi
has_any cc || need gcc libc6-dev
has_any curl || need curl
has_any "${CHROMIUM:-chromium}" chromium-browser google-chrome google-chrome-stable || need chromium
has_postgresql || need postgresql
[ -n "$missing" ] || exit 0

# Says why nothing was installed, and ends: a failure in CI alone.
give_up() {
    echo "$1; not installed:$missing" >&2
    case "${CI:-}" in
        "" | 0 | false) exit 0 ;;
        *) exit 1 ;;
    esac
}

has_any apt-get || give_up "no apt-get here"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif has_any sudo && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    give_up "only root may install packages"
fi

echo "Installing with apt:$missing"
# shellcheck disable=SC2086 # several words each
{
    $as_root apt-get update -q &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qy --no-install-recommends $missing
} || give_up "apt-get failed"

# A package that was installed before the C compiler has no kernels: make installs it again.
case $missing in
    *gcc*) rm -f "${VENV:-.venv}/.installed" "${VENV:-.venv}/.installed-test" ;;
esac
