"""admin/api.py and admin/application.py: the admin API, and who is shown what."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from stickyproxy.admin.access import Access
from stickyproxy.admin.answers import joined
from stickyproxy.base.addresses import Address
from tests.admin.sites import HERE, Site, site

PATHS = (
    *("/v1/status", "/v1/services", "/v1/services/shop", "/v1/endpoints", "/v1/routes"),
    *("/v1/problems", "/v1/certificates", "/v1/config", "/v1/openapi.json", "/v1/admin_state"),
)
OLD = ("/services", "/table", "/certificates")
QUESTIONS = {"/v1/explain": b'{"host": "shop.local"}', "/v1/simulate": b'{"scale": {"shop": 5}}'}
READ, CHANGE = {"Authorization": "Bearer read"}, {"Authorization": "Bearer change"}


async def status(place: Site, path: str, **fields: str) -> int:
    """Of a GET."""
    return (await place.request("GET", path, None, **fields))[0]


class TestWhatIsTold:
    async def test_status(self) -> None:
        async with site() as place:
            code, found = await place.get("/v1/status")
        assert code == 200
        assert found["workers"] == {"wanted": 4, "accepting": 3, "lost": 2}
        assert (found["ready"], found["why"]) == (False, "swarm: no response yet")
        static, swarm = found["providers"]
        assert (static["name"], static["up"]) == ("static", True)
        assert 0 <= static["age"] < 60
        assert swarm == {
            "name": "swarm",
            "up": False,
            "why": "there is no engine at unix:///none",
            "published": None,
            "age": None,
        }
        assert (found["services"], found["endpoints"]) == (4, 5)
        assert found["problems"] == {"errors": 2, "warnings": 1}
        assert 0 <= found["uptime"] < 60

    async def test_problems_have_remedies(self) -> None:
        async with site() as place:
            _, found = await place.get("/v1/problems")
        swarm, bad, certificate = found["problems"]
        assert (swarm["provider"], swarm["service"], swarm["fatal"]) == ("swarm", "", True)
        assert (bad["service"], bad["provider"], bad["remedy"]) == ("bad", "", "docker ...")
        assert (certificate["certificate"], certificate["service"]) == ("/etc/a.pem", "")

    async def test_a_service_that_there_is_not(self) -> None:
        async with site() as place:
            for path in ("/v1/services/none", "/v1/services/%00", "/v1/services/%ED%A0%80"):
                code, found = await place.get(path)
                assert code == 404
                assert found["error"].startswith("there is no service ")

    async def test_no_key_is_told(self) -> None:
        async with site() as place:
            for path in (*PATHS, *OLD):
                assert "PRIVATE KEY" not in (await place.request("GET", path))[2]


class TestErrors:
    async def test_are_json(self) -> None:
        async with site() as place:
            assert (await place.get("/v1/none"))[0] == 404
            code, fields, text = await place.request("DELETE", "/v1/services")
            assert (code, fields["Allow"]) == (405, "GET,HEAD")
            assert json.loads(text)["error"] == "DELETE is not possible here: use GET, HEAD"
            big = b'{"host": "%b"}' % (b"a" * (1 << 16))
            code, _, text = await place.request(
                "POST", "/v1/explain", big, Content_Type="application/json"
            )
            assert (code, json.loads(text)["error"]) == (413, "the body is too large")

    @pytest.mark.parametrize("body", [b"", b"{", b"[" * 60_000, b"\xff", b'"\\ud800"', b"1"])
    @pytest.mark.parametrize("path", [*QUESTIONS, "/v1/admin_state"])
    async def test_what_is_no_question(self, path: str, body: bytes) -> None:
        async with site() as place:
            code, _, text = await place.request("POST", path, body, Content_Type="application/json")
        assert code == 400
        assert json.loads(text)["error"]


class TestPagesElsewhere:
    @pytest.mark.parametrize("path", [*PATHS, *OLD])
    async def test_a_name_that_leads_here(self, path: str) -> None:
        """DNS rebinding: to the browser it is the page's own origin."""
        async with site() as place:
            assert await status(place, path) == 200
            assert await status(place, path, Host="evil.example") == 403
            assert await status(place, "/healthz", Host="evil.example") == 200

    @pytest.mark.parametrize("path", QUESTIONS)
    async def test_questions(self, path: str) -> None:
        async with site() as place:
            for kind, origin, wanted in (
                ("application/json", place.url, 200),
                ("application/json", "http://evil.example", 403),
                ("application/json", "null", 403),
                ("text/plain", place.url, 415),
            ):
                code, fields, _ = await place.request(
                    "POST", path, QUESTIONS[path], Content_Type=kind, Origin=origin
                )
                assert code == wanted
                assert not [name for name in fields if name.startswith("Access-Control")]

    async def test_no_preflight_is_answered(self) -> None:
        async with site() as place:
            for path in (*PATHS, *QUESTIONS):
                code, fields, _ = await place.request(
                    "OPTIONS",
                    path,
                    Origin="http://evil.example",
                    Access_Control_Request_Method="POST",
                )
                assert code == 405
                assert not [name for name in fields if name.startswith("Access-Control")]


