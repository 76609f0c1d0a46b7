#!/bin/sh
# Writes out what PostgreSQL holds in memory while it still serves, so that its shutdown is short. Run before a stop.
set -eu

exec setpriv --reuid=postgres --regid=postgres --init-groups --reset-env -- \
    /usr/lib/postgresql/15/bin/psql --host=127.0.0.1 --dbname=postgres --no-psqlrc --quiet --command=CHECKPOINT
