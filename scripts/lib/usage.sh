# shellcheck shell=bash
# usage.sh: `usage` prints the comment at the head of the script that sources this file.

usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}
