# shellcheck shell=bash
# loops.sh: other people's loops that we have adapters for: their packages, and the settings that demand the adapters,
# which otherwise are built where a loop happens to be installed.
# shellcheck disable=SC2034 # used by those who source it
loop_packages=(libevent-dev libev-dev libuv1-dev nginx nginx-dev)
# shellcheck disable=SC2034
loop_settings=(-DAFLOCK_ADAPTER_LIBEVENT=ON -DAFLOCK_ADAPTER_LIBEV=ON -DAFLOCK_ADAPTER_LIBUV=ON -DAFLOCK_ADAPTER_NGINX=ON)
