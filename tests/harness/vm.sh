#!/usr/bin/env bash
# Makes what vm.rs boots: a machine that has cgroup v2 alone, with parts of it delegated.
#
#   tests/harness/vm.sh kernel DIR                         DIR/vmlinuz, DIR/modules: Debian's kernel for clouds, unpacked
#   tests/harness/vm.sh disk DIR KERNEL PROGRAMS LAYOUT    DIR/initramfs, DIR/disk: guest.sh, the programs, an image
#
# Needs no root: nothing is installed or mounted here, and the machine itself makes everything root's.
set -euo pipefail
. "$(dirname "$0")/system.sh"
PATH=$PATH:/usr/sbin:/sbin

# The disk, the port, the file systems of stores and containers. A kernel has some of them built in.
MODULES="virtio_pci virtio_blk virtio_console ext4 overlay"

# Takes the package apart instead of installing it, which would make an initramfs and a boot entry for this machine.
kernel() {
    local package version work
    work=$(mktemp -d) && trap "rm -rf '$work'" EXIT && chmod 755 "$work"
    package=$(kernel_package) || { as_root apt-get update -qq; package=$(kernel_package); } ||
        fail "apt knows no linux-image-cloud-amd64" "this machine's lists of packages are not Debian's for amd64"
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package") ||
        { as_root apt-get update -qq && (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package"); }
    dpkg-deb --extract "$work"/*.deb "$work"
    # Debian 13 has /usr/lib/modules.
    [ -d "$work/lib" ] || ln -s usr/lib "$work/lib"
    version=$(ls "$work/lib/modules")
    busybox depmod -b "$work" "$version"
    mkdir -p "$1"
    cp "$work/boot/vmlinuz-$version" "$1/vmlinuz"
    modules_in_order "$work/lib/modules/$version" >"$work/order"
    mkdir "$1/modules"
    local number=100 module
    while read -r module; do
        cp "$work/lib/modules/$version/$module" "$1/modules/$((number++))-${module##*/}"
    done <"$work/order"
}

# The meta package depends on the one package that holds the current kernel.
kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" {print $2; found = 1; exit} END {exit !found}'; }

# modules_in_order FOLDER: the wanted modules and what they depend on, each after all that it depends on.
modules_in_order() {
    awk -v wanted="$MODULES" '
        { sub(":", "", $1); name = $1; sub(".*/", "", name); sub("[.]ko.*", "", name); path[name] = $1
          for (i = 2; i <= NF; i++) needs[$1] = needs[$1] " " $i }
        function visit(file,  list, count, i) {
            if (seen[file]++) return
            count = split(needs[file], list, " ")
            for (i = 1; i <= count; i++) visit(list[i])
            print file
        }
        END { count = split(wanted, list, " "); for (i = 1; i <= count; i++) if (list[i] in path) visit(path[list[i]]) }
    ' "$1/modules.dep"
}

disk() {
    local dir=$1 kernel=$2 programs=$3 layout=$4 root=$1/root name
    initramfs "$dir" "$kernel"
    mkdir -p "$root"/{bin,dev,etc,home/user,layout,opt/layerfs,proc,root,run,sbin,sys,tmp,usr/bin,var/lib}
    cp /bin/busybox "$root/bin/busybox"
    for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"; done
    install -m 755 "$TOP/tests/harness/guest.sh" "$root/sbin/init"
    for name in newuidmap newgidmap; do with_libraries "$(type -P $name)" "$root/usr/bin/$name" "$root"; done
    # The one of busybox cannot change the user, and its shell prefers it where no path is given.
    with_libraries "$(type -P setpriv)" "$root/sbin/setpriv" "$root"
    for name in $PROGRAMS; do with_libraries "$programs/$name" "$root/opt/layerfs/$name" "$root"; done
    for name in build copy run layerfs-runtime; do ln -s "$(readlink "$programs/$name")" "$root/opt/layerfs/$name"; done
    cp -r "$layout/." "$root/layout"
    printf '%s\n' root:x:0:0:root:/root:/bin/sh user:x:1000:1000:user:/home/user:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: user:x:1000: >"$root/etc/group"
    echo user:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
    # Without a journal: nothing on it outlives the machine.
    truncate -s 1G "$dir/disk"
    mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$root" "$dir/disk"
    rm -rf "$root"
}

# The first root file system cannot be pivoted away from, and every container begins with that.
initramfs() {
    local root=$1/first
    mkdir -p "$root"/{bin,dev,root}
    cp /bin/busybox "$root/bin/busybox"
    cp -r "$2/modules" "$root/modules"
    cat >"$root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox mount -t devtmpfs dev /dev
		for module in /modules/*; do /bin/busybox insmod "$module"; done
		/bin/busybox mount -t ext4 /dev/vda /root && exec /bin/busybox switch_root /root /sbin/init
	INIT
    chmod 755 "$root/init"
    (cd "$root" && find . | busybox cpio --quiet -o -H newc) >"$1/initramfs"
    rm -rf "$root"
}

# with_libraries PROGRAM TARGET ROOT: copies a program, and what it is linked with to where it looks for that.
with_libraries() {
    install -m 755 "$1" "$2"
    local library
    for library in $(ldd "$1" | awk '$2 == "=>" {print $3} $1 ~ /^\// {print $1}'); do
        install -m 755 -D "$library" "$3$library"
    done
}

case "${1:-}" in
    kernel | disk) "$@" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
