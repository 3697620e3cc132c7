#!/bin/sh
# Installs what building and testing hyve need and this machine lacks: Debian's
# QEMU and a few common tools (as root or through sudo; else unpacked under .deps/),
# a static busybox for the test image and, where there is no docker client,
# Debian's. With the argument "tests" also npm, for the clients that are tested. The
# Makefile has .deps/bin on PATH. Go itself it only looks for: the releases of Debian
# that hyve is built on have an older one.
set -eu
cd "$(dirname "$0")/.."
: "${GO:=go}"
PATH=$PATH:/usr/sbin:/sbin

# Where go.mod is, one of 1.21 or newer first gets what go.mod wants, if it may.
need=$(sed -n 's/^go //p' go.mod)
if ! command -v "$GO" >/dev/null; then
    have="there is no $GO"
elif have=$("$GO" env GOVERSION 2>&1 | tail -n 1); [ "${have#go1}" = "$have" ]; then
    have="$GO says: $have"
elif [ "$(printf '%s\n' "$need" "${have#go}" | sort -V | head -n 1)" != "$need" ]; then
    have="$GO is $have"
else
    have=
fi
[ -z "$have" ] || { echo "deps: Go $need or newer is needed, and $have: get it from https://go.dev/dl, put it on PATH or say make GO=/path/to/go" >&2; exit 1; }

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
command -v qemu-img >/dev/null || missing="$missing qemu-utils"
command -v scp >/dev/null || missing="$missing openssh-client"
command -v e2fsck >/dev/null || missing="$missing e2fsprogs"
# Which only root can mount.
[ -n "$own" ] || command -v mkfs.btrfs >/dev/null || missing="$missing btrfs-progs"
# What docker-machine's scp -d and mount call.
[ "${1:-}" != tests ] || [ -n "$own" ] || for program in rsync sshfs; do
    command -v $program >/dev/null || missing="$missing $program"
done
# Which does not run where Debian did not put it. It brings a Node.js for itself, the
# tests take theirs from npm's registry.
[ "${1:-}" != tests ] || [ -n "$own" ] || command -v npm >/dev/null || missing="$missing npm"
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

# unpack PROGRAM PACKAGE...: takes a program out of the first of these Debian
# packages that has it.
unpack() {
    program=$1
    shift
    dir=$(mktemp -d)
    for package; do
        # shellcheck disable=SC2086
        ( cd "$dir" && apt-get download -qq "$package" ) 2>/dev/null || { update; ( cd "$dir" && apt-get $own download -qq "$package" ) 2>/dev/null; } || continue
        dpkg-deb -x "$dir/$package"_*.deb "$dir/root"
        for file in "$dir/root/bin/$program" "$dir/root/usr/bin/$program"; do
            [ ! -x "$file" ] || { cp "$file" .deps/; rm -rf "$dir"; return; }
        done
    done
    rm -rf "$dir"
    echo "deps: no $program: apt has it in none of: $*" >&2
    return 1
}

[ "${1:-}" != tests ] || scripts/unpack.sh forky clients >/dev/null
[ -x .deps/busybox ] || unpack busybox busybox-static
# In a package of its own since Debian 13.
command -v docker >/dev/null || [ -x .deps/docker ] || unpack docker docker-cli docker.io
