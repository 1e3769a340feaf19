# shellcheck shell=bash
# apt.sh: `need_packages PKG...` makes sure that Debian packages are installed; PKG:ARCHITECTURE is one for programs of
# another kind of processor.
#
# Sourced by the scripts that must run on a bare Debian 12. As root it installs what is missing; otherwise it prints the
# one line to run and ends the script with status 1. When nothing is missing it touches neither apt nor the network.

# Whether one package is installed and configured; for this machine's architecture, unless it is named "PKG:ARCHITECTURE".
package_installed() {
    local architecture
    architecture=$(dpkg --print-architecture)
    [[ $1 != *:* ]] || architecture=${1#*:}
    dpkg-query --show --showformat='${Architecture} ${db:Status-Status}\n' "$1" 2>/dev/null |
        grep -qxE "(all|$architecture) installed"
}

# The architectures of PKG:ARCHITECTURE... that this machine does not take packages of.
unknown_architectures() {
    local package
    for package in "$@"; do
        [[ $package != *:* ]] || echo "${package#*:}"
    done | sort -u | grep -vxF "$(dpkg --print-architecture; dpkg --print-foreign-architectures)" || true
}

need_packages() {
    local package
    local -a missing=() architectures
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    mapfile -t architectures < <(unknown_architectures "${missing[@]}")

    if [ "$(id -u)" -ne 0 ]; then
        echo "Packages are missing. Please run as root, then start this again:" >&2
        [ ${#architectures[@]} -eq 0 ] || printf '    dpkg --add-architecture %s\n' "${architectures[@]}" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi

    echo "Installing: ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    for package in "${architectures[@]}"; do
        dpkg --add-architecture "$package"
    done
    # The update may fail for one mirror and still be good enough; the install decides.
    apt-get update -q </dev/null >&2 || echo "apt-get update failed; trying to install all the same" >&2
    if ! apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >&2; then
        echo "apt-get could not install: ${missing[*]}" >&2
        for package in "${architectures[@]}"; do
            dpkg --remove-architecture "$package"
        done
        exit 1
    fi
}
