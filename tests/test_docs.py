"""The documentation keeps its promises: what it names exists, and what exists is named."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import stickyproxy
from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ConfigError
from stickyproxy.base.values import duration
from stickyproxy.cli import main as cli
from stickyproxy.config.load import parse
from stickyproxy.config.options import ServiceOptions
from stickyproxy.config.tables import TABLES
from stickyproxy.dataplane.access_log import Record
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.providers.engine.labels import KNOWN
from stickyproxy.routing.endpoint import Affinity
from tests.test_floors import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "stickyproxy"
PAGES = tuple(sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
DOCS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", *PAGES)
TEXT = {name: (ROOT / name).read_text("utf-8") for name in DOCS}
README, ARCHITECTURE, CHANGELOG = (TEXT[name] for name in DOCS[:3])
MANUAL = "\n".join((README, *(TEXT[page] for page in PAGES)))
"""All that a user reads."""
CONFIG = TEXT["docs/reference/config.md"]
LABELS = TEXT["docs/reference/labels.md"]
COMMANDS = TEXT["docs/reference/cli.md"]
ACCESS_LOG = TEXT["docs/reference/access-log.md"]

MADE_BY_READERS = frozenset(
    ("config.toml", "second.toml", "typo.toml", "cookie.txt", "access.log", "second.log")
)
"""Files that the tutorials make, and no file of ours."""


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    fences = rf"^```{re.escape(language)}\n(.*?)^```$"
    return re.findall(fences, text, re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables' rows, heads included."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


# --- links and paths ------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Of all headings, as GitHub and its like make them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links(doc: str) -> list[tuple[Path, str]]:
    """The file and the anchor of each link to a file of ours."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(TEXT[doc]))
    inside = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    here = ROOT / doc
    return [((here.parent / path).resolve() if path else here, name) for path, _, name in inside]


@pytest.mark.parametrize("doc", DOCS)
def test_links_lead_somewhere(doc: str) -> None:
    for path, anchor in links(doc):
        assert path.exists(), f"{doc}: {path}"
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), f"{doc}: {path}#{anchor}"


def test_every_page_is_in_the_contents() -> None:
    contents = "\n".join(blocks(TEXT["docs/index.md"], "{toctree}"))
    listed = [f"docs/{line}.md" for line in contents.splitlines() if line and line[0] != ":"]
    assert sorted([*listed, "docs/index.md"]) == [*PAGES]


@pytest.mark.parametrize("page", PAGES)
def test_included_files_exist(page: str) -> None:
    for path in re.findall(r"^```\{include\} (.*)$", TEXT[page], re.MULTILINE):
        assert (ROOT / page).parent.joinpath(path).is_file(), path


def test_every_page_but_what_is_only_included_is_linked_from_the_readme() -> None:
    linked = {path for path, _ in links("README.md")}
    missing = {
        page for page in PAGES if ROOT / page not in linked and "{include}" not in TEXT[page]
    }
    assert missing == {"docs/index.md"}


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) <= 200


def named_files(doc: str) -> Iterator[str]:
    """What in backticks or a command looks like the path of a file of ours."""
    words = {word for span in spans(TEXT[doc]) for word in span.split()}
    words.update(word for block in blocks(TEXT[doc], "sh") for word in block.split())
    for word in words:
        is_path = re.fullmatch(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|toml|md|txt|yml|html)", word)
        is_folder = re.fullmatch(r"(?:[\w-]+/)+", word)
        if (is_path or is_folder) and word not in MADE_BY_READERS:
            yield word


@pytest.mark.parametrize("doc", DOCS)
def test_named_files_exist(doc: str) -> None:
    missing = [
        path
        for path in named_files(doc)
        if not any((base / path).exists() for base in (ROOT, PACKAGE))
    ]
    assert not missing, f"{doc} names files that are not there: {missing}"


# --- the configuration ----------------------------------------------------------------------------

