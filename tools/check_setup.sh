#!/bin/sh
# Says in one line each what a build of aiovfork needs and this machine lacks; exit status 1 then.
# Usage: check_setup.sh PYTHON
python=${1:-python3}
status=0

complain() {
    echo "aiovfork: $1" >&2
    status=1
}

if [ "$(uname -s)" != Linux ]; then
    complain "this is $(uname -s), but vfork semantics, pidfd and epoll need Linux"
fi

compiler=
for candidate in ${CC:+"$CC"} cc gcc clang; do
    if command -v "${candidate%% *}" >/dev/null 2>&1; then
        compiler=$candidate
        break
    fi
done
[ -n "$compiler" ] || complain "no C compiler found (cc/gcc): install gcc"

if ! command -v "$python" >/dev/null 2>&1; then
    complain "no $python found: install Python 3.11 or later, or say which with 'make PYTHON=...'"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    complain "$python is $("$python" -V 2>&1 | head -n 1): 3.11 or later is needed; say which with 'make PYTHON=...'"
else
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        complain "$python has no venv: install python3-venv"
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if [ ! -e "$headers/Python.h" ]; then
        complain "Python.h not found: install python3-dev"
    elif [ -n "$compiler" ] && ! echo '#include <Python.h>' | $compiler -I"$headers" -E - >/dev/null 2>&1; then
        complain "$compiler cannot compile against the C library's headers: install libc6-dev"
    fi
fi
exit $status
