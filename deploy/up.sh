#!/usr/bin/env bash
# Bring the proxy and a demo service up on the local Docker engine, and say what to type.
# Safe to run again: what is there is kept, and a changed proxy is rolled out. The demo service is
# not updated: remove it first. The networks that the proxy joined by itself stay joined.
#
#   BASE       the image to build on (default: the Dockerfile's own, python:3.13-slim)
#   NO_BUILD   if not empty: the images stickyproxy and stickyproxy-demo are there already
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

say() {
    printf '\n==> %s\n' "$*"
}

state=$(docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}' 2>&1) ||
    fail "No Docker engine answers: $state" \
        "Start one, or name one with DOCKER_HOST, and run this again."
case $state in
"active true") ;;
"active false") fail "This node is a worker: run this on a manager of the Swarm." ;;
*)
    say "This engine is in no Swarm yet: docker swarm init"
    docker swarm init --advertise-addr "${ADVERTISE_ADDR:-127.0.0.1}" >/dev/null
    ;;
esac

# Named by its content, so that deploying again rolls out what has changed.
image() {
    local target=$1 name=$2 id
    if [ -z "${NO_BUILD:-}" ]; then
        docker build --quiet -f deploy/Dockerfile --target "$target" --tag "$name:latest" \
            ${BASE:+--build-arg "BASE=$BASE"} \
            --build-arg "COMMIT=$(git rev-parse --short=8 HEAD 2>/dev/null || true)" . >/dev/null ||
            fail "The image $name cannot be built." \
                "If the base image cannot be pulled, name a local one that has Python 3.11 to 3.13:" \
                "  make swarm BASE=..."
    fi
    id=$(docker image inspect --format '{{.Id}}' "$name:latest")
    id=${id#sha256:}
    docker tag "$name:latest" "$name:${id:0:12}"
    echo "$name:${id:0:12}"
}

say "Images"
STICKYPROXY_IMAGE=$(image proxy stickyproxy)
export STICKYPROXY_IMAGE
demo=$(image demo stickyproxy-demo)
echo "$STICKYPROXY_IMAGE, $demo"

# The keeper stays as it is: it need not be of the proxy's version, and to replace it is noticed.
STICKYPROXY_KEEPER_IMAGE=$(docker service inspect stickyproxy_keeper \
    --format '{{.Spec.TaskTemplate.ContainerSpec.Image}}' 2>/dev/null) ||
    STICKYPROXY_KEEPER_IMAGE=$STICKYPROXY_IMAGE
export STICKYPROXY_KEEPER_IMAGE

say "docker stack deploy -c deploy/stack.yml stickyproxy"
docker stack deploy --resolve-image never -c deploy/stack.yml stickyproxy

if ! docker network inspect demo >/dev/null 2>&1; then
    say "docker network create -d overlay demo"
    docker network create -d overlay demo
fi
if ! docker service inspect demo >/dev/null 2>&1; then
    say "docker service create --name demo ... $demo"
    docker service create \
        --name demo \
        --network demo \
        --detach=false \
        --no-resolve-image \
        --replicas=5 \
        --label com.docker.lb.hosts=demo.local \
        --label com.docker.lb.sticky_session_cookie=session \
        --label com.docker.lb.port=8080 \
        --env METADATA="demo-sticky" \
        "$demo"
fi

say "Waiting until http://demo.local is published"
published=
for _ in $(seq 120); do
    if curl -sf -o /dev/null --max-time 5 -H "Host: demo.local" http://127.0.0.1/ping; then
        published=yes
        break
    fi
    sleep 0.5
done
[ -n "$published" ] || fail "It is not published after a minute. What the proxy says:" \
    "$(docker service logs --raw --tail 20 stickyproxy_proxy 2>&1)"

cat <<TEXT

It works. One session, one replica: the same x-upstream-addr every time.
  curl -vs -c cookie.txt -b cookie.txt -H "Host: demo.local" http://127.0.0.1/ping

Scale it, and the session stays where it is:
  docker service scale demo=10

Without a cookie jar every request is a new session, and all replicas get some:
  for i in \$(seq 10); do curl -s -H "Host: demo.local" http://127.0.0.1/ping; done

See what was found, with what is wrong and how to mend it:
  docker exec \$(docker ps -q -f label=com.docker.swarm.service.name=stickyproxy_proxy) stickyproxy services

Remove it all:
  docker service rm demo; docker stack rm stickyproxy; docker network rm demo
TEXT