KEYS = [
    (table, key)
    for table, model in TABLES.items()
    for key in model.model_fields
    if (f"{table}.{key}" if table else key) not in TABLES
]
"""(table, key) of every key whose value is no table."""

LISTS_OF_TABLES = ("listeners", "certificates", "services")


def heading(table: str) -> str:
    return f"`[[{table}]]`" if table in LISTS_OF_TABLES else f"`[{table}]`"


def reference(table: str) -> dict[str, list[str]]:
    """The row for each key of a table: type, default and meaning."""
    found = rows(section(CONFIG, heading(table)))
    return {key.strip("`"): rest for key, *rest in found if key.startswith("`")}


def default_of(model: type[BaseModel], key: str) -> object:
    field = model.model_fields[key]
    return None if field.default is PydanticUndefined else field.default


def says_default(cell: str, value: object) -> bool:
    """True if the cell of a table says that this is the default."""
    match value:
        case bool():
            return cell == f"`{str(value).lower()}`"
        case float():
            return cell == f"`{value}`" or duration(cell.strip('`"')) == value
        case int():
            return cell == f"`{value}`"
        case str() | Address():
            return cell == f'`"{value}"`'
        case ():
            return cell == "`[]`"
        case _:
            return cell == "none"


@pytest.mark.parametrize("table", [name for name in TABLES if name not in ("", "providers")])
def test_every_key_of_a_table_is_in_the_reference(table: str) -> None:
    assert set(reference(table)) == {key for of, key in KEYS if of == table}


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_the_reference_knows_types_and_defaults(table: str, key: str) -> None:
    type_, default, meaning = reference(table)[key]
    assert type_
    assert meaning
    if TABLES[table].model_fields[key].is_required():
        assert default == "required"
    else:
        value = default_of(TABLES[table], key)
        assert says_default(default, value), f"{key}: {default}, but it is {value!r}"


def test_every_label_is_named() -> None:
    assert {*KNOWN} <= {*spans(LABELS)}


@pytest.mark.parametrize("text", blocks(MANUAL, "toml"))
def test_examples_are_valid(text: str) -> None:
    assert parse(text)


def test_the_config_that_is_wrong_is_wrong_as_shown() -> None:
    shown, again = (block for block in blocks(MANUAL, "console") if "typo.toml: " in block)
    assert shown == again
    [example] = [block for block in blocks(MANUAL, "toml") if 'name = "demo"' in block]
    hashed = 'hash_cookie = "session"\nhash_cookie_ttl = "60s"'
    text = example.replace('sticky_session_cookie = "session"', hashed)
    text = text.replace("hash_cookie =", "hash_cokie =").replace('"60s"', "60")
    with pytest.raises(ConfigError) as raised:
        parse(text, "typo.toml")
    assert shown.splitlines()[1:] == str(raised.value).splitlines()


REFUSING = ("docs/concepts/health.md", "docs/guides/admission.md")
"""Pages with a table of what is refused."""

NEEDED = {
    "healthcheck_": 'healthcheck_path = "/"',
    "rate_limit_": 'rate_limit = "5/s"',
} | dict.fromkeys(("max_queue", "queue_timeout"), "max_in_flight = 5")
"""By what the keys begin with that mean nothing without it."""


def refused() -> list[tuple[str, str]]:
    """(a line of a service, what is said of it) as these pages have them."""
    found = [row for page in REFUSING for row in rows(section(TEXT[page], "What is refused"))]
    return [(written.strip("`"), said.strip("`")) for written, said in found if "=" in written]


@pytest.mark.parametrize(("written", "said"), refused())
def test_what_is_refused_is_refused_as_shown(written: str, said: str) -> None:
    line, alone, _ = written.partition("`, and no ")
    key = line.partition(" =")[0]
    needed = [NEEDED[start] for start in NEEDED if key.startswith(start) and not alone]
    needed = [each for each in needed if not each.startswith(key)]
    lines = "\n".join((line, *needed))
    text = f'[[services]]\nname = "shop"\nhosts = ["shop.local"]\n{lines}\n'
    with pytest.raises(ConfigError) as raised:
        parse(text, "config.toml")
    place = f"{key}[0]" if "= [" in line else key
    assert str(raised.value) == f"config.toml: services[0] (shop).{place}: {said}"


