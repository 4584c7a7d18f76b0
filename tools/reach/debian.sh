# shellcheck shell=bash
# Sourced by the scripts beside it: packages of other suites of Debian, without installing any here.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/aiovfork/reach
mkdir -p "$cache"

# use_suites SUITE...: apt's commands know these suites from now on, and nothing that is installed here. The mirror and
# its keys are this machine's own. The packages are those of $architecture, if that is set.
use_suites() {
    local mirror suite folder="$cache/apt-${architecture:-native}"
    unset APT_CONFIG
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "this machine has no mirror of Debian's: run apt-get update on a Debian" >&2
        return 1
    fi
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
    : >"$folder/status"
    : >"$folder/sources.list"
    for suite in "$@"; do
        echo "deb $mirror $suite main" >>"$folder/sources.list"
    done
    cat >"$folder/apt.conf" <<END
Dir::State "$folder/state";
Dir::State::status "$folder/status";
Dir::Cache "$folder/cache";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Check-Valid-Until "false";
APT::Architecture "${architecture:-$(dpkg --print-architecture)}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
END
    export APT_CONFIG=$folder/apt.conf
    apt-get -qq update
}