class TestTokens:
    async def test_reading(self) -> None:
        async with site(Access(HERE, b"change", read_token=b"read")) as place:
            for path in (*PATHS, *OLD):
                assert await status(place, path) == 401
                assert await status(place, path, Authorization="Bearer wrong") == 401
                assert await status(place, path, **READ) == 200
                assert await status(place, path, **CHANGE) == 200
            assert await status(place, "/healthz") == 200
            assert await status(place, "/readyz") == 503

    async def test_questions_take_the_one_for_reading(self) -> None:
        async with site(Access(HERE, b"change", read_token=b"read")) as place:
            for path, body in QUESTIONS.items():
                kind = {"Content-Type": "application/json"}
                assert (await place.request("POST", path, body, **kind))[0] == 401
                assert (await place.request("POST", path, body, **kind, **READ))[0] == 200

    async def test_changes_take_the_other_one(self) -> None:
        body, kind = b'{"target": "shop", "admin_state": "drain"}', "application/json"
        async with site(Access(HERE, b"change", read_token=b"read")) as place:
            for shown, wanted in ((READ, 401), (CHANGE, 200)):
                code, _, _ = await place.request(
                    "POST", "/v1/admin_state", body, Content_Type=kind, **shown
                )
                assert code == wanted

    async def test_others_come_in_and_there_is_none(self) -> None:
        """The pages without a version are as open as they were."""
        async with site(Access(Address.parse("0.0.0.0:1"))) as place:
            for path in PATHS:
                code, found = await place.get(path)
                assert code == 403
                assert "read_token_file" in found["error"]
            for path in OLD:
                assert await status(place, path) == 200


async def test_others_have_their_turn_while_an_answer_is_made() -> None:
    turns: list[None] = []

    def pieces() -> list[str]:
        return [str(number) for number in range(200_000)]

    async def other() -> None:
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert len(await joined(pieces())) > 200_000
    task.cancel()
    assert len(turns) > 2


@pytest.mark.parametrize("command", [["services", "--json"], ["explain", "http://shop.local/app"]])
async def test_commands_show_a_token(command: list[str], tmp_path: Path) -> None:
    """The one in the file that is named; without it, they say what is missing."""
    file = tmp_path / "token"
    file.write_text("read\n")

    async def run(*options: str) -> tuple[int, str]:
        arguments = ("-m", "stickyproxy", *command, *options)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async with site(Access(HERE, b"change", read_token=b"read")) as place:
        admin = ("--admin", place.url.removeprefix("http://"))
        status, said = await run(*admin)
        assert status == 1
        assert "the token is missing or wrong" in said
        assert "--token-file" in said
        status, said = await run(*admin, "--token-file", str(file))
        assert status in (0, 3)
        assert "shop" in said
