#!/bin/sh
# Installs what building and testing hyve need and this machine lacks: Debian's
# QEMU and a few common tools (as root or through sudo; else unpacked under .deps/),
# a static busybox for the test image and, where there is no docker client,
# Debian's. The Makefile has .deps/bin on PATH.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .deps

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Without root, apt keeps its lists here.
own=
as_root true 2>/dev/null || own="-o Dir::State::lists=$PWD/.deps/lists -o Dir::Cache=$PWD/.deps/cache -o Debug::NoLocking=1"

updated=
update() {
    [ -z "$updated" ] || return 0
    # shellcheck disable=SC2086
    if [ -n "$own" ]; then mkdir -p .deps/lists/partial; apt-get $own update -qq; else as_root apt-get update -qq; fi
    updated=1
}

missing=
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v scp >/dev/null || missing="$missing openssh-client"
command -v e2fsck >/dev/null || missing="$missing e2fsprogs"
if [ -n "$missing" ]; then
    if [ -z "$own" ]; then
        update
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    else
        release=$(. /etc/os-release && echo "$VERSION_CODENAME")
        echo "deps: no root and no sudo without a password: unpacking$missing under .deps/$release" >&2
        scripts/unpack.sh "$release" >/dev/null
        ln -sfn "$release/bin" .deps/bin
    fi
fi
command -v go >/dev/null || { echo "deps: Go 1.26 or newer is needed: https://go.dev/dl" >&2; exit 1; }

# unpack PACKAGE FILE: takes one file out of a Debian package.
unpack() {
    dir=$(mktemp -d)
    # shellcheck disable=SC2086
    ( cd "$dir" && apt-get download -qq "$1" 2>/dev/null ) || { update; ( cd "$dir" && apt-get $own download -qq "$1" ); }
    dpkg-deb -x "$dir"/*.deb "$dir/root"
    cp "$dir/root/$2" .deps/
    rm -rf "$dir"
}

[ -x .deps/busybox ] || unpack busybox-static bin/busybox
if ! command -v docker >/dev/null && [ ! -x .deps/docker ]; then
    unpack docker.io usr/bin/docker
fi
