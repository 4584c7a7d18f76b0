#!/usr/bin/env bash
# The smoke program on other kernels: each boots in QEMU with nothing but a static smoke program and busybox.
# Usage, on Debian: tools/reach/kernel.sh SUITE:PACKAGE...   for instance
#     tools/reach/kernel.sh bullseye:linux-image-5.10 trixie:linux-image-6.12
# PACKAGE may be the beginning of a name: the newest cloud kernel is taken. MACHINE is x86_64, or aarch64. CC is a
# compiler for it that has a static libc. Needs QEMU's system emulator and cpio.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/reach/debian.sh
. "$here/debian.sh"
[ $# -gt 0 ] || { sed -n '2,6s/^# //p' "$0" && exit 2; }

case ${MACHINE:=x86_64} in
x86_64)
    architecture=amd64 console=ttyS0 compiler=gcc
    emulator=(qemu-system-x86_64 -cpu max)
    ;;
aarch64)
    architecture=arm64 console=ttyAMA0 compiler=aarch64-linux-gnu-gcc
    emulator=(qemu-system-aarch64 -M virt -cpu "max,pauth-impdef=on")
    ;;
*)
    echo "MACHINE=$MACHINE is neither x86_64 nor aarch64" >&2
    exit 2
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch PACKAGE: its content appears in $work/package, alone.
fetch() {
    rm -rf "$work/package"
    (cd "$work" && apt-get -qq download "$1:$architecture" && dpkg-deb --extract ./*.deb package && rm ./*.deb)
}

# The smoke program links to nothing of this machine, so that the kernel is all that differs.
"${PYTHON:-python3}" - "$here/../.." "$work" "${CC:-$compiler}" <<'END'
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tools.reach.__main__ import Compiler

Compiler(f"{sys.argv[3]} -static", Path(sys.argv[2])).build()
END
image=$work/image
mkdir -p "$image"/{bin,dev,proc,tmp}
cp "$work/smoke" "$work/_launcher" "$image/"
use_suites "${1%%:*}"
fetch busybox-static
cp "$(find "$work/package" -path "*bin/busybox")" "$image/bin/"
for name in cat echo mount mkdir poweroff sh true uname; do
    ln -s busybox "$image/bin/$name"
done
cat >"$image/init" <<'END'
#!/bin/sh
mount -t proc none /proc
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mkdir /tmp/work
uname -sr
/smoke /tmp/work && echo SMOKE RIGHT
poweroff -f
END
chmod +x "$image/init"
(cd "$image" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd"

failed=0
for wanted; do
    suite=${wanted%%:*} package=${wanted#*:}
    use_suites "$suite"
    package=$(apt-cache pkgnames "$package" | grep -E "(^$package|-cloud-$architecture)$" | grep -v -- -rt | sort -V | tail -n 1)
    echo "===== $suite: ${package:?no such kernel}"
    fetch "$package"
    timeout 300 "${emulator[@]}" -accel tcg -m 512 -smp 2 -nographic -no-reboot -net none \
        -kernel "$work"/package/boot/vmlinuz-* -initrd "$work/initrd" -append "console=$console quiet panic=-1" \
        </dev/null | tr -d '\r' | tee "$work/console" || true
    grep -q "^SMOKE RIGHT" "$work/console" || failed=1
done
exit $failed
