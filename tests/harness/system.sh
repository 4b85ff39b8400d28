# What the scripts of this project share: steps with times, packages, a compiler, the programs, a registry.
# Sourced, never run. Sets no option of the shell; every caller has `set -euo pipefail`.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PROGRAMS="layerfs-build layerfs-copy layerfs-run"

# ---- words on the terminal ----

fail() { printf '%s: %s\n' "${0##*/}" "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 1; }

# step TITLE COMMAND…: prints the title, runs the command here (not in a subshell), prints how long it took.
step() {
    local title=$1 from=${EPOCHREALTIME/[.,]/}; shift
    printf '\n== %s\n' "$title"
    "$@"
    local took=$((${EPOCHREALTIME/[.,]/} - from))
    printf -- '-- %d.%02d s\n' $((took / 1000000)) $((took % 1000000 / 10000))
}

# show COMMAND…: prints a command the way one would type it, then runs it.
show() { printf '$ %s\n' "$*"; "$@"; }

# ---- the machine ----

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -- "$@"
    else fail "\`$1\` needs root and there is no sudo" "run this as root"; fi
}

# as_user USER COMMAND…: runs a command as an ordinary user, with no capability, no extra group and a clean
# environment besides what the caller put into USER_ENV. `su` and `sudo` would each need their own set-up.
USER_ENV=()
as_user() {
    local user=$1 home; shift
    home=$(getent passwd "$user" | cut -d: -f6)
    local run=(env -i "HOME=$home" "USER=$user" "LOGNAME=$user" "PATH=$PATH" "TERM=${TERM:-dumb}" "${USER_ENV[@]}")
    [ ! -d "/run/user/$(id -u "$user")" ] || run+=("XDG_RUNTIME_DIR=/run/user/$(id -u "$user")")
    if [ "$(id -u)" = "$(id -u "$user")" ]; then "${run[@]}" "$@"
    else as_root setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups --inh-caps=-all "${run[@]}" "$@"; fi
}

# need_packages NAME…: installs those of the named packages that are missing. A mirror's bad minute is waited out once.
need_packages() {
    local missing=() name
    for name; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "these packages are missing and there is no apt-get: ${missing[*]}"
    echo "installing ${missing[*]}"
    local try
    for try in 1 2; do
        if as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null; then
            return 0
        fi
        [ "$try" = 2 ] || echo "apt-get failed, trying once more"
    done
    fail "could not install ${missing[*]}" "read apt-get's lines above"
}

# Debian's docker-registry starts a service of that name at once. The tests run their own on a free port and leave
# no other behind than the one the machine had before.
need_registry() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' docker-registry 2>/dev/null)" != installed ] || return 0
    need_packages docker-registry
    [ ! -d /run/systemd/system ] || as_root systemctl disable --quiet --now docker-registry 2>/dev/null || true
}

# ---- the compiler ----

