# One line adds one test.

# The environment in which tests run. Debian's own Python has the packages that the tests need, whatever PATH says.
set(AFLOCK_TEST_ENVIRONMENT
    "AFLOCK_COMMAND=$<TARGET_FILE:aflock-command>"
    "AFLOCK_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
    "AFLOCK_BINARY_DIR=${PROJECT_BINARY_DIR}"
    "PYTHON=/usr/bin/python3"
    "CC=${CMAKE_C_COMPILER}"
    "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:verify_asan_link_order=0"
    "UBSAN_OPTIONS=print_stacktrace=1"
    # Tests fork while pool threads live, as users do, and start hundreds of processes: no sleep of 1 s at each exit.
    "TSAN_OPTIONS=die_after_fork=0:second_deadlock_stack=1:atexit_sleep_ms=50"
)

# Instrumented code is slow: how much longer tests may take, libcheck's own limit per test case included.
if(AFLOCK_INSTRUMENT)
    set(AFLOCK_TEST_SLOWER 3)
else()
    set(AFLOCK_TEST_SLOWER 1)
endif()

# aflock_add_test(NAME [TIMEOUT seconds] [LABELS label...] [SLOWER factor] [SERIAL] [NIGHTLY] COMMAND word...)
# registers any command. TIMEOUT: what it takes at most on a machine that has time for it; ctest waits ten times as long,
# libcheck three times as long as a case says. NIGHTLY: the long form of a test; only `ctest -C nightly` runs it. A line
# that a test prints with "figure: " before it is shown in the summary of scripts/test.
function(aflock_add_test name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "SERIAL;NIGHTLY" "TIMEOUT;SLOWER" "LABELS;COMMAND")
    if(NOT arg_TIMEOUT)
        set(arg_TIMEOUT 60)
    endif()
    if(NOT arg_SLOWER)
        set(arg_SLOWER ${AFLOCK_TEST_SLOWER})
    endif()
    math(EXPR cost "${arg_TIMEOUT} * ${arg_SLOWER}")
    # A busy machine takes long, and tests have watchdogs of their own that say what did not come.
    math(EXPR case_limit "3 * ${arg_SLOWER}")
    math(EXPR timeout "10 * ${cost}")
    set(when "")
    if(arg_NIGHTLY)
        set(when CONFIGURATIONS nightly)
        list(APPEND arg_LABELS nightly)
    endif()
    add_test(NAME ${name} ${when} COMMAND ${arg_COMMAND} COMMAND_EXPAND_LISTS)
    set_tests_properties(${name} PROPERTIES
        ENVIRONMENT "${AFLOCK_TEST_ENVIRONMENT};CK_TIMEOUT_MULTIPLIER=${case_limit}"
        LABELS "${arg_LABELS}"
        RUN_SERIAL "${arg_SERIAL}"
        SKIP_RETURN_CODE 77
        TIMEOUT ${timeout}
        COST ${cost} # the long ones first
    )
endfunction()

# aflock_test(NAME SOURCES file... [LIBRARIES target...] [TIMEOUT seconds] [UNIT] [SERIAL])
# builds a libcheck program and registers it. It sees the core's internal headers, links the static core and takes what
# it uses from tests/support.
#   UNIT    fast and of one process: it also runs under valgrind in the release preset
#   SERIAL  not together with other tests: it loads the machine or looks at the clock
function(aflock_test name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "UNIT;SERIAL" "TIMEOUT" "SOURCES;LIBRARIES")
    aflock_program(${name} SOURCES ${arg_SOURCES} LIBRARIES aflock-test-support ${arg_LIBRARIES})

    set(options "")
    if(arg_TIMEOUT)
        list(APPEND options TIMEOUT ${arg_TIMEOUT})
    endif()
    if(arg_SERIAL)
        list(APPEND options SERIAL)
    endif()
    if(arg_UNIT)
        list(APPEND options LABELS unit)
    endif()
    aflock_add_test(${name} ${options} COMMAND ${name})

    if(arg_UNIT AND AFLOCK_TEST_VALGRIND)
        aflock_add_test(${name}.valgrind LABELS valgrind SLOWER 5
            COMMAND "${AFLOCK_VALGRIND}" --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite
            --show-leak-kinds=definite $<TARGET_FILE:${name}>
        )
    endif()
endfunction()
