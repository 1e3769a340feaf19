# shellcheck shell=bash
# apt.sh: `need_packages PKG...` makes sure that Debian packages are installed.
#
# Sourced by the scripts that must run on a bare Debian 12. As root it installs what is missing; otherwise it prints the
# one line to run and ends the script with status 1. When nothing is missing it touches neither apt nor the network.

# Whether one package is installed and configured.
package_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

need_packages() {
    local package
    local -a missing=()
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0

    if [ "$(id -u)" -ne 0 ]; then
        echo "Packages are missing. Please run as root, then start this again:" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi

    echo "Installing: ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    # The update may fail for one mirror and still be good enough; the install decides.
    apt-get update -q </dev/null >&2 || echo "apt-get update failed; trying to install all the same" >&2
    if ! apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >&2; then
        echo "apt-get could not install: ${missing[*]}" >&2
        exit 1
    fi
}
