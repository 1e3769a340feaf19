# The tests of the code's structure and of whole programs: they need no libcheck, so they run with every C library.

# ------------------------------------------------------------------------------------------------------ the structure

# The machine's objects as they are shipped, claims and records; where this build has others, the test compiles its own.
if(AFLOCK_INSTRUMENT OR NOT CMAKE_BUILD_TYPE STREQUAL "Release")
    get_target_property(machine aflock-machine SOURCES)
    list(TRANSFORM machine PREPEND "${PROJECT_SOURCE_DIR}/core/")
else()
    set(machine $<TARGET_OBJECTS:aflock-machine>)
endif()
aflock_add_test(purity
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/purity" "${CMAKE_C_COMPILER}" "${PROJECT_SOURCE_DIR}/core" ${machine}
    "${PROJECT_SOURCE_DIR}/core/locks/claim.c" "${PROJECT_SOURCE_DIR}/core/locks/record.c"
    "${PROJECT_SOURCE_DIR}/core/locks/rwmark.c"
)
aflock_add_test(layers COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/layers" "${PROJECT_SOURCE_DIR}")

# Other people's loops, as far as they are here.
set(loops "")
set(loop_libraries "")
foreach(loop IN ITEMS libevent libev libuv)
    if(TARGET aflock-${loop})
        list(APPEND loops ${loop})
        list(APPEND loop_libraries $<TARGET_FILE:aflock-${loop}>)
    endif()
endforeach()

set(nginx_includes "")
if(TARGET aflock-nginx-static AND AFLOCK_NGINX)
    get_target_property(nginx_includes aflock-found-nginx INTERFACE_INCLUDE_DIRECTORIES)
endif()

if(NOT AFLOCK_INSTRUMENT)
    aflock_add_test(readme COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/readme" "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}"
        "${CMAKE_C_COMPILER}"
    )
    if(AFLOCK_BUILD_SHARED)
        aflock_add_test(package TIMEOUT 180
            COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/package/run" "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}"
            "${CMAKE_C_COMPILER}" "${CMAKE_GENERATOR}" ${loops}
        )
        string(REPLACE ";" "\\;" nginx_includes "${nginx_includes}")
        set_property(TEST package APPEND PROPERTY ENVIRONMENT
            "AFLOCK_NGINX=${AFLOCK_NGINX}" "AFLOCK_NGINX_INCLUDES=${nginx_includes}"
        )
        aflock_add_test(symbols COMMAND "${PROJECT_SOURCE_DIR}/scripts/symbols"
            $<TARGET_FILE:aflock> $<TARGET_FILE:aflock-kit> $<TARGET_FILE:aflock-epoll>
            $<$<TARGET_EXISTS:aflock-recipes>:$<TARGET_FILE:aflock-recipes>>
            ${loop_libraries}
        )
    endif()
endif()

if(CMAKE_BUILD_TYPE STREQUAL "Release" AND CMAKE_EXPORT_COMPILE_COMMANDS AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    aflock_add_test(optimised COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/optimised" "${PROJECT_BINARY_DIR}" ${AFLOCK_TEST_ACROSS_FILES}
        $<TARGET_OBJECTS:aflock-machine>
    )
endif()

# ---------------------------------------------------------------------------------------------------- other programs

aflock_program(interop-peer SOURCES interop/peer.c LIBRARIES aflock::epoll-static)
add_executable(interop-ofdlock command/ofdlock.c) # nothing of ours, not even the settings
aflock_add_test(interop COMMAND /usr/bin/python3 "${CMAKE_CURRENT_SOURCE_DIR}/interop/run"
    $<TARGET_FILE:interop-peer> $<TARGET_FILE:interop-ofdlock>
)

# ----------------------------------------------------------------------------------------------------- the command

if(AFLOCK_INSTRUMENT STREQUAL "coverage")
    target_sources(aflock-command PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/support/flush_coverage.c")
    target_link_options(aflock-command PRIVATE LINKER:--wrap=_exit,--wrap=raise)
endif()
set(command_tests /usr/bin/python3 -B "${CMAKE_CURRENT_SOURCE_DIR}/command")
set(command_test ${command_tests}/run)
set(form "")
if(CMAKE_EXE_LINKER_FLAGS MATCHES "-static")
    set(form --static)
endif()
aflock_add_test(command TIMEOUT 120 COMMAND ${command_test} $<TARGET_FILE:aflock-command> ${form})
if(NOT AFLOCK_INSTRUMENT)
    # What is expected of both is indeed what flock(1) does.
    aflock_add_test(command_expectations TIMEOUT 120 COMMAND ${command_test} /usr/bin/flock)
endif()
aflock_add_test(command_files TIMEOUT 120 COMMAND ${command_tests}/files $<TARGET_FILE:aflock-command> ${form})
aflock_add_test(command_verify TIMEOUT 120 COMMAND ${command_tests}/verify $<TARGET_FILE:aflock-command> ${form})
aflock_add_test(command_kinds TIMEOUT 120 COMMAND ${command_tests}/kinds $<TARGET_FILE:aflock-command> ${form})
aflock_add_test(command_completion COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/command/completion"
    "${PROJECT_SOURCE_DIR}/tools/aflock/completion.bash" $<TARGET_FILE:aflock-command>
)
aflock_add_test(manual COMMAND mandoc -T lint -W warning "${PROJECT_SOURCE_DIR}/tools/aflock/aflock.1")

# ------------------------------------------------------------------------------------------- the demo and the examples

aflock_add_test(demo COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/demo" "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}")
aflock_add_test(poll_loop COMMAND poll_loop)
aflock_add_test(polite TIMEOUT 240 COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/polite" $<TARGET_FILE:polite>)
aflock_add_test(singleton COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/singleton" $<TARGET_FILE:singleton>)

if(TARGET settings)
    aflock_add_test(settings COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/settings" $<TARGET_FILE:settings>)
endif()

# ------------------------------------------------------------- the examples of the recipes, and those on other loops

foreach(example IN ITEMS at_most transfer libevent_journal libev_spool libuv_mix)
    if(TARGET ${example})
        aflock_add_test(examples.${example} TIMEOUT 120 COMMAND /usr/bin/python3
            "${CMAKE_CURRENT_SOURCE_DIR}/examples/${example}" $<TARGET_FILE:${example}>
        )
    endif()
endforeach()

# ------------------------------------------------------------------------------------------------- the module for nginx

add_subdirectory(nginx)
add_subdirectory(nginx_load)

# ------------------------------------------------------------------------------------------------- the agent for HAProxy

if(TARGET aflock-spoa)
    foreach(part IN ITEMS frames locks)
        aflock_add_test(haproxy.${part} TIMEOUT 120
            COMMAND /usr/bin/python3 "${CMAKE_CURRENT_SOURCE_DIR}/haproxy/${part}" $<TARGET_FILE:aflock-spoa>
        )
    endforeach()
    aflock_add_test(haproxy.servers TIMEOUT 120
        COMMAND /usr/bin/python3 "${CMAKE_CURRENT_SOURCE_DIR}/haproxy/servers" $<TARGET_FILE:aflock-spoa>
        "${PROJECT_SOURCE_DIR}/examples/haproxy"
    )
endif()

# ------------------------------------------------------------------------------------------------------------ real NFS

add_subdirectory(nfs)
