#!/bin/sh
# Puts Debian 13's QEMU, with the libraries it needs, under .deps/qemu10 and prints
# the directory to put before PATH: a Debian 12 host can test both with it.
set -eu
cd "$(dirname "$0")/.."
dir=$PWD/.deps/qemu10
if [ ! -x "$dir/bin/qemu-system-x86_64" ]; then
    rm -rf "$dir"
    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/root" "$dir/bin"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/\?$' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$dir/sources.list"
    : >"$dir/status"
    # An apt of its own, for which nothing is installed.
    set -- -qq -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/nowhere -o Dir::State::lists="$dir/lists" \
        -o Dir::State::status="$dir/status" -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1
    apt-get "$@" update >&2
    apt-get "$@" install -y --no-install-recommends --download-only qemu-system-x86 >&2
    for deb in "$dir"/archives/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    cat >"$dir/bin/qemu-system-x86_64" <<EOF
#!/bin/sh
root=$dir/root
exec "\$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "\$root/usr/lib/x86_64-linux-gnu" \\
    "\$root/usr/bin/qemu-system-x86_64" -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" "\$@"
EOF
    chmod 755 "$dir/bin/qemu-system-x86_64"
    rm -rf "$dir/archives" "$dir/lists"
fi
echo "$dir/bin"