def refused_of_proxy() -> list[tuple[str, str, str]]:
    """(table, a line of it, what is said of it) as these pages have them."""
    of_proxy = section(TEXT["docs/guides/admission.md"], "What is refused of the proxy")
    of_tracing = section(TEXT["docs/guides/tracing.md"], "What is refused")
    return [
        (table, row[0].strip("`"), row[1].strip("`"))
        for table, text in (("proxy", of_proxy), ("tracing", of_tracing))
        for row in rows(text)
        if "=" in row[0]
    ]


@pytest.mark.parametrize(("table", "written", "said"), refused_of_proxy())
def test_what_is_refused_of_the_proxy(table: str, written: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"[{table}]\n{written}\n", "config.toml")
    place = written.partition(" =")[0] + ("[0]" if "= [" in written else "")
    assert str(raised.value) == f"config.toml: {table}.{place}: {said}"


DAY_THIRTY = {
    *("allow_from", "deny_from", "max_body", "rate_limit", "rate_limit_burst", "basic_auth"),
    *("max_in_flight", "max_queue", "queue_timeout", "error_page", "compression"),
    *("request_headers_set", "request_headers_remove"),
    *("response_headers_set", "response_headers_remove"),
}
"""What every proxy has to have, of a service and (below) of the proxy."""


def test_whoever_writes_one_wrongly_can_look_it_up() -> None:
    """Each has its row, is off by default, and is a label too."""
    written = {row.partition(" =")[0] for row, _ in refused()}
    assert written >= DAY_THIRTY
    of_proxy = {line.partition(" =")[0] for _, line, _ in refused_of_proxy()}
    assert of_proxy >= {"max_connections", "max_connections_per_client", "reason_for"}
    assert of_proxy >= set(TABLES["tracing"].model_fields)
    assert set(ServiceOptions.model_fields) >= DAY_THIRTY
    shop = ServiceOptions.model_validate({"hosts": ["shop.local"]}).spec("shop", ())
    assert (shop.terms, shop.edits, shop.error_page, shop.compression) == (None, None, "", ())


OTHERS_REFUSED = rows(section(CONFIG, "What is refused"))[2:]
"""Table, a line of it and what is said of it, where no guide is about it."""


@pytest.mark.parametrize(("table", "written", "said"), OTHERS_REFUSED)
def test_what_is_refused_of_other_tables(table: str, written: str, said: str) -> None:
    table, written, said = (cell.strip("`") for cell in (table, written, said))
    of_service = table == "[[services]]"
    needed = 'name = "shop"\nhosts = ["shop.local"]\n' if of_service else ""
    with pytest.raises(ConfigError) as raised:
        parse(f"{table}\n{needed}{written}\n", "config.toml")
    place = "services[0] (shop)" if of_service else table.strip("[]")
    line = f"config.toml: {place}.{written.partition(' =')[0]}: {said}"
    assert line in str(raised.value).splitlines()


def test_an_operator_who_writes_one_wrongly_can_look_it_up() -> None:
    found = {(row[0].strip("`"), row[1].strip("`").partition(" =")[0]) for row in OTHERS_REFUSED}
    assert {key for table, key in found if table == "[admin]"} == set(TABLES["admin"].model_fields)
    assert {key for table, key in found if table == "[log]"} == set(TABLES["log"].model_fields)
    services = {("[[services]]", key) for key in ("drain", "admin_state")}
    assert found >= services | {("[proxy]", "session_window"), ("[controller]", "state_file")}
    watched = {key for key in ServiceOptions.model_fields if key.startswith("healthcheck_")}
    watched |= {"eject_after_5xx", "max_ejected", "slow_start"}
    assert {row.partition(" =")[0] for row, _ in refused()} >= watched


