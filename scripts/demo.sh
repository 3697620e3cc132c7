#!/bin/sh
# From a fresh checkout to plop!: creates a machine, runs a container in it, and
# removes it again. The image comes from a registry on loopback, so that the demo
# needs no account anywhere.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/bin:$PATH:$PWD/.deps
work=$(mktemp -d)
export HYVE_HOME="${HYVE_HOME:-$PWD/.demo}" DOCKER_CONFIG="$work/docker"
name=demo-$$

mkfifo "$work/hold"
"${GO:-go}" build -o "$work/serve-registry" ./e2e/serve-registry
"$work/serve-registry" .deps/busybox <"$work/hold" >"$work/address" &
registry=$!
exec 9>"$work/hold"
trap 'hyve rm -f "$name" >/dev/null 2>&1 || :; exec 9>&-; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
while [ ! -s "$work/address" ]; do
    kill -0 "$registry" 2>/dev/null || { echo 'demo: the registry has ended' >&2; exit 1; }
    sleep 0.1
done
port=$(sed 's/.*://' "$work/address")

hyve create "$name" --registry-mirror "http://host.docker.internal:$port"
docker --context "hyve-$name" run --rm busybox echo 'plop!'
