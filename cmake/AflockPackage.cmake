# The installed CMake package. Included last, when all components are known.
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/aflock")

get_property(AFLOCK_COMPONENTS GLOBAL PROPERTY AFLOCK_COMPONENTS)
list(JOIN AFLOCK_COMPONENTS ", " AFLOCK_COMPONENTS_TEXT)
configure_package_config_file(cmake/aflock-config.cmake.in "${PROJECT_BINARY_DIR}/aflock-config.cmake"
    INSTALL_DESTINATION "${package_dir}"
    NO_SET_AND_CHECK_MACRO
)
# Before 1.0 a new minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/aflock-config-version.cmake" COMPATIBILITY SameMinorVersion)

install(EXPORT aflock-targets NAMESPACE aflock:: DESTINATION "${package_dir}")
install(FILES "${PROJECT_BINARY_DIR}/aflock-config.cmake" "${PROJECT_BINARY_DIR}/aflock-config-version.cmake"
    DESTINATION "${package_dir}"
)
