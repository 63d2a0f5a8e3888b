# Shared by the scripts beside it: finds Python and a compiler, keeps `.venv` in step with the tree.
# Sourced, not run. Everything is quiet when there is nothing to do.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/alpage-setup

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "error: $1"
    exit 1
}

# Prints a Python of a version that Alpage supports.
find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Alpage needs Python 3.11, 3.12 or 3.13, and none was found. Install one, or name it:
  PYTHON=/path/to/python3.13 scripts/setup"
}

# The core is compiled on this machine; say what is missing before a long build does.
need_compiler() {
    for candidate in ${CXX:-} c++ g++ clang++; do
        if command -v "$candidate" >/dev/null 2>&1; then
            return
        fi
    done
    # Fresh CI machines have no compiler; on a person's machine nothing is installed unasked.
    if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing g++"
        apt-get update -qq >&2 && apt-get install -y -qq g++ >&2 && return
    fi
    fail "Alpage's core needs a C++20 compiler: install g++ or clang, e.g.
  apt install g++          (Debian, Ubuntu)
  dnf install gcc-c++      (Fedora)
  xcode-select --install   (macOS)"
}

need_venv() {
    if [ ! -x "$venv/bin/python" ]; then
        python=$(find_python)
        say "creating .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" >&2 || {
            rm -rf "$venv"
            fail "$python cannot make a virtual environment; Debian and Ubuntu have that apart:
  apt install python3-venv"
        }
    fi
    "$venv/bin/python" - <<'PYTHON' || fail "then delete $venv and run this again"
import sys
import sysconfig
from pathlib import Path

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f".venv has Python {sys.version.split()[0]}; Alpage needs 3.11, 3.12 or 3.13")
header = Path(sysconfig.get_path("include"), "Python.h")
if not header.exists():
    sys.exit(f"{header} is missing: install Python's headers (Debian: apt install python3-dev)")
PYTHON
}

# What an installation depends on: its place, the requirements and everything that is compiled.
fingerprint() {
    (
        cd "$root"
        pwd
        find CMakeLists.txt pyproject.toml native -type f -exec cksum {} + | LC_ALL=C sort
    ) | cksum | tr ' ' '-'
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" >&2
}

# need_install base|test: an editable installation with what running, or testing, needs. A `test`
# installation serves as a `base` one too, and stays one when the core is built again.
need_install() {
    wanted=$1
    need_venv
    now=$(fingerprint)
    have=$(cat "$stamp" 2>/dev/null || true)
    if [ "$have" = "test $now" ] || [ "$have" = "$wanted $now" ]; then
        return
    fi
    need_compiler
    case $have in test*) wanted=test ;; esac
    rm -f "$stamp"
    extras=
    if [ "$wanted" = test ]; then
        extras='[test]'
        # torch first and alone: by this exact pin pip takes the CPU build of it where one is
        # offered, before another package's looser requirement can choose for us.
        say "installing torch"
        pip install "$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' "$root/pyproject.toml")"
    fi
    say "installing Alpage and compiling its core (a few minutes the first time)"
    install_build_requirements
    (cd "$root" && pip install --no-build-isolation --editable ".$extras")
    if [ "$wanted" = test ] && [ "${CI:-}" = true ]; then
        install_judge
    fi
    printf '%s %s\n' "$wanted" "$now" >"$stamp"
}

# llama.cpp judges files, tokens and weights of ours; compiled for quick building, not for speed,
# which is why a benchmark needs `pip install -e '.[bench]'` instead. Its tests skip without it.
install_judge() {
    say "compiling llama-cpp-python, a judge of the tests (about four minutes)"
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1" \
        pip install "$(sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' "$root/pyproject.toml")" ||
        say "llama-cpp-python does not build here: what it judges is skipped"
}

# Programs that judge ours: a browser for the page, a database for keys and usage. A person's
# machine keeps what it has; tests without them skip, and say why.
need_programs() {
    missing=
    command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
    if [ -z "$missing" ] || [ "${CI:-}" != true ] || [ "$(id -u)" != 0 ]; then
        return
    fi
    command -v apt-get >/dev/null 2>&1 || return 0
    say "installing$missing"
    # shellcheck disable=SC2086  # one package a word
    apt-get update -qq >&2 &&
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $missing >&2 ||
        say "not installed:$missing; their tests are skipped"
}

# Without build isolation the build folder stays valid, so that only changed files are compiled.
install_build_requirements() {
    # shellcheck disable=SC2046  # one requirement a word
    pip install $("$venv/bin/python" - "$root/pyproject.toml" <<'PYTHON'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"])
PYTHON
    )
    tools=$(cd "$root" && "$venv/bin/python" -c '
from scikit_build_core.build import get_requires_for_build_editable as tools
print(*tools({}))')
    if [ -n "$tools" ]; then
        # shellcheck disable=SC2086  # one requirement a word
        pip install $tools
    fi
}

# build_core FOLDER SANITIZERS: the core built with them in FOLDER; sets `core` to its file and
# `preload` to what must be loaded before Python, which is built without sanitizers.
build_core() {
    cmake=$(command -v cmake || echo "$venv/bin/cmake")
    nanobind=$("$venv/bin/python" -c 'import nanobind; print(nanobind.cmake_dir())')
    "$cmake" -S "$root" -B "$1" "-DALPAGE_SANITIZE=$2" \
        "-DPython_EXECUTABLE=$venv/bin/python" "-Dnanobind_DIR=$nanobind" >&2
    nice -n 10 "$cmake" --build "$1" --target _native \
        --parallel "$(getconf _NPROCESSORS_ONLN)" >&2
    core=$(ls "$1"/_native*.so)
    case $2 in thread*) library=libtsan.so ;; *) library=libasan.so ;; esac
    preload="$(${CXX:-c++} -print-file-name=$library)"
    preload="$preload $(${CXX:-c++} -print-file-name=libstdc++.so.6)"
}