wanted_rust() { sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' "$TOP/Cargo.toml"; }

rust_is_new_enough() {
    command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
    local have
    have=$(cd "$TOP" && rustc --version 2>/dev/null | awk '{print $2}') && [ -n "$have" ] || return 1
    [ "$(printf '%s\n' "$(wanted_rust)" "$have" | sort -V | head -n 1)" = "$(wanted_rust)" ]
}

# need_rust [also-lints]: a cargo not older than rust-version, with clippy and rustfmt when asked. A toolchain that is
# there already is taken as it is, also from ~/.cargo/bin, which sudo drops from PATH.
need_rust() {
    local lints=()
    [ "${1:-}" != also-lints ] || lints=(rust-web-clippy rustfmt-web)
    [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
    need_packages gcc libc6-dev ca-certificates
    if ! rust_is_new_enough; then
        echo "no cargo of $(wanted_rust) or newer here: taking Debian's"
        need_packages cargo-web rustc-web "${lints[@]}"
        hash -r
        PATH=/usr/bin:$PATH
        rust_is_new_enough || fail "this system's cargo is older than $(wanted_rust)" \
            "install a newer one from https://rustup.rs and start this again"
    elif [ ${#lints[@]} -gt 0 ] && ! { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1; then
        need_packages "${lints[@]}"
    fi
    echo "$(rustc --version), $(cargo --version)"
}

# ---- the programs ----

target_dir() {
    cargo metadata --manifest-path "$TOP/Cargo.toml" --locked --no-deps --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

build_release() { cargo build --manifest-path "$TOP/Cargo.toml" --release --locked "$@"; }

# install_programs PREFIX [PROFILE-DIR]: puts the three programs and their other names under PREFIX/bin. A program that
# runs at this moment keeps its old file, because each new one is renamed into place.
install_programs() {
    local bin=$1/bin built name
    built=$(target_dir)/${2:-release}
    mkdir -p "$bin"
    for name in $PROGRAMS; do
        install -m 0755 "$built/$name" "$bin/.$name.new"
        mv -f "$bin/.$name.new" "$bin/$name"
        ln -sfn "$name" "$bin/${name#layerfs-}"
    done
    ln -sfn layerfs-run "$bin/layerfs-runtime"
    ln -sfn layerfs-run "$bin/layerfs-fuse"
}

# ---- parts for tests and demonstrations ----

# start_registry DIR: starts Debian's docker-registry on a free loopback port with its data in DIR; sets REGISTRY to
# host:port and REGISTRY_PID. The kernel chooses the port and the registry's own log names it, so nothing can race.
start_registry() {
    mkdir -p "$1/data"
    printf '%s\n' 'version: 0.1' 'log: {level: info}' "storage: {filesystem: {rootdirectory: $1/data}, delete: {enabled: true}}" \
        'http: {addr: "127.0.0.1:0", secret: loopback}' >"$1/config.yml"
    rm -f "$1/log" && mkfifo "$1/log"
    docker-registry serve "$1/config.yml" >"$1/log" 2>&1 </dev/null &
    REGISTRY_PID=$!
    local line
    exec {REGISTRY_LOG}<"$1/log"
    REGISTRY=
    while [ -z "$REGISTRY" ] && IFS= read -r -t 20 line <&"$REGISTRY_LOG"; do
        [[ $line != *'listening on '127.0.0.1:* ]] || REGISTRY=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' <<<"$line")
    done
    [ -n "$REGISTRY" ] || fail "docker-registry did not start" "its last line: ${line:-none}"
    cat <&"$REGISTRY_LOG" >"$1/requests.log" &
}

stop_registry() {
    [ -z "${REGISTRY_PID:-}" ] || { kill "$REGISTRY_PID" && wait "$REGISTRY_PID"; } 2>/dev/null || true
    REGISTRY_PID=
}

# debian_root TAR: a small real Debian as a tar, made once and kept. Takes the suite and mirror this machine uses.
debian_root() {
    [ ! -s "$1" ] || { echo "kept from before: $1"; return 0; }
    local suite
    suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || suite=
    as_root mmdebstrap --quiet --variant=minbase --format=tar "${suite:-stable}" "$1.new" ${DEBIAN_MIRROR:-} &&
        as_root chown "$(id -u):$(id -g)" "$1.new" && mv "$1.new" "$1"
}

# busybox_root TAR: what is used where no Debian can be had: one static program with all its names.
busybox_root() {
    local root
    root=$(mktemp -d)
    mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/root" && chmod 1777 "$root/tmp" && chmod 755 "$root"
    cp /bin/busybox "$root/bin/busybox"
    local name
    for name in $(/bin/busybox --list); do [ -e "$root/bin/$name" ] || ln -s busybox "$root/bin/$name"; done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    tar -C "$root" --owner=0 --group=0 --numeric-owner --sort=name -cf "$1" . && rm -rf "$root"
}

# give_subids USER: a range of 65,536 subordinate ids that nobody else has, if the user has none yet.
give_subids() {
    local file start
    for file in /etc/subuid /etc/subgid; do
        grep -q "^$1:" "$file" 2>/dev/null && continue
        start=$(awk -F: 'BEGIN {n = 100000} $2 + $3 > n {n = $2 + $3} END {print n}' "$file" 2>/dev/null || echo 100000)
        as_root sh -c "echo '$1:$start:65536' >>$file"
    done
}
