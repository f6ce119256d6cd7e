"""providers/acme/vault.py: records as configs of a Swarm. The engine is a small one that knows
nothing but configs; tests/swarm/test_acme.py has a real one."""

from __future__ import annotations

import base64
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.providers.acme.vault import SwarmStore

SECRET = b"a token of the controller"


class Configs:
    """An engine on a unix socket."""

    def __init__(self, path: Path) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        """By id."""
        self._count = 0
        self.lock = threading.Lock()
        configs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with configs.lock:
                    status, answer = configs.answer(self.command, self.path, body)
                text = b"" if status == 204 else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status != 204:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = respond  # noqa: N815  # as http.server wants it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def address_string(self) -> str:
                return "a client"

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """As the engine's reference has it."""
        parts = urlsplit(target)
        path = re.sub(r"^/v[0-9.]+", "", parts.path)
        match method, path:
            case "GET", "/version":
                return 200, {"ApiVersion": "1.41"}
            case "GET", "/configs":
                [filters] = parse_qs(parts.query)["filters"]
                [label] = json.loads(filters)["label"]
                key, _, value = label.partition("=")
                found = self.kept.values()
                return 200, [each for each in found if each["Spec"]["Labels"].get(key) == value]
            case "POST", "/configs/create":
                spec = json.loads(body)
                if spec["Name"] in self.names:
                    return 409, {"message": "name conflicts with an existing object"}
                assert len(spec["Name"]) <= 64
                self._count += 1
                self.kept[f"id{self._count}"] = {"ID": f"id{self._count}", "Spec": spec}
                return 201, {"ID": f"id{self._count}"}
            case "DELETE", _:
                known = self.kept.pop(path.rpartition("/")[2], None)
                return (204, None) if known else (404, {"message": "not found"})
        return 404, {"message": f"no such page: {path}"}

    @property
    def names(self) -> list[str]:
        """Of all configs."""
        return sorted(each["Spec"]["Name"] for each in self.kept.values())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Configs]:
    """One that runs."""
    made = Configs(tmp_path / "docker.sock")
    yield made
    made.stop()


class MakeStore:
    """What the fixture ``store`` is."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.made: list[SwarmStore] = []

    def __call__(self, secret: bytes = SECRET, **settings: Any) -> SwarmStore:
        self.made.append(SwarmStore(SwarmSettings(self._endpoint, **settings), secret))
        return self.made[-1]


@pytest.fixture
def store(engine: Configs, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes stores; at the end closes them."""
    assert engine is not None
    make = MakeStore(f"unix://{tmp_path / 'docker.sock'}")
    yield make
    for each in make.made:
        each.close()


NAME = "names-0123456789abcdef"


def test_a_record_is_replaced_by_who_knows_it(engine: Configs, store: MakeStore) -> None:
    one, other = store(), store()
    assert one.read() == {}
    assert one.write(NAME, b"first", "") == "1"
    assert other.write(NAME, b"second", "") == "", "there is one already"
    known = other.read()[NAME]
    assert (known.data, known.version) == (b"first", "1")
    assert other.write(NAME, b"second", "1") == "2"
    assert len(engine.kept) == 1, "never more than needed"
    assert one.write(NAME, b"third", "1") == "", "it is another one by now"
    assert one.read()[NAME].data == b"second"
    one.remove(NAME)
    one.remove(NAME)
    assert engine.kept == {}


def test_who_is_far_behind_does_not_win(engine: Configs, store: MakeStore) -> None:
    """The version that it would make is free again."""
    one = store()
    version = ""
    for number in range(4):
        version = one.write(NAME, b"%d" % number, version)
    assert store().write(NAME, b"old", "1") == ""
    assert one.read()[NAME].data == b"3"
    assert [name.rpartition(".")[2] for name in engine.names] == ["v4"]


def test_what_is_kept_is_encrypted(engine: Configs, store: MakeStore) -> None:
    store().write(NAME, b"PRIVATE KEY", "")
    [config] = engine.kept.values()
    sealed = base64.b64decode(config["Spec"]["Data"])
    assert b"PRIVATE" not in sealed
    assert config["Spec"]["Labels"].keys() == {"stickyproxy.acme"}
    # Another record's name does not open it, nor does it open if a bit is changed.
    again = store()
    config["Spec"]["Name"] = config["Spec"]["Name"].replace("v1", "v2")
    assert again.read() == {}
    config["Spec"]["Name"] = config["Spec"]["Name"].replace("v2", "v1")
    assert again.read()[NAME].data == b"PRIVATE KEY"
    config["Spec"]["Data"] = base64.b64encode(sealed[:-1] + bytes([sealed[-1] ^ 1])).decode()
    assert again.read() == {}


def test_who_has_another_secret_or_cluster_has_other_records(
    engine: Configs, store: MakeStore
) -> None:
    one = store()
    others = [
        store(b"another"),
        store(service_cluster="edge"),
    ]
    one.write(NAME, b"one", "")
    for other in others:
        assert other.read() == {}
        assert other.write(NAME, b"other", "") == "1"
    assert one.read()[NAME].data == b"one"
    assert len(engine.kept) == 3


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    nobody = SwarmStore(SwarmSettings(endpoint=f"unix://{tmp_path / 'none.sock'}"), SECRET)
    with pytest.raises(ProviderError, match="there is no engine at"):
        nobody.read()
