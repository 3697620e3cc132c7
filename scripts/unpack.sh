#!/bin/sh
# Puts QEMU and the few programs that tests want, as a Debian release has them and
# with the libraries they need, under .deps/RELEASE and prints the directory to put
# on PATH. Needs no root: for who has none, and to test with another release's QEMU.
set -eu
cd "$(dirname "$0")/.."
release=$1
dir=$PWD/.deps/$release
if [ ! -d "$dir/bin" ]; then
    rm -rf "$dir"
    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/root" "$dir/wrappers"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/\?$' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$dir/sources.list"
    : >"$dir/status"
    # An apt of its own, for which nothing is installed.
    set -- -qq -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/nowhere -o Dir::State::lists="$dir/lists" \
        -o Dir::State::status="$dir/status" -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1
    apt-get "$@" update >&2
    apt-get "$@" install -y --no-install-recommends --download-only qemu-system-x86 e2fsprogs openssh-client >&2
    for deb in "$dir"/archives/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    for program in qemu-system-x86_64 e2fsck ssh scp ssh-keyscan; do
        at=$(find "$dir/root/bin" "$dir/root/sbin" "$dir/root/usr/bin" "$dir/root/usr/sbin" -name "$program" 2>/dev/null | head -n 1)
        data=
        [ "$program" != qemu-system-x86_64 ] || data="-L '$dir/root/usr/share/qemu' -L '$dir/root/usr/share/seabios'"
        cat >"$dir/wrappers/$program" <<EOF
#!/bin/sh
export QEMU_MODULE_DIR='$dir/root/usr/lib/x86_64-linux-gnu/qemu'
exec '$(find "$dir/root/lib64" "$dir/root/usr/lib64" -name 'ld-linux-*' 2>/dev/null | head -n 1)' \\
    --library-path '$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu' '$at' $data "\$@"
EOF
        chmod 755 "$dir/wrappers/$program"
    done
    rm -rf "$dir/archives" "$dir/lists"
    mv "$dir/wrappers" "$dir/bin"
fi
echo "$dir/bin"
