#!/bin/sh
# Install what the labs compare with: bench/install.sh PYTHON VENV
# Wheels go into VENV, with stickyproxy; Debian packages are installed if we may, else named.
set -eu
python=$1 venv=$2

missing=
command -v wrk >/dev/null || missing="$missing wrk"
PATH=$PATH:/usr/sbin command -v nginx >/dev/null || missing="$missing nginx-light"
PATH=$PATH:/usr/sbin command -v haproxy >/dev/null || missing="$missing haproxy"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 - a list
    apt-get install -y -qq --no-install-recommends $missing
elif [ -n "$missing" ]; then
    echo "Not installed, and absent from the tables (wrk and nginx are required):$missing"
fi

echo "Installing stickyproxy and its peers into $venv"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
# One by one: a peer that has no wheel for this machine is absent, and the rest is there.
grep -v '^#' bench/requirements.txt | while read -r peer; do
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$peer" ||
        echo "Not installed, and absent from the tables: $peer"
done
