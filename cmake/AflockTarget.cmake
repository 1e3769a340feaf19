# What every target of ours has in common: the language, the warnings, the instrumentation.

set(AFLOCK_WARNINGS
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow
    -Wstrict-prototypes -Wmissing-prototypes -Wvla
)

if(AFLOCK_INSTRUMENT STREQUAL "")
    set(AFLOCK_INSTRUMENT_FLAGS "")
elseif(AFLOCK_INSTRUMENT STREQUAL "coverage")
    # Atomic: the pool's threads count too.
    set(AFLOCK_INSTRUMENT_FLAGS --coverage -fprofile-update=atomic)
else()
    set(AFLOCK_INSTRUMENT_FLAGS -fsanitize=${AFLOCK_INSTRUMENT} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()

# aflock_target(NAME): the settings of a target of ours.
function(aflock_target name)
    set_target_properties(${name} PROPERTIES
        C_STANDARD 11
        C_STANDARD_REQUIRED ON
        C_EXTENSIONS OFF
        C_VISIBILITY_PRESET hidden
    )
    target_compile_options(${name} PRIVATE ${AFLOCK_WARNINGS} ${AFLOCK_INSTRUMENT_FLAGS})
    target_link_options(${name} PRIVATE ${AFLOCK_INSTRUMENT_FLAGS})
    target_compile_definitions(${name} PRIVATE _GNU_SOURCE _FILE_OFFSET_BITS=64 _TIME_BITS=64)
endfunction()

# aflock_links_plainly(NAME): else gcc optimises across the libraries' files wherever they allow it.
function(aflock_links_plainly name)
    if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
        target_link_options(${name} PRIVATE
            "$<$<NOT:$<BOOL:$<TARGET_PROPERTY:INTERPROCEDURAL_OPTIMIZATION>>>:-fno-lto>"
        )
    endif()
endfunction()

# aflock_program(NAME SOURCES file... LIBRARIES target...): a program of ours.
function(aflock_program name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
    add_executable(${name} ${arg_SOURCES})
    aflock_target(${name})
    target_link_libraries(${name} PRIVATE ${arg_LIBRARIES})
    aflock_links_plainly(${name})
endfunction()
