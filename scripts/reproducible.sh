#!/bin/sh
# Builds what is committed twice, from clones that differ in all that must not matter:
# directory, history, times, the user's umask and variables. Fails unless the same bytes
# come of both.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build DIRECTORY: what make build leaves there, in one list of digests.
build() (
	cd "$1"
	"${MAKE:-make}" -s build >&2
	find bin internal/image/build/payload -type f ! -name '.*' ! -name '*.go' ! -name '*.md' -exec sha256sum {} + | sort -k 2
)

git clone -q --no-local . "$work/a"
git clone -q --depth 1 "file://$PWD" "$work/another directory" 2>/dev/null
find "$work/another directory" -name .git -prune -o -type f -exec touch -d 2001-01-01 {} +
build "$work/a" > "$work/first"
(umask 077; export TZ=Pacific/Auckland LANG=C GOFLAGS=-buildvcs=true CGO_ENABLED=1; build "$work/another directory") > "$work/second"
test -s "$work/first"
if ! diff "$work/first" "$work/second"; then
	echo 'two builds of one commit differ' >&2
	exit 1
fi
cat "$work/first"
