#!/usr/bin/env bash
# The fast tests on a CPython of Debian's newest suite, in a root of its own: nothing is installed on this machine.
# Usage, as root on Debian: tools/reach/python.sh VERSION [argument of pytest...]     for instance 3.14 -x
# What git knows of this tree is copied there. The root stays in the cache; remove it to start anew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# What runs in the root: as python.sh --inside VERSION [argument of pytest...].
if [ "${1:-}" = --inside ]; then
    version=$2
    shift 2
    export PATH=/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8
    ldconfig
    cd "/root/tree-$version"
    [ -d "/root/venv-$version" ] || "python$version" -m venv "/root/venv-$version"
    PATH=/root/venv-$version/bin:$PATH
    python -m pip install --quiet --upgrade pip
    python -m pip install --quiet --group build --group test --group bench
    python -m pip install --quiet --no-build-isolation --editable '.[demo]'
    python -VV
    exec python -m pytest -n 2 -m 'not slow' "$@"
fi

# shellcheck source=tools/reach/debian.sh
. "$here/debian.sh"
version=${1:?usage: tools/reach/python.sh VERSION [argument of pytest...]}
root=$cache/sid

if [ ! -e "$root/usr/bin/python$version" ]; then
    use_suites sid
    echo "fetching what CPython $version needs into $root"
    apt-get -qq -y --download-only install "python$version-venv" "python$version-dev" bash ca-certificates coreutils \
        dash debianutils findutils gcc git grep libc-bin libc6-dev make mount procps sed strace util-linux >/dev/null
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    for folder in bin sbin lib lib64; do
        ln -sfn "usr/$folder" "$root/$folder"
    done
    for package in "$cache"/apt-native/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$root"
        rm "$package"
    done
    mkdir -p "$root"/{dev,etc/ssl/certs,proc,root,run,sys,tmp}
    chmod 1777 "$root/tmp"
    # What scripts of packages would have made.
    [ -e "$root/usr/bin/sh" ] || ln -s dash "$root/usr/bin/sh"
    ln -sfn gcc "$root/usr/bin/cc"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
for file in resolv.conf hosts passwd group nsswitch.conf pip.conf; do
    [ ! -e "/etc/$file" ] || cp --dereference "/etc/$file" "$root/etc/"
done

tree=$root/root/tree-$version
mkdir -p "$tree"
# The build folder of an earlier run is kept.
git -C "$here/../.." ls-files -z --cached --others --exclude-standard |
    tar -C "$here/../.." --ignore-failed-read --null -T - -c | tar -C "$tree" -x
git -C "$tree" init --quiet
git -C "$tree" add --all

# A mount namespace of its own: whatever is mounted there is gone with it.
# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --mount --propagation private bash -euc '
    root=$1
    shift
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" /bin/bash "$@"
' unshare "$root" "/root/tree-$version/tools/reach/python.sh" --inside "$@"
