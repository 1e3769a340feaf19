# bash completion for aflock(1). Needs nothing but bash; bash-completion loads it on demand.

# Whether the word is an option whose argument is the next word.
_aflock_takes_argument() {
    case $1 in
    --timeout | --wait | --conflict-exit-code | --lease | --semaphore | --seconds | --claim) return 0 ;;
    --*) return 1 ;;
    -*[wE]) return 0 ;;
    *) return 1 ;;
    esac
}

# Sets `first`, `second`: the indices of the first two words before the present one that are no options; 0: none.
# Options end at "--", and in the form without a word at the first of these.
_aflock_find_operands() {
    local i ended=0
    first=0 second=0
    for ((i = 1; i < COMP_CWORD; i++)); do
        if ((!ended && !first)) && [[ ${COMP_WORDS[i]} == -- ]]; then
            ended=1
        elif ((!ended)) && [[ ${COMP_WORDS[i]} == -* ]]; then
            if [[ ${COMP_WORDS[i + 1]-} == = ]]; then
                ((i += 2)) # --option=value is three words
            elif _aflock_takes_argument "${COMP_WORDS[i]}"; then
                ((i++))
            fi
        elif ((!first)); then
            first=$i
        else
            second=$i
            return
        fi
    done
}

_aflock_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}

# -f: files, -d: directories
_aflock_paths() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen "$1" -- "$current")
}

# The words of a command, or its arguments, which are files for all that is known here.
_aflock_command() {
    if ((COMP_CWORD == $1)) && [[ $current != */* ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$current")
    else
        _aflock_paths -f
    fi
}

_aflock_action() {
    local options file='-n --nonblocking --nb -w --timeout --wait -E --conflict-exit-code --no-sync --verbose'
    case ${COMP_WORDS[1]} in
    status) options='--json' ;;
    break) options='--force --claim' ;;
    replace) options="$file --new" ;;
    verify) options='--json --seconds' ;;
    *) options=$file ;;
    esac
    if [[ ${COMP_WORDS[1]} == update ]] && ((second)); then
        [[ $current == -- ]] && return
        local start=$((second + 1))
        [[ ${COMP_WORDS[start]} == -- ]] && ((start++))
        _aflock_command "$start"
    elif [[ $current == -* ]]; then
        _aflock_words "$options --help"
    elif [[ ${COMP_WORDS[1]} == verify ]]; then
        _aflock_paths -d
    else
        _aflock_paths -f
    fi
}

_aflock() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} first second
    local words='status break append replace update verify'
    COMPREPLY=()
    _aflock_find_operands
    if [[ $previous == -c || $previous == --command ]] && ((first == COMP_CWORD - 2)); then
        return # a string for a shell
    fi
    if ((COMP_CWORD > 1)) && { ((!first)) || [[ " $words " == *" ${COMP_WORDS[1]} "* && $second -eq 0 ]]; } &&
        _aflock_takes_argument "$previous"; then
        return # a number or a name
    fi
    if ((COMP_CWORD > 1)) && [[ " $words " == *" ${COMP_WORDS[1]} "* ]]; then
        _aflock_action
    elif ((first)); then
        _aflock_command $((first + 1))
        [[ $current == -* ]] && ((COMP_CWORD == first + 1)) && _aflock_words '-c --command'
    elif [[ $current == -* && $previous != -- ]]; then
        _aflock_words '-s --shared -x -e --exclusive -u --unlock -n --nonblocking --nb -w --timeout --wait
            -E --conflict-exit-code -o --close -F --no-fork --fcntl --rw --soft --soft-fallback --soft-rw --soft-rw=
            --strict --lease --semaphore --all --temporary --pidfile --verbose -h --help -V --version'
    else
        _aflock_paths -f
        if ((COMP_CWORD == 1)); then
            local paths=("${COMPREPLY[@]}")
            _aflock_words "$words"
            COMPREPLY+=("${paths[@]}")
        fi
    fi
}

complete -F _aflock aflock
