# What llama.cpp's Vulkan backend is built with. Source it after lib.sh.
# shellcheck shell=bash disable=SC2154 # set by lib.sh

# The first headers with VK_EXT_layer_settings, which llama.cpp uses; Debian 12 has 1.3.239.
oldest_vulkan_headers=272
newer_vulkan_suite=trixie

# need_vulkan: the loader, the compiler of shaders and the headers. Sets VULKAN_SDK where the system's headers are too
# old: newer ones, beside the system's own loader, so that no newer C library is asked for.
need_vulkan() {
    local version root arch
    need_packages "building for graphics processors" "${build_packages[@]}" libvulkan-dev glslc spirv-headers
    # whoever has an SDK of their own means it
    [ -z "${VULKAN_SDK:-}" ] || return 0
    version=$(sed -n 's/^#define VK_HEADER_VERSION \([0-9]*\)$/\1/p' /usr/include/vulkan/vulkan_core.h)
    [ "${version:-0}" -lt "$oldest_vulkan_headers" ] || return 0
    root=${XDG_CACHE_HOME:-$HOME/.cache}/bramble/sysroots/vulkan-headers-$newer_vulkan_suite
    if [ ! -d "$root" ]; then
        say "fetching Vulkan's headers of Debian $newer_vulkan_suite, once: $root"
        need_packages "fetching Vulkan's headers" mmdebstrap debian-archive-keyring
        arch=$(dpkg --print-architecture)
        mkdir -p "${root%/*}"
        as_root rm -rf "$root.new" "$root.all"
        as_root mmdebstrap --quiet --variant=extract --architectures="$arch" \
            --include=libvulkan-dev,spirv-headers "$newer_vulkan_suite" "$root.all" \
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $newer_vulkan_suite main" >&2
        as_root mkdir -p "$root.new/include" "$root.new/lib" "$root.new/share"
        # not the C library's: they belong to another system
        as_root cp -a "$root.all"/usr/include/{vulkan,vk_video,spirv} "$root.new/include/"
        as_root cp -a "$root.all/usr/share/cmake" "$root.new/share/"
        as_root ln -s "/usr/lib/$(uname -m)-linux-gnu/libvulkan.so.1" "$root.new/lib/libvulkan.so"
        as_root rm -rf "$root.all"
        as_root chmod -R a+rX "$root.new"
        as_root mv "$root.new" "$root"
    fi
    export VULKAN_SDK=$root
}
