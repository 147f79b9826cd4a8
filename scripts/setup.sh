#!/usr/bin/env bash
# Prepare a fresh Debian or Ubuntu for work on this repository, then run a command in it. Needs python3 >= 3.11, git, make.
#
#     scripts/setup.sh [--test-packages | --demo-packages | --bench-packages | --rehearsal-packages] [COMMAND [ARGUMENT...]]
#
# It finds uv or installs it under .cache/, fills .venv/, and adds the Debian packages of the tests, the demo or the bench.
# PYTHON=python3.13 in the environment chooses another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly POSTGRES=postgresql
readonly TEST_COMMANDS=(
  nginx curl redis-server faketime prometheus wrk "$POSTGRES"
  buildah podman runc mmdebstrap busybox ip  # images and containers, networks between them
)
# Packages that are not called like their command.
declare -rA PACKAGES=([ip]=iproute2)
readonly MINIMUM_UV="0.8"

say() { printf '\033[2m[setup] %s\033[0m\n' "$*" >&2; }

stop() {
  printf '[setup] %s\n' "$*" >&2
  exit 1
}

# An activated environment of the caller is not ours; /usr/sbin is where nginx lives, and not on everybody's PATH.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH UV_PROJECT_ENVIRONMENT
export PATH="$PATH:/usr/sbin:/sbin"
export UV_PYTHON_DOWNLOADS=never

# Prints the interpreter itself: shims and virtual environments mislead uv.
find_python() {
  local candidate=${PYTHON:-python3}
  command -v "$candidate" >/dev/null || stop "$candidate is not installed; try: apt-get install python3"
  "$candidate" - <<'PY' || stop "set PYTHON to a newer interpreter, like: PYTHON=python3.13 make test"
import os, platform, sys
if sys.version_info < (3, 11):
    sys.exit(f"[setup] python3 is {platform.python_version()} ({sys.executable}); 3.11 or newer is needed")
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
PY
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    stop "neither root nor sudo: run this as root yourself: apt-get install ${packages[*]}"
  fi
}

install_packages() {
  local packages=("$@")
  command -v apt-get >/dev/null || stop "no apt-get here; install these with your package manager: ${packages[*]}"
  say "installing with apt-get: ${packages[*]}"
  as_root sh -s -- "${packages[@]}" >&2 <<'ROOT'
set -eu
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 </dev/null || { cat "$log"; exit 1; }; }
# The tests start their own servers; the packages must not start one on port 80, nor make a cluster of PostgreSQL.
clusters=/etc/postgresql-common/createcluster.conf
if [ ! -e "$clusters" ]; then
  mkdir -p "${clusters%/*}"
  printf 'create_main_cluster = false\n' >"$clusters"
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$log" "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
quietly apt-get -qq -o DPkg::Lock::Timeout=600 update
quietly apt-get -qq -o DPkg::Lock::Timeout=600 -y --no-install-recommends install "$@"
ROOT
}

recent_uv() {
  "$UV_PYTHON" - "$("$1" --version 2>/dev/null)" "$MINIMUM_UV" <<'PY'
import re, sys
found, wanted = ([int(part) for part in re.findall(r"\d+", text)[:2]] for text in sys.argv[1:])
sys.exit(0 if found >= wanted else 1)
PY
}

# Makes `uv` a command: the caller's if it is recent, else one of our own.
provide_uv() {
  if command -v uv >/dev/null && recent_uv uv; then return; fi
  local home="$PWD/.cache/uv"
  if ! { [ -x "$home/bin/uv" ] && recent_uv "$home/bin/uv"; }; then
    "$UV_PYTHON" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "installing uv into .cache/uv"
    "$UV_PYTHON" -m venv --clear "$home"
    "$home/bin/python" -m pip --quiet --disable-pip-version-check install uv
  fi
  export PATH="$home/bin:$PATH"
}

sync_environment() {
  local stamp=.venv/.synced wanted
  wanted=$(cat pyproject.toml '{{cookiecutter.project_slug}}/chassis/pyproject.toml' scripts/setup.sh | sha256sum)
  wanted="$wanted $PWD $UV_PYTHON"
  if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  say "filling .venv (the first time takes a minute)"
  uv sync --quiet
  printf '%s\n' "$wanted" >"$stamp"
}

provide_commands() {
  local missing=() name
  for name in "$@"; do
    [ "$name" = "$POSTGRES" ] || command -v "$name" >/dev/null || missing+=("${PACKAGES[$name]:-$name}")
  done
  # Debian keeps its programs off PATH.
  if [[ " $* " == *" $POSTGRES "* ]] && ! compgen -G "/usr/lib/$POSTGRES/*/bin/initdb" >/dev/null; then
    command -v initdb >/dev/null || missing+=("$POSTGRES")
  fi
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

main() {
  local commands=()
  case "${1:-}" in
    --test-packages) commands=("${TEST_COMMANDS[@]}") && shift ;;
    --demo-packages) commands=(curl) && shift ;;
    --bench-packages) commands=(nginx redis-server wrk) && shift ;;
    --rehearsal-packages) commands=(nginx redis-server) && shift ;;
  esac
  UV_PYTHON=$(find_python)
  export UV_PYTHON
  provide_commands "${commands[@]}"
  provide_uv
  sync_environment
  [ $# = 0 ] || PATH="$PWD/.venv/bin:$PATH" exec "$@"
}

main "$@"
