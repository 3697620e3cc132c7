#!/bin/sh
# Puts programs as a Debian release has them, with the libraries they need, under
# .deps/RELEASE-KIND and prints the directory to put on PATH: QEMU and the few that
# tests want (without KIND), docker's plugins (clients) or Node.js (node). Needs no
# root: for who has none, to test with another release's QEMU, and with clients that
# are newer than this machine's release.
set -eu
cd "$(dirname "$0")/.."
release=$1
kind=${2:-}
case $kind in
'') packages='qemu-system-x86 e2fsprogs openssh-client' programs='qemu-system-x86_64 e2fsck ssh scp ssh-keyscan' ;;
clients) packages='docker-compose docker-buildx runc' programs='docker-compose docker-buildx' ;;
node) packages='nodejs npm' programs='node npm' ;;
outer) programs=depmod packages='base-files base-passwd bash busybox-static ca-certificates coreutils dash diffutils docker-cli e2fsprogs findutils
    grep iproute2 kmod libc-bin linux-image-cloud-amd64 mount openssh-client procps qemu-system-x86 sed util-linux' ;;
*) echo "unpack: there is no kind $kind" >&2; exit 2 ;;
esac
dir=$PWD/.deps/$release${kind:+-$kind}
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
    # shellcheck disable=SC2086
    apt-get "$@" install -y --no-install-recommends --download-only $packages >&2
    for deb in "$dir"/archives/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    for program in $programs; do
        at=$(find "$dir/root/bin" "$dir/root/sbin" "$dir/root/usr/bin" "$dir/root/usr/sbin" "$dir/root/usr/libexec/docker" -name "$program" 2>/dev/null | head -n 1)
        # Of the release's own libc: the link in lib64 is absolute, and leads to this machine's.
        run="'$(find "$dir/root/lib" "$dir/root/usr/lib" -type f -name 'ld-linux-*' 2>/dev/null | head -n 1)' --library-path '$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu'"
        data=
        case $program in
        qemu-system-x86_64) data="-L '$dir/root/usr/share/qemu' -L '$dir/root/usr/share/seabios'" ;;
        npm) run="'$dir/bin/node'" at=$dir/root/usr/share/nodejs/npm/bin/npm-cli.js ;;
        esac
        cat >"$dir/wrappers/$program" <<END
#!/bin/sh
export QEMU_MODULE_DIR='$dir/root/usr/lib/x86_64-linux-gnu/qemu' NODE_PATH='$dir/root/usr/share/nodejs'
exec $run '$at' $data "\$@"
END
        chmod 755 "$dir/wrappers/$program"
    done
    rm -rf "$dir/archives" "$dir/lists"
    mv "$dir/wrappers" "$dir/bin"
fi
echo "$dir/bin"
