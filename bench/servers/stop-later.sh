#!/bin/sh
# An entrypoint for applications that cannot wait by themselves: on SIGTERM they go on serving for
# DELAY seconds, in which proxies learn that the replica is being stopped, and are told then.
"$@" &
app=$!
trap 'sleep "${DELAY:-1}"; kill -TERM $app' TERM
while kill -0 $app 2>/dev/null; do wait $app; status=$?; done
exit "${status:-0}"
