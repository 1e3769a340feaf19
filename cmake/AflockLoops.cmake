# Other people's loops: whether their adapters can be built, and are wanted.
#
# aflock_loop(NAME HEADER LIBRARY) offers the option AFLOCK_ADAPTER_<NAME>, on where the loop is installed (inside another
# project it has to be asked for), and makes the target aflock-found-<name> with its include folder. A loop in an unusual
# place: CMAKE_PREFIX_PATH.
function(aflock_loop name header library)
    string(TOUPPER "${name}" upper)
    find_path(AFLOCK_${upper}_INCLUDE_DIR ${header})
    find_library(AFLOCK_${upper}_LIBRARY ${library})
    mark_as_advanced(AFLOCK_${upper}_INCLUDE_DIR AFLOCK_${upper}_LIBRARY)
    set(found OFF)
    set(wanted OFF)
    if(AFLOCK_${upper}_INCLUDE_DIR AND AFLOCK_${upper}_LIBRARY)
        set(found ON)
        set(wanted ${PROJECT_IS_TOP_LEVEL})
    endif()
    cmake_dependent_option(AFLOCK_ADAPTER_${upper} "Build aflock-${name}: contexts on a ${name} loop" ${wanted}
        "AFLOCK_KIT" OFF
    )
    if(NOT AFLOCK_ADAPTER_${upper})
        return()
    endif()
    if(NOT found)
        message(FATAL_ERROR "AFLOCK_ADAPTER_${upper} is ON, but ${header} or the library ${library} is not to be found")
    endif()
    add_library(aflock-found-${name} INTERFACE)
    target_include_directories(aflock-found-${name} SYSTEM INTERFACE "${AFLOCK_${upper}_INCLUDE_DIR}")
    add_subdirectory("${PROJECT_SOURCE_DIR}/adapters/${name}" "${PROJECT_BINARY_DIR}/adapters/${name}")
endfunction()
