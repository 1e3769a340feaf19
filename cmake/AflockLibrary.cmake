# One call makes one library: its shared and static form, its aliases, its install rules and its pkg-config file.
#
#   aflock_library(NAME
#       COMPONENT  its name after aflock::
#       DESCRIPTION "one line"
#       SOURCES    file...
#       OBJECTS    object-library...   compiled apart, with this library's settings
#       HEADERS    file...             public ones, below include/
#       PUBLIC     component...        libraries of ours whose headers ours include
#       PRIVATE    component...        libraries of ours that only the code needs
#       THREADS                        the code needs threads
#       EXTERNAL   interface           a target with the include folders of somebody else's library that the code needs,
#       LINK       name...             what to link for it, and
#       REQUIRES   name...             its names for pkg-config; without: the names of LINK
#       STATIC                         there is no shared form
#       MODULE_LINK option...          how programs or modules that use the static form are to be linked
#   )
#
# aflock::COMPONENT is the shared library, or the static one if that is all that is built; aflock::COMPONENT-static is
# the static one. The sources are compiled once, position-independent, for both.

set(AFLOCK_SOVERSION 0)

# The settings of code that goes into a library.
function(aflock_objects name)
    add_library(${name} OBJECT ${ARGN})
    aflock_target(${name})
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_compile_definitions(${name} PRIVATE AFLOCK_BUILDING)
    target_include_directories(${name} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/include")
endfunction()

function(aflock_library name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "STATIC;THREADS" "COMPONENT;DESCRIPTION;EXTERNAL"
        "SOURCES;OBJECTS;HEADERS;PUBLIC;PRIVATE;LINK;REQUIRES;MODULE_LINK"
    )
    set(shared ${AFLOCK_BUILD_SHARED})
    if(arg_STATIC)
        set(shared OFF)
    endif()

    aflock_objects(${name}-objects ${arg_SOURCES})
    foreach(component IN LISTS arg_PUBLIC arg_PRIVATE)
        target_link_libraries(${name}-objects PRIVATE aflock::${component})
    endforeach()
    if(arg_THREADS)
        find_package(Threads REQUIRED)
        target_link_libraries(${name}-objects PRIVATE Threads::Threads)
    endif()
    if(arg_EXTERNAL)
        target_link_libraries(${name}-objects PRIVATE ${arg_EXTERNAL})
        # Its structs are as large as it was built, whatever size of time_t and off_t is ours.
        target_compile_options(${name}-objects PRIVATE -U_TIME_BITS -U_FILE_OFFSET_BITS)
    endif()

    set(targets "")
    if(shared)
        aflock_library_form(${name} SHARED "")
        set_target_properties(${name} PROPERTIES
            VERSION ${PROJECT_VERSION}
            SOVERSION ${AFLOCK_SOVERSION}
            INSTALL_RPATH "$ORIGIN" # the libraries find each other wherever they are installed
        )
        # An abandoned pool thread returns into the library: it must never be unloaded.
        target_link_options(${name} PRIVATE ${AFLOCK_INSTRUMENT_FLAGS} -Wl,-z,nodelete)
        if(NOT AFLOCK_INSTRUMENT)
            target_link_options(${name} PRIVATE -Wl,-z,defs)
        endif()
        list(APPEND targets ${name})
    endif()
    if(AFLOCK_BUILD_STATIC)
        aflock_library_form(${name}-static STATIC -static)
        list(APPEND targets ${name}-static)
    endif()
    if(NOT shared)
        add_library(aflock::${arg_COMPONENT} ALIAS ${name}-static)
    endif()

    if(AFLOCK_INSTALL)
        install(TARGETS ${targets} EXPORT aflock-targets)
        install(FILES ${arg_HEADERS} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/aflock")
        aflock_pkg_config()
        set_property(GLOBAL APPEND PROPERTY AFLOCK_COMPONENTS ${arg_COMPONENT})
    endif()
endfunction()

# One form of the library of aflock_library, linked to the same form of those it needs.
macro(aflock_library_form target kind suffix)
    add_library(${target} ${kind} $<TARGET_OBJECTS:${name}-objects>)
    add_library(aflock::${arg_COMPONENT}${suffix} ALIAS ${target})
    foreach(objects IN LISTS arg_OBJECTS)
        target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
    endforeach()
    foreach(component IN LISTS arg_PUBLIC)
        target_link_libraries(${target} PUBLIC aflock::${component}${suffix})
    endforeach()
    foreach(component IN LISTS arg_PRIVATE)
        target_link_libraries(${target} PRIVATE aflock::${component}${suffix})
    endforeach()
    if(arg_THREADS)
        target_link_libraries(${target} PRIVATE Threads::Threads)
    endif()
    target_link_libraries(${target} PRIVATE ${arg_LINK})
    target_link_options(${target} INTERFACE ${arg_MODULE_LINK})
    target_include_directories(${target} PUBLIC
        "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>"
        "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>"
    )
    set_target_properties(${target} PROPERTIES
        OUTPUT_NAME ${name}
        EXPORT_NAME ${arg_COMPONENT}${suffix}
        LINKER_LANGUAGE C
    )
endmacro()

# The pkg-config file of the library of aflock_library. Its paths are relative to itself, so that an installed tree can
# be moved.
macro(aflock_pkg_config)
    set(pc_name ${name})
    set(pc_description "${arg_DESCRIPTION}")
    set(pc_requires ${arg_PUBLIC})
    set(pc_requires_private ${arg_PRIVATE})
    set(pc_required_by pc_requires_private) # somebody else's library
    set(pc_libs "")
    set(pc_libs_private "")
    if(arg_THREADS)
        set(pc_libs_private " -pthread")
    endif()
    if(NOT arg_REQUIRES)
        foreach(library IN LISTS arg_LINK)
            string(APPEND pc_libs_private " -l${library}")
        endforeach()
    endif()
    foreach(option IN LISTS arg_MODULE_LINK)
        string(REPLACE "LINKER:" "-Wl," option "${option}")
        string(APPEND pc_libs_private " ${option}")
    endforeach()
    if(NOT shared)
        # Whoever links with the static library, the only one, needs everything.
        list(APPEND pc_requires ${pc_requires_private})
        set(pc_requires_private "")
        set(pc_required_by pc_requires)
        set(pc_libs "${pc_libs_private}")
        set(pc_libs_private "")
    endif()
    foreach(list IN ITEMS pc_requires pc_requires_private)
        list(TRANSFORM ${list} PREPEND "aflock-")
        list(TRANSFORM ${list} REPLACE "^aflock-aflock$" "aflock")
    endforeach()
    list(APPEND ${pc_required_by} ${arg_REQUIRES})
    list(JOIN pc_requires ", " pc_requires)
    list(JOIN pc_requires_private ", " pc_requires_private)
    if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
        set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
    else()
        file(RELATIVE_PATH pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
        string(REGEX REPLACE "/$" "" pc_prefix "\${pcfiledir}/${pc_prefix}")
    endif()
    foreach(dir IN ITEMS LIBDIR INCLUDEDIR)
        if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
            set(pc_${dir} "${CMAKE_INSTALL_${dir}}")
        else()
            set(pc_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
        endif()
    endforeach()
    configure_file("${PROJECT_SOURCE_DIR}/cmake/library.pc.in" "${PROJECT_BINARY_DIR}/pkgconfig/${name}.pc" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/pkgconfig/${name}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endmacro()
