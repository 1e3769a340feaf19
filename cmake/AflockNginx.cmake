# nginx: whether its adapter can be built, and is wanted; and how modules for it are made.
#
# AFLOCK_NGINX_SOURCE is what nginx's headers are taken from: Debian's package nginx-dev, or a source tree that somebody
# has configured. The option AFLOCK_ADAPTER_NGINX is on where there is one (inside another project it has to be asked
# for). aflock-found-nginx has its include folders.
#
#   aflock_nginx_module(NAME SOURCES file... MODULES ngx_..._module... [HTTP] [LIBRARIES target...])
#
# makes the loadable module NAME.so from sources that define the named modules; HTTP: they include ngx_http.h.
# Tests need nginx itself, too: AFLOCK_NGINX, that of the source tree if it was built there. AFLOCK_NGINX_LOADS says
# whether it can load what this build makes, with AFLOCK_NGINX_PRELOAD, if that is not empty, before it (LD_PRELOAD).

find_path(AFLOCK_NGINX_SOURCE src/core/nginx.h PATHS /usr/share/nginx/src NO_DEFAULT_PATH)
mark_as_advanced(AFLOCK_NGINX_SOURCE)
set(found OFF)
set(wanted OFF)
if(EXISTS "${AFLOCK_NGINX_SOURCE}/objs/ngx_auto_config.h" OR EXISTS "${AFLOCK_NGINX_SOURCE}/conf_flags")
    set(found ON)
    set(wanted ${PROJECT_IS_TOP_LEVEL})
endif()
cmake_dependent_option(AFLOCK_ADAPTER_NGINX "Build aflock-nginx: contexts in modules for nginx" ${wanted}
    "AFLOCK_KIT;AFLOCK_BUILD_STATIC" OFF
)
if(NOT AFLOCK_ADAPTER_NGINX)
    return()
endif()
if(NOT found)
    message(FATAL_ERROR "AFLOCK_ADAPTER_NGINX is ON, but in AFLOCK_NGINX_SOURCE (${AFLOCK_NGINX_SOURCE}) there is neither "
        "Debian's nginx-dev nor a source tree of nginx on which configure was run"
    )
endif()

# Debian's package has all headers but two that configure makes, for the compiler and the settings of Debian's nginx.
set(nginx_objs "${AFLOCK_NGINX_SOURCE}/objs")
if(NOT EXISTS "${nginx_objs}/ngx_auto_config.h")
    set(nginx_objs "${PROJECT_BINARY_DIR}/nginx")
    file(MAKE_DIRECTORY "${nginx_objs}")
    add_custom_command(
        OUTPUT "${nginx_objs}/ngx_auto_config.h" "${nginx_objs}/ngx_auto_headers.h"
        COMMAND "${CMAKE_CURRENT_LIST_DIR}/nginx-headers" "${AFLOCK_NGINX_SOURCE}" "${nginx_objs}" "${CMAKE_C_COMPILER}"
        DEPENDS "${CMAKE_CURRENT_LIST_DIR}/nginx-headers" "${AFLOCK_NGINX_SOURCE}/configure"
            "${AFLOCK_NGINX_SOURCE}/conf_flags"
        COMMENT "Configuring nginx's headers"
        VERBATIM
    )
endif()
add_custom_target(aflock-nginx-headers
    DEPENDS "${nginx_objs}/ngx_auto_config.h" "${nginx_objs}/ngx_auto_headers.h"
)

# aflock_nginx_includes(TARGET FOLDER...): folders of nginx's; its headers are not ours to have warnings.
function(aflock_nginx_includes target)
    foreach(folder IN LISTS ARGN)
        if(EXISTS "${AFLOCK_NGINX_SOURCE}/src/${folder}")
            target_include_directories(${target} SYSTEM INTERFACE "${AFLOCK_NGINX_SOURCE}/src/${folder}")
        endif()
    endforeach()
endfunction()

add_library(aflock-found-nginx INTERFACE)
add_dependencies(aflock-found-nginx aflock-nginx-headers)
target_include_directories(aflock-found-nginx SYSTEM INTERFACE "${nginx_objs}")
aflock_nginx_includes(aflock-found-nginx core event event/modules event/quic os/unix)

add_library(aflock-found-nginx-http INTERFACE)
target_link_libraries(aflock-found-nginx-http INTERFACE aflock-found-nginx)
aflock_nginx_includes(aflock-found-nginx-http http http/modules http/v2 http/v3)

add_subdirectory("${PROJECT_SOURCE_DIR}/adapters/nginx")

find_program(AFLOCK_NGINX nginx HINTS "${nginx_objs}" PATHS /usr/sbin /usr/local/sbin)
mark_as_advanced(AFLOCK_NGINX)

# A sanitizer's runtime has to come before everything else. gcc has it as a library of its own, which can be preloaded.
set(AFLOCK_NGINX_LOADS OFF)
set(AFLOCK_NGINX_PRELOAD "")
if(AFLOCK_NGINX AND AFLOCK_INSTRUMENT MATCHES "^(coverage)?$")
    set(AFLOCK_NGINX_LOADS ON)
elseif(AFLOCK_NGINX AND AFLOCK_INSTRUMENT MATCHES "address" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    set(AFLOCK_NGINX_LOADS ON)
    execute_process(COMMAND "${CMAKE_C_COMPILER}" -print-file-name=libasan.so
        OUTPUT_VARIABLE AFLOCK_NGINX_PRELOAD OUTPUT_STRIP_TRAILING_WHITESPACE
    )
endif()

# What nginx's own build writes for a module: the three tables that it looks for.
function(aflock_nginx_module name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "HTTP" "" "SOURCES;MODULES;LIBRARIES")
    set(declarations "")
    set(addresses "")
    set(names "")
    foreach(module IN LISTS arg_MODULES)
        string(APPEND declarations "extern ngx_module_t ${module};\n")
        string(APPEND addresses "&${module}, ")
        string(APPEND names "\"${module}\", ")
    endforeach()
    file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${name}_modules.c" @ONLY CONTENT [[
#include <ngx_config.h>

#include <ngx_core.h>

@declarations@
#define TABLE extern __attribute__((visibility("default")))

TABLE ngx_module_t *ngx_modules[];
TABLE char *ngx_module_names[];
TABLE char *ngx_module_order[];

ngx_module_t *ngx_modules[] = {@addresses@NULL};
char *ngx_module_names[] = {@names@NULL};
char *ngx_module_order[] = {NULL};
]])
    add_library(${name} MODULE ${arg_SOURCES} "${CMAKE_CURRENT_BINARY_DIR}/${name}_modules.c")
    aflock_target(${name})
    aflock_links_plainly(${name})
    set_target_properties(${name} PROPERTIES PREFIX "")
    # nginx's structs are as large as it was built, whatever size of time_t and off_t is ours.
    target_compile_options(${name} PRIVATE -U_TIME_BITS -U_FILE_OFFSET_BITS)
    target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} aflock-found-nginx$<$<BOOL:${arg_HTTP}>:-http>)
endfunction()
