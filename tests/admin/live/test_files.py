"""The live page as it is served: without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest

import stickyproxy
from stickyproxy.admin.live import PATHS
from tests.admin.live.conftest import OpenPage
from tests.admin.live.fixture import Fixture
from tests.cli.test_main import StartProgram, asked, programs
from tests.conftest import MakeEndpoint
from tests.scripted import get

FOLDER = resources.files("stickyproxy.admin").joinpath("page")
FILES = {each.name: each.read_text("utf-8") for each in FOLDER.iterdir()}


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    """An admin listener with the page."""
    made = Fixture()
    await made.start()
    yield made
    await made.stop()


class TestFiles:
    def test_each_is_packaged_and_served(self) -> None:
        configured = (Path(stickyproxy.__file__).parent.parent / "pyproject.toml").read_text()
        assert '"stickyproxy.admin" = ["page/*"]' in configured
        assert {f"/{name}" for name in FILES} - {"/index.html"} | {"/"} == PATHS

    def test_they_name_nobody_else(self) -> None:
        for name, text in FILES.items():
            found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text))
            assert found <= {"http://www.w3.org"}, name  # the name of SVG, which nobody fetches

    def test_the_script_makes_no_html_of_text(self) -> None:
        script = FILES["page.js"]
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script
        )

    def test_what_the_script_looks_up_is_there(self) -> None:
        identities = set(re.findall(r' id="([\w-]+)"', FILES["index.html"]))
        wanted = set(re.findall(r'\$\("([\w-]+)"\)', FILES["page.js"]))
        assert wanted - identities == set()

    @pytest.mark.parametrize("path", sorted(PATHS))
    async def test_headers(self, fixture: Fixture, path: str) -> None:
        response = await asked(fixture.port, get(path))
        assert response.status == 200
        policy = (response.header("content-security-policy") or b"").decode()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.header("x-content-type-options") == b"nosniff"
        etag = (response.header("etag") or b"").decode()
        again = await asked(fixture.port, get(path, **{"If-None-Match": f'"other", W/{etag}'}))
        assert again.status == 304
        assert again.body == b""
        changed = await asked(fixture.port, get(path, **{"If-None-Match": '"other"'}))
        assert changed.status == 200


class TestOfAProxy:
    @pytest.fixture
    async def start(self) -> AsyncIterator[StartProgram]:
        """Starts programs."""
        async with programs() as start:
            yield start

    async def test_two_tokens(
        self,
        start: StartProgram,
        endpoint: MakeEndpoint,
        open_page: OpenPage,
        tmp_path: Path,
    ) -> None:
        """The page is there for everybody; what it shows, and what it changes, takes a token
        each."""
        peer = await endpoint()
        for name in ("look", "change"):
            (tmp_path / name).write_text(name)
        config = tmp_path / "config.toml"
        config.write_text(
            '[[listeners]]\naddress = "127.0.0.1:0"\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            f'read_token_file = "{tmp_path}/look"\nchange_token_file = "{tmp_path}/change"\n'
            f'[[services]]\nname = "demo"\nhosts = ["demo.local"]\nendpoints = ["{peer.address}"]\n'
        )
        program = await start("serve", "--config", config)
        port = int((await program.err.says(r"its live page: http://127\.0\.0\.1:(\d+)/$"))[1])
        assert (await asked(port, get("/"))).status == 200
        refused = await asked(port, get("/v1/services"))
        assert refused.status == 401
        assert "error" in json.loads(refused.body)

        page = await open_page(f"http://127.0.0.1:{port}/")
        token = page.get_by_label("Token", exact=True)
        await token.fill("look")
        await token.press("Enter")
        await page.get_by_role("button", name="Drain: demo/1").click()
        await page.locator("#ask-yes").click()
        await token.fill("look")  # which is not for that
        await token.press("Enter")
        await page.locator("#token-wrong").wait_for()
        await token.fill("change")
        await token.press("Enter")
        await page.get_by_role("button", name="Undrain demo/1").wait_for()
        await page.locator("#events .text").filter(has_text="drain").first.wait_for()
        await program.stop()
