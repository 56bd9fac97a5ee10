# shellcheck shell=bash
# ./run deps: the system packages, installed where they are missing.

# The names in packages.txt, without those whose command ("NAME unless COMMAND") has come from elsewhere.
package_list() {
    local name unless command
    sed -e 's/#.*//' "$TOP/tools/packages.txt" | while read -r name unless command; do
        [[ -z $name ]] && continue
        [[ $unless == unless ]] && command -v "$command" >/dev/null && [[ ! -e /var/lib/dpkg/info/$name.list ]] && continue
        printf '%s\n' "$name"
    done
}

# The packages of the list that dpkg does not know as installed.
missing_packages() {
    local installed
    installed=$(package_list | xargs dpkg-query -W -f "\${Package} \${db:Status-Status}\\n" 2>/dev/null |
        awk '$2 == "installed" { print $1 }' || true)
    package_list | grep -vxF "${installed:-none at all}" || true
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_be_root() {
    ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" </dev/null
}

# Debian's server package makes and starts a cluster of its own. Nobody asked for one: while our packages are
# installed that is switched off, and the setting is put back afterwards. An existing cluster is left alone.
without_default_cluster() {
    local conf=/etc/postgresql-common/createcluster.conf rc=0
    apt install --no-install-recommends postgresql-common >/dev/null
    if [[ -d /etc/postgresql/15 ]] || [[ ! -f $conf ]]; then
        "$@"
        return
    fi
    as_root cp -p "$conf" "$conf.before-tasker"
    printf 'create_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
    "$@" || rc=$?
    as_root mv "$conf.before-tasker" "$conf"
    return "$rc"
}

install_packages() {
    say "installing: $*"
    apt update || die "apt-get update failed" "Check the network and /etc/apt/sources.list."
    without_default_cluster apt install --no-install-recommends "$@" | sed -un 's/^Setting up \([^ ]*\).*/    \1/p' ||
        die "apt-get install failed" "The names are those of Debian 12; see tools/packages.txt."
}

# Makes sure that every package is there; says nothing when all are.
ensure_deps() {
    local -a missing
    if [[ -n ${TASKER_SKIP_DEPS:-} ]]; then
        return
    fi
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        die "this is not a Debian system: install what corresponds to these packages, then set TASKER_SKIP_DEPS=1
$(package_list)"
    fi
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]} == 0)); then
        return
    fi
    if ! can_be_root; then
        die "these packages are missing, and neither root nor sudo without a password is at hand to install them
$(printf '    %s\n' "${missing[@]}")" "sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
    install_packages "${missing[@]}"
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]} > 0)); then
        die "still missing after the installation: ${missing[*]}"
    fi
}

run_deps() {
    ensure_deps
    say "all $(package_list | wc -l) packages are installed"
}
