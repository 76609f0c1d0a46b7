#!/bin/sh
# Runs PostgreSQL 15 on the volume that is mounted at $1, in the foreground, until SIGTERM.
# The volume is empty the first time; then a new cluster is made on it.
set -eu

mount=${1:?usage: start-postgres.sh MOUNT}
bin=/usr/lib/postgresql/15/bin
data=$mount/data

if [ "$(id -u)" -ne 0 ]; then
    echo "start-postgres.sh must be started as root, to become postgres" >&2
    exit 1
fi
if [ ! -x "$bin/postgres" ]; then
    echo "$bin/postgres is missing: apt-get install postgresql-15" >&2
    exit 1
fi
as_postgres="setpriv --reuid=postgres --regid=postgres --init-groups --reset-env --"

if [ ! -e "$data" ]; then
    # Made aside and renamed when it is whole, so that a takeover in the middle begins again.
    new=$mount/data.new
    rm -rf "$new"
    install -d -o postgres -g postgres -m 0700 "$new"
    $as_postgres "$bin/initdb" --pgdata="$new" --no-sync --encoding=UTF8 --locale=C.UTF-8 --data-checksums \
        --auth=trust --username=postgres
    # For the lab: whoever reaches the address is let in. On real machines write scram-sha-256 and set passwords.
    echo 'host all all all trust' >>"$new/pg_hba.conf"
    sync -f "$new"
    mv "$new" "$data"
    sync -f "$mount"
fi

$as_postgres "$bin/postgres" -D "$data" \
    -c listen_addresses='*' \
    -c unix_socket_directories= \
    -c max_connections=100 \
    -c recovery_init_sync_method=syncfs \
    -c shared_buffers=64MB \
    -c logging_collector=off &
server=$!

# SIGTERM would let PostgreSQL wait for its clients; SIGINT ends their sessions and shuts down cleanly.
trap 'kill -INT "$server" 2>/dev/null || true' TERM INT
while :; do
    status=0
    wait "$server" || status=$?
    # A signal ends the wait before the server has ended.
    kill -0 "$server" 2>/dev/null || exit "$status"
done
