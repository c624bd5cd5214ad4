#!/usr/bin/env bash
# Makes the base images that the Dockerfiles and compose.yaml ask for, on a machine where no image registry answers:
# a Debian by debootstrap, under the registry's names. Where a registry answers, you do not need this.
# Needs: root, debootstrap, podman, a Debian mirror (DEBIAN_MIRROR). The machine's certificate bundle and pip settings
# go into the bases, so that builds reach the package index as this machine does.
set -euo pipefail
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=bookworm
work=${BASE_IMAGES_WORK:-/var/tmp/agatston-base-images}
podman=${PODMAN:-podman}

if [ ! -e "$work/rootfs/bin/sh" ]; then
    mkdir -p "$work"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/rootfs" "$mirror" >"$work/debootstrap.log"
fi

# make NAME PACKAGES...: a copy of the base with packages, imported under NAME.
make() {
    local name=$1
    shift
    local root=$work/image
    rm -rf "$root"
    cp -a "$work/rootfs" "$root"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    printf 'deb %s %s main\n' "$mirror" "$suite" >"$root/etc/apt/sources.list"
    chroot "$root" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -qq -y --no-install-recommends "$@" >/dev/null
    chroot "$root" apt-get clean
    case $name in
    */python:*)
        ln -sf /usr/bin/python3 "$root/usr/local/bin/python"
        rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
        if [ -d /etc/xdg/pip ]; then mkdir -p "$root/etc/xdg/pip" && cp -a /etc/xdg/pip/*.txt "$root/etc/xdg/pip/"; fi
        # All of pip's settings, whichever files they come from, but no index in local files.
        { echo "[global]"; pip config list | sed -n "s/^global\.\(.*\)='\(.*\)'$/\1 = \2/p" | grep -v file://; } >"$root/etc/pip.conf"
        # Folders that pip's settings name (wheels, local indexes) go along.
        pip config list | grep -oE "/[A-Za-z0-9._/-]+" | grep -v -e '^/etc' -e '^//' | sort -u | while read -r folder; do
            if [ -d "$folder" ]; then mkdir -p "$root$folder" && cp -aL "$folder/." "$root$folder/"; fi
        done
        ;;
    esac
    tar -C "$root" -c . | "$podman" import --quiet "${change[@]}" - "$name"
    rm -rf "$root"
}

change=(--change "CMD python3")
make docker.io/library/python:3.11-slim-bookworm python3 python3-venv python3-pip
change=(--change "ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" --change "USER postgres" --change 'ENTRYPOINT ["/usr/local/bin/postgres-entrypoint"]')
mkdir -p "$work/rootfs/usr/local/bin"
cat >"$work/rootfs/usr/local/bin/postgres-entrypoint" <<'SH'
#!/bin/sh
# What of the official image's entry point compose.yaml uses: initialise once, then run.
set -eu
data=${PGDATA:-/var/lib/postgresql/data}
if [ ! -s "$data/PG_VERSION" ]; then
    secret=$(mktemp)
    cat "${POSTGRES_PASSWORD_FILE:-/dev/null}" >"$secret"
    [ -n "${POSTGRES_PASSWORD:-}" ] && printf '%s' "$POSTGRES_PASSWORD" >"$secret"
    initdb -D "$data" --encoding UTF8 --locale C.UTF-8 -U "${POSTGRES_USER:-postgres}" --pwfile="$secret" --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    rm -f "$secret"
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    pg_ctl -D "$data" -w start -o "-c listen_addresses=''" >/dev/null
    createdb -U "${POSTGRES_USER:-postgres}" "${POSTGRES_DB:-postgres}" 2>/dev/null || true
    pg_ctl -D "$data" -w stop >/dev/null
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
SH
chmod 755 "$work/rootfs/usr/local/bin/postgres-entrypoint"
make docker.io/library/postgres:15-bookworm postgresql-15
change=(--change 'ENTRYPOINT ["redis-server"]' --change "USER redis")
make docker.io/library/redis:7-bookworm redis-server
change=(--change 'ENTRYPOINT ["Orthanc"]' --change 'CMD ["/etc/orthanc/"]')
make docker.io/orthancteam/orthanc:latest orthanc
"$podman" images
