#!/bin/sh
# Installs what building and testing hyve need and this machine lacks: Debian's
# QEMU and a few common tools (as root, or through sudo), and under .deps/ a static busybox for the test
# image and, where there is no docker client, Debian's.
set -eu
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "deps: cannot install without root or sudo: $*" >&2; exit 1
    fi
}

updated=
update() {
    [ -n "$updated" ] || as_root apt-get update -qq
    updated=1
}

missing=
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v git >/dev/null || missing="$missing git"
command -v ssh-keyscan >/dev/null || missing="$missing openssh-client"
[ -x /sbin/e2fsck ] || missing="$missing e2fsprogs"
if [ -n "$missing" ]; then
    update
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi
command -v go >/dev/null || { echo "deps: Go 1.26 or newer is needed: https://go.dev/dl" >&2; exit 1; }

# unpack PACKAGE FILE: takes one file out of a Debian package.
unpack() {
    dir=$(mktemp -d)
    ( cd "$dir" && apt-get download -qq "$1" ) || { update; ( cd "$dir" && apt-get download -qq "$1" ); }
    dpkg-deb -x "$dir"/*.deb "$dir/root"
    mkdir -p .deps
    cp "$dir/root/$2" .deps/
    rm -rf "$dir"
}

[ -x .deps/busybox ] || unpack busybox-static bin/busybox
if ! command -v docker >/dev/null && [ ! -x .deps/docker ]; then
    unpack docker.io usr/bin/docker
fi
