#!/usr/bin/env bash
# Bring single programs of a newer Debian to an older one, without adding that release to the machine:
#
#     scripts/newer_debian.sh trixie kustomize docker-compose
#
# It unpacks each package once below .cache/RELEASE/ and prints that folder; nothing is installed, dependencies neither.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

stop() {
  printf '[newer_debian] %s\n' "$*" >&2
  exit 1
}

# Prints the mirror that this machine uses anyway, in either of the two formats of its list.
mirror() {
  {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '$1 == "URIs:" { print $2 }'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:/) print $i }'
  } | awk '!/security/ { print; exit }'
}

# apt with lists of its own, so that the machine's stay as they are.
apt_apart() {
  apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/none" -o Dir::Etc::preferencesparts="$work/none" \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@"
}

main() {
  local release=$1 home="$PWD/.cache/$1" package missing=()
  shift
  mkdir -p "$home/.unpacked"
  # Tests run side by side: one of them fetches.
  exec 9>"$home/.lock"
  flock 9
  for package in "$@"; do
    [ -e "$home/.unpacked/$package" ] || missing+=("$package")
  done
  if [ ${#missing[@]} != 0 ]; then
    [ -e "$KEYS" ] || stop "$KEYS is missing: install debian-archive-keyring, or put ${missing[*]} on PATH"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/packages "$work/none"
    printf 'deb [signed-by=%s] %s %s main\n' "$KEYS" "$(mirror)" "$release" >"$work/sources.list"
    apt_apart update >&2
    for package in "${missing[@]}"; do
      (cd "$work/packages" && apt_apart download "$package" >&2)
      dpkg-deb -x "$work/packages/$package"_*.deb "$home"
      touch "$home/.unpacked/$package"
    done
  fi
  printf '%s\n' "$home"
}

[ $# -ge 2 ] || stop "usage: newer_debian.sh RELEASE PACKAGE..."
main "$@"
