#!/bin/sh
# Install what the stopping labs examine: bench/servers/install.sh PYTHON VENV
# Python's servers go into VENV, with stickyproxy; Debian packages are installed if we may, else
# named. What is absent is skipped by the labs, which say so.
set -eu
python=$1 venv=$2

missing=
want() { # COMMAND PACKAGE
    PATH=$PATH:/usr/sbin command -v "$1" >/dev/null || missing="$missing $2"
}
want /usr/bin/gunicorn gunicorn
want puma puma
want node nodejs
want go golang-go
want javac default-jdk-headless
want nginx nginx-light
[ -e /usr/share/java/tomcat10-embed-core.jar ] || missing="$missing libtomcat10-embed-java"
[ -e /usr/share/nodejs/express ] || [ -n "${NODE_PATH:-}" ] || missing="$missing node-express"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian packages:$missing"
    apt-get update -qq
    # One by one: Debian's node-express goes with Debian's nodejs only.
    for package in $missing; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" ||
            echo "Not installed, and skipped: $package"
    done
elif [ -n "$missing" ]; then
    echo "Not installed, and skipped:$missing"
fi

echo "Installing stickyproxy and Python's servers into $venv"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r bench/servers/requirements.txt
