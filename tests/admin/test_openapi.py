"""admin/openapi.py: the admin API is what its document says, whoever asks, and whatever."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from stickyproxy.admin import openapi
from stickyproxy.admin.access import Access
from tests.admin.sites import HERE, site

TOKEN = b"0123456789abcdef"

SECONDS = 120.0

UNMEANT = "positive_data_acceptance"
"""A check that is left out: whether there is an answer depends on what there is, too. A service of
any name may be asked about, and there is none of most."""


ENDLESS = "/v1/events"
"""Its answer has no end: ``test_events.py``."""


async def schemathesis(url: str, folder: Path, *options: str) -> tuple[int, str]:
    """Its exit status and what it says."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(openapi.document()))
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "schemathesis"), "run", str(document), "--url", url),
        *("--checks", "all", "--exclude-checks", UNMEANT),
        *("--exclude-path", ENDLESS, "--max-examples", "25", "--generation-deterministic"),
        *("--continue-on-failure", *options),
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.parametrize("shown", [b"", b"wrong", TOKEN])
async def test_no_crash_and_no_answer_that_is_not_described(shown: bytes, tmp_path: Path) -> None:
    """Without tokens; and with them, by whoever has none, a wrong one, or the one for changes."""
    access = Access(HERE, TOKEN, read_token=b"another") if shown else None
    options = ["-H", f"Authorization: Bearer {shown.decode()}"] if shown else []
    async with site(access) as place:
        status, said = await schemathesis(place.url, tmp_path, *options)
    assert status == 0, said
    operations = sum(map(len, openapi.document()["paths"].values()))
    assert f"Tested: {operations - 1}\n" in said


def strict(schema: Any) -> Any:
    """The schema, with no name that it does not have."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


GETS = [path for path, found in openapi.document()["paths"].items() if "get" in found]
POSTS = {
    "/v1/explain": b'{"host": "shop.local", "path": "/app/", "headers": [["Cookie", "session=x"]]}',
    "/v1/simulate": b'{"scale": {"shop": 5}, "remove": ["hashed/h1"]}',
    "/v1/admin_state": b'{"target": "shop/1", "admin_state": "drain"}',
}


def validator(path: str, method: str) -> Draft202012Validator:
    document = openapi.document()
    answers = document["paths"][path][method]["responses"]
    schema = answers["200"]["content"]["application/json"]["schema"]
    return Draft202012Validator(strict(schema | {"components": document["components"]}))


async def test_nothing_is_said_that_is_not_described() -> None:
    """Names may be added, but not without being described."""
    async with site() as place:
        for path, body in POSTS.items():
            status, _, text = await place.request(
                "POST", path, body, Content_Type="application/json"
            )
            assert status == 200, text
            validator(path, "post").validate(json.loads(text))
        for path in set(GETS) - {ENDLESS}:
            status, found = await place.get(path.replace("{name}", "shop"))
            assert status == 200
            validator(path, "get").validate(found)
        _, found = await place.get("/v1/admin_state?target=shop")
        validator("/v1/admin_state", "get").validate(found)