# --- commands -------------------------------------------------------------------------------------


def subcommands() -> dict[str, argparse.ArgumentParser]:
    [action] = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings}


def typed(text: str) -> Iterator[str]:
    """The lines of console and sh blocks that a reader types, joined where they go on."""
    for block in blocks(text, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")
    for block in blocks(text, "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line.partition(" #")[0] for line in lines)


def our_arguments(line: str) -> Iterator[list[str]]:
    """The arguments of each ``stickyproxy`` command in a line of shell."""
    words = shlex.split(re.sub(r"\$\(\(.*?\)\)", "1", line))
    for at, word in enumerate(words):
        before = words[at - 1] if at else "do"
        is_command = before in ("do", "&", "|") or "=" in before or before.endswith((";", ")"))
        if word == "stickyproxy" and is_command:
            rest = words[at + 1 :]
            end = next((n for n, each in enumerate(rest) if each in ("&", ">", "|", ";")), None)
            yield rest[:end]


COMMAND_LINES = [arguments for line in typed(MANUAL) for arguments in our_arguments(line)]


def test_the_tutorials_have_commands_of_ours() -> None:
    assert {arguments[0] for arguments in COMMAND_LINES} >= {"serve", "check", "demo-app"}


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=" ".join)
def test_commands_are_understood(arguments: list[str]) -> None:
    cli._parser().parse_args(arguments)  # exits if not


@pytest.mark.parametrize("doc", DOCS)
def test_commands_named_in_text_exist(doc: str) -> None:
    parsers = subcommands()
    said = {text for _, text in ERRORS_TOLD}
    for span in spans(TEXT[doc]):
        words = span.split()
        if len(words) < 2 or words[0] != "stickyproxy" or span in said:
            continue
        if words[1].startswith("--"):
            assert words[1] in options_of(cli._parser()), span
            continue
        assert words[1] in parsers, span
        named = {word for word in words if word.startswith("--")}
        assert named <= options_of(parsers[words[1]]), span


def test_every_command_and_option_is_in_the_table_of_commands() -> None:
    table = {cells[0].strip("`"): " ".join(cells) for cells in rows(section(COMMANDS, "Commands"))}
    for name, parser in subcommands().items():
        [row] = [text for command, text in table.items() if command.split()[1:2] == [name]]
        options = {o for o in options_of(parser) if o.startswith("--")} - {"--help"}
        missing = [option for option in options if not re.search(rf"{option}\b", row)]
        assert not missing, f"{name}: {missing}"


def test_every_option_named_there_exists() -> None:
    known = options_of(cli._parser()).union(*map(options_of, subcommands().values()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section(COMMANDS, "Commands")))
    assert named <= known


@pytest.mark.parametrize("doc", DOCS)
def test_make_targets_exist(doc: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*spans(TEXT[doc]), *typed(TEXT[doc])]
    named = {found[1] for each in code if (found := re.match(r"make ([a-z-]+)", each))}
    assert named <= targets


# --- responses and logs ---------------------------------------------------------------------------


Assigned = dict[str, ast.expr]
"""What is assigned to which name in a function."""


def statuses(node: ast.expr, assigned: Assigned) -> list[int]:
    """The error statuses that an expression may stand for."""
    match node:
        case ast.Constant(value=int(number)) if 400 <= number < 600:
            return [number]
        case ast.IfExp(body=body, orelse=orelse):
            return [*statuses(body, assigned), *statuses(orelse, assigned)]
        case ast.Name(id=name) if name in assigned:
            return statuses(assigned[name], {})
    return []


def words(node: ast.expr, assigned: Assigned) -> str:
    """The text that an expression stands for, with an ellipsis for what varies."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part, assigned) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return words(left, assigned) + words(right, assigned)
        case ast.Name(id=name) if name in assigned:
            return words(assigned[name], {})
    return "…"


def error_responses(path: Path) -> Iterator[tuple[str, str]]:
    """Status and text of every error response that a module makes: of all calls whose first two
    arguments are one."""
    for scope in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inside = [*ast.walk(scope)]
        assigned = {
            node.targets[0].id: node.value
            for node in inside
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in inside:
            if isinstance(node, ast.Call) and len(node.args) > 1:
                text = words(node.args[1], assigned)
                found = statuses(node.args[0], assigned)
                if found and text != "…":
                    yield " or ".join(map(str, found)), text


VARIES = r"\b(?:BYTES|HOST|NAME|NUMBER|PATH|REASON|SECONDS)\b"
"""How what varies is written in the reference."""

ERRORS_TOLD = {
    (cells[0], re.sub(VARIES, "…", cells[1].strip("`")))
    for cells in rows(TEXT["docs/reference/errors.md"])
    if re.fullmatch(r"[45]\d\d( or [45]\d\d)?", cells[0])
}


def test_every_error_response_is_in_the_reference_and_no_other() -> None:
    packages = (PACKAGE / name for name in ("base", "semantics", "routing", "dataplane"))
    modules = (path for package in packages for path in package.rglob("*.py"))
    assert {found for path in modules for found in error_responses(path)} == ERRORS_TOLD


def test_every_field_of_the_access_log_is_named() -> None:
    assert {"time", *Record.__slots__} <= {*spans(section(ACCESS_LOG, "Fields"))}


def test_every_word_for_affinity_is_explained() -> None:
    explained = {cells[0].strip("`") for cells in rows(section(ACCESS_LOG, "Affinity"))}
    assert {affinity.value for affinity in Affinity} <= explained


def test_every_outcome_is_explained_and_no_other() -> None:
    [_head, _line, *explained] = [cells[0] for cells in rows(section(ACCESS_LOG, "Outcome"))]
    assert explained == [f"`{outcome.value}`" for outcome in Outcome]


# --- figures --------------------------------------------------------------------------------------


def figures(text: str) -> set[tuple[str, ...]]:
    """The figures of each row of a table that has nothing else beside its first cell."""
    found = {tuple(cell.strip("*") for cell in cells[1:]) for cells in rows(text)}
    return {row for row in found if all(re.fullmatch(r"[\d.,]+|-", cell) for cell in row)}


@pytest.mark.parametrize("doc", ["README.md", "docs/comparison.md"])
def test_figures_are_those_that_were_measured(doc: str) -> None:
    results = ROOT / "bench/results"
    measured = {*figures((results / "affinity.md").read_text("utf-8"))}
    measured |= figures((results / "speed.md").read_text("utf-8"))
    measured |= figures((results / "tls.md").read_text("utf-8"))
    assert len(figures(TEXT[doc])) >= 4
    assert figures(TEXT[doc]) <= measured


# --- ARCHITECTURE ---------------------------------------------------------------------------------


def test_every_module_is_named() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.read_text("utf-8")]
    missing = {str(path.relative_to(PACKAGE)) for path in modules} - {*spans(ARCHITECTURE)}
    assert not missing


def test_the_floors_are_those_that_are_tested() -> None:
    told = [
        (re.sub(r"[`/]|\.py", "", cells[0]), {span.rstrip("/") for span in spans(cells[1])})
        for cells in rows(section(ARCHITECTURE, "Floors"))
        if "`" in cells[0]
    ]
    tested = [(package or "__init__", allowed) for package, allowed in MAY_IMPORT.items()]
    assert told == tested


# --- CHANGELOG ------------------------------------------------------------------------------------


def test_the_version_is_in_the_changelog() -> None:
    assert "## [Unreleased]" in CHANGELOG
    assert stickyproxy.__version__ in CHANGELOG
