"""config/load.py: the example is true, each problem is told with its place, nothing else
escapes."""

from __future__ import annotations

import json
import pickle
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ConfigError
from stickyproxy.config.load import load, parse
from stickyproxy.config.settings import Config, SwarmSettings
from stickyproxy.config.tables import TABLES
from stickyproxy.control.reload import ConfigFile
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.tls import ClientAuth, ListenerTls, UpstreamTls
from tests.certificates import make_ca, make_certificate, make_key, pem_of_key
from tests.specs import service_spec

EXAMPLE = Path(__file__).parent.parent.parent / "config.example.toml"

TABLE = r"(?m)^#?\[+{}\]+$"
"""The line that a table begins with; commented out if the example does without it."""

GROUPS = ("providers",)
"""Tables of tables."""


def problems(text: str) -> dict[str, str]:
    """{place: reason} of what is wrong with a configuration."""
    try:
        parse(text)
    except ConfigError as error:
        found = error.problems
    else:
        return {}
    reasons = {problem.place: problem.reason for problem in found}
    assert len(reasons) == len(found) > 0, "one reason for each place"
    return reasons


def service(**keys: str) -> str:
    """The text of a [[services]] table; values are TOML."""
    keys = {"name": '"shop"', "hosts": '["shop.local"]'} | keys
    return "\n[[services]]\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())


def endpoints(text: str, port: str = "80") -> list[str]:
    """The canonical addresses of the endpoints listed in ``text``, which is TOML."""
    [shop] = parse(service(port=port, endpoints=text)).services
    assert all(endpoint.id == endpoint.address for endpoint in shop.endpoints)
    return [endpoint.address for endpoint in shop.endpoints]


class TestExample:
    def test_loads(self) -> None:
        demo = service_spec(
            name="demo",
            hosts=("demo.local",),
            endpoints=tuple(EndpointSpec(a, a) for a in ("127.0.0.1:9001", "127.0.0.1:9002")),
            sticky_session_cookie="session",
        )
        assert load(EXAMPLE) == Config(
            listeners=(ListenerSpec(Address("127.0.0.1", 8080)),), services=(demo,)
        )

    @pytest.mark.parametrize(
        ("table", "key"),
        [(table, key) for table in TABLES for key in TABLES[table].model_fields],
    )
    def test_mentions_every_key(self, table: str, key: str) -> None:
        if not table or table in GROUPS:
            name = f"{table}.{key}".removeprefix(".")
            assert name in GROUPS or re.search(TABLE.format(re.escape(name)), EXAMPLE.read_text())
        else:
            assert key in example_keys(table)

    @pytest.mark.parametrize("table", [table for table in TABLES if table and table not in GROUPS])
    def test_mentions_nothing_else(self, table: str) -> None:
        assert set(example_keys(table)) == set(TABLES[table].model_fields)

    @pytest.mark.parametrize("table", ["proxy", "access_log"])
    def test_what_is_commented_out_is_the_default(self, table: str) -> None:
        keys = example_keys(table)
        for without in {
            *("secret", "secret_file", "handover", "keeper"),
            *("response_idle_timeout", "upgrade_idle_timeout", "upstream_ca"),
            *("max_connections", "max_connections_per_client", "reason_for"),
        } & keys.keys():
            del keys[without]  # has no default
        text = f"[{table}]\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())
        assert parse(text) == Config()

    def test_the_swarm_table_shows_defaults(self) -> None:
        keys = example_keys("providers.swarm")
        for example in ("tls_ca", "tls_cert", "tls_key", "service_cluster", "proxy_service"):
            del keys[example]
        text = "[providers.swarm]\n" + "\n".join(f"{key} = {keys[key]}" for key in keys)
        assert parse(text) == Config(swarm=SwarmSettings())

    @pytest.mark.parametrize("table", ["admin", "controller", "providers.controller"])
    def test_tables_not_in_use_can_be_used_as_shown(self, table: str) -> None:
        keys = {k: v for k, v in example_keys(table).items() if not k.endswith("token_file")}
        text = f"[{table}]\n" + "\n".join(f"{key} = {keys[key]}" for key in keys)
        assert parse(text) != Config()

    @pytest.mark.parametrize("key", TABLES["services"].model_fields)
    def test_each_key_of_a_service_can_be_used_as_shown(self, key: str, tmp_path: Path) -> None:
        keys = {key: example_keys("services")[key]}
        if key in ("client_ca", "client_certificates"):
            (tmp_path / "ca.pem").write_text(make_ca().pem)
            keys["client_ca"] = f'"{tmp_path}/ca.pem"'
        if key.startswith("hash_cookie_"):
            keys["hash_cookie"] = '"user"'
        if key == "sticky_wait":
            keys["sticky_session_cookie"] = '"session"'
        if key.startswith("ssl_backend_"):
            keys["ssl_backend"] = "true"
        if key == "ssl_backend_ca":
            (tmp_path / "ca.pem").write_text(make_ca().pem)
            keys |= {key: f'"{tmp_path}/ca.pem"', "ssl_backend_tls_verify": "true"}
        if key == "error_page":
            (tmp_path / "error.html").write_text("<h1>{status}</h1>")
            keys[key] = f'"{tmp_path}/error.html"'
        if key in ("max_queue", "queue_timeout"):
            keys["max_in_flight"] = "5"
        if key == "rate_limit_burst":
            keys["rate_limit"] = '"50/s"'
        if key.startswith("healthcheck_"):
            keys["healthcheck_path"] = '"/up"'
        assert problems(service(**keys)) == {}


def example_keys(table: str) -> dict[str, str]:
    """{key: value} of a table of the example, settings commented out included."""
    parts = re.split(TABLE.format(r"([\w.]+)"), EXAMPLE.read_text())
    body = parts[parts.index(table) + 1]
    return dict(re.findall(r"(?m)^#?(\w+) = (.+)$", body))


class TestListeners:
    def test_in_the_clear_and_over_tls(self) -> None:
        clear, tls = parse(
            "[[listeners]]\naddress = ':80'\nredirect_to_https = true\n"
            "[[listeners]]\naddress = ':443'\ntls = true"
        ).listeners
        assert clear == ListenerSpec(Address(None, 80), redirect_to_https=443)
        assert tls == ListenerSpec(Address(None, 443), tls=ListenerTls())

    @pytest.mark.parametrize(
        ("listeners", "port"),
        [("", 443), (":8443", 8443), (":8443 :443", 443), (":8443 :9443", 8443), (":0", 443)],
    )
    def test_where_they_redirect_to(self, listeners: str, port: int) -> None:
        others = [f"[[listeners]]\naddress = '{each}'\ntls = true\n" for each in listeners.split()]
        text = "[[listeners]]\naddress = ':80'\nredirect_to_https = true\n" + "".join(others)
        assert parse(text).listeners[0].redirect_to_https == port
        assert parse(text.replace("true", "444", 1)).listeners[0].redirect_to_https == 444

    @pytest.mark.parametrize(("said", "required"), [("", True), ("optional", False)])
    def test_client_certificates(self, tmp_path: Path, said: str, required: bool) -> None:
        ca = make_ca()
        (tmp_path / "ca.pem").write_text("the authority:\n" + ca.pem)
        keys = f"client_ca = '{tmp_path}/ca.pem'\n"
        keys += f"client_certificates = '{said}'\n" if said else ""
        auth = ClientAuth(ca.pem.strip(), required)
        listening = parse(f"[[listeners]]\naddress = ':443'\ntls = true\n{keys}")
        assert listening.listeners[0].tls == ListenerTls(auth)
        served = parse(f"[[services]]\nname = 'shop'\nhosts = ['a.example']\n{keys}")
        assert served.services[0].client_auth == auth
        assert served.files == (f"{tmp_path}/ca.pem",)

    @pytest.mark.parametrize(
        ("keys", "key", "reason"),
        [
            ("tls = 'yes'", "tls", "neither true nor false"),
            ("redirect_to_https = 0", "redirect_to_https", "neither true nor a port"),
            ("redirect_to_https = 'https'", "redirect_to_https", "neither true nor a port"),
            ("tls = true\nredirect_to_https = true", "redirect_to_https", "no meaning with tls"),
            ("client_ca = '/nowhere.pem'\ntls = true", "client_ca", "cannot be read"),
            ("client_certificates = 'optional'", "client_certificates", "without client_ca"),
            ("proxy_protocol = true", "proxy_protocol", "trusted_proxies"),
        ],
    )
    def test_what_is_wrong(self, keys: str, key: str, reason: str) -> None:
        [(place, said)] = problems(f"[[listeners]]\naddress = ':443'\n{keys}").items()
        assert place == f"listeners[0].{key}"
        assert reason in said

    def test_client_certificates_in_the_clear(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text(make_ca().pem)
        found = problems(f"[[listeners]]\naddress = ':80'\nclient_ca = '{tmp_path}/ca.pem'")
        assert "without tls" in found["listeners[0].client_ca"]

    def test_whose_proxy_protocol(self) -> None:
        text = "[[listeners]]\naddress = ':80'\nproxy_protocol = true\n[proxy]\n"
        assert parse(text + "trusted_proxies = ['10.0.0.0/8']").listeners[0].proxy_protocol


class TestHsts:
    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ("true", "max-age=63072000"),
            ("false", ""),
            ("'max-age=0'", "max-age=0"),
            ("'Max-Age=1; includeSubDomains; preload'", "Max-Age=1; includeSubDomains; preload"),
        ],
    )
    def test_values(self, written: str, value: str) -> None:
        assert parse(service(hsts=written)).services[0].hsts == value

    @pytest.mark.parametrize("written", ["'60s'", "'max-age=1\\r\\nX: y'", "1", "'max-age='"])
    def test_anything_else(self, written: str) -> None:
        assert problems(service(hsts=written.replace("'", '"'))).keys() == {
            "services[0] (shop).hsts"
        }


class TestDefaults:
    def test_nothing_is_required(self) -> None:
        assert parse("") == Config()
        assert parse("listeners = []\n[proxy]\n[access_log]") == Config()

    def test_values(self) -> None:
        config = Config()
        assert [str(listener.address) for listener in config.listeners] == ["0.0.0.0:80"]
        assert config.access_log == AccessLogSettings(format="text", path="-")
        assert config.proxy == ProxySettings(
            trusted_proxies=(),
            trust_unix=False,
            hide_info_headers=False,
            pin_secret=None,
            connect_timeout=3,
            response_timeout=60,
            response_idle_timeout=None,
            client_timeout=60,
            upgrade_idle_timeout=None,
            keepalive_timeout=75,
            head_timeout=15,
            upstream_idle_timeout=4,
            grace_period=30,
            worker_timeout=30,
            max_head_line=8190,
            max_headers=128,
        )

    def test_config_can_travel_and_be_compared(self) -> None:
        config = load(EXAMPLE)
        assert pickle.loads(pickle.dumps(config)) == config
        assert hash(config) == hash(load(EXAMPLE))


class TestProxy:
    def test_every_setting_arrives(self) -> None:
        text = """
            [proxy]
            hide_info_headers = true
            connect_timeout = "1s"
            response_timeout = "2s"
            response_idle_timeout = "9s"
            upgrade_idle_timeout = "10s"
            client_timeout = "7s"
            keepalive_timeout = "3s"
            head_timeout = "4s"
            upstream_idle_timeout = "5s"
            grace_period = "6s"
            worker_timeout = "8s"
            max_head_line = 1024
            max_headers = 16
            max_connections = 1000
            max_connections_per_client = 10
            reason_for = ["10.0.0.0/8"]
        """
        assert parse(text).proxy == ProxySettings(
            hide_info_headers=True,
            connect_timeout=1,
            response_timeout=2,
            response_idle_timeout=9,
            upgrade_idle_timeout=10,
            client_timeout=7,
            keepalive_timeout=3,
            head_timeout=4,
            upstream_idle_timeout=5,
            grace_period=6,
            worker_timeout=8,
            max_head_line=1024,
            max_headers=16,
            max_connections=1000,
            max_connections_per_client=10,
            reason_for=(ip_network("10.0.0.0/8"),),
        )

    def test_access_log(self) -> None:
        log = parse('access_log = {format = "json", path = "/var/log/x"}').access_log
        assert log == AccessLogSettings("json", "/var/log/x")

    def test_trusted_proxies(self) -> None:
        text = '["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "unix:"]'
        proxy = parse(f"[proxy]\ntrusted_proxies = {text}").proxy
        networks = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128")
        assert proxy.trusted_proxies == tuple(map(ip_network, networks))
        assert proxy.trust_unix

    def test_secret(self) -> None:
        proxy = parse('[proxy]\nsecret = "höchst geheim"').proxy
        assert proxy.pin_secret == "höchst geheim".encode()
        assert "geheim" not in repr(proxy)

    def test_secret_file(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_bytes(b"  very\xff secret\r\n")
        assert parse(f"[proxy]\nsecret_file = '{file}'").proxy.pin_secret == b"very\xff secret"

    @pytest.mark.parametrize(
        ("content", "reason"), [(b" \n", "is empty: write some"), (b"x" * 9999, "is too large")]
    )
    def test_useless_secret_file(self, tmp_path: Path, content: bytes, reason: str) -> None:
        file = tmp_path / "secret"
        file.write_bytes(content)
        assert reason in problems(f"[proxy]\nsecret_file = '{file}'")["proxy.secret_file"]

    def test_one_secret(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("x")
        assert problems(f"[proxy]\nsecret = 'x'\nsecret_file = '{file}'") == {
            "proxy.secret_file": "cannot be combined with secret: remove one of the two"
        }


NAMES = st.from_regex(r"[a-z]([a-z0-9_]{0,9}\.x)?", fullmatch=True)
HOSTS = st.none() | st.ip_addresses().map(str) | NAMES
PATHS = st.from_regex(r"(/[a-z.:]{1,9}){1,9}", fullmatch=True)


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "address", "canonical"),
        [
            ("127.0.0.1:80", Address("127.0.0.1", 80), "127.0.0.1:80"),
            ("[::1]:80", Address("::1", 80), "[::1]:80"),
            ("[2001:DB8:0::1]:080", Address("2001:db8::1", 80), "[2001:db8::1]:80"),
            ("LocalHost:0", Address("localhost", 0), "localhost:0"),
            ("my_app.:8080", Address("my_app", 8080), "my_app:8080"),
            (":80", Address(None, 80), ":80"),
            ("unix:/run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
            ("unix:///run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
        ],
    )
    def test_parse(self, text: str, address: Address, canonical: str) -> None:
        assert Address.parse(text) == address
        assert str(address) == canonical

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", '"" has no port: write ":8080"'),
            ("127.0.0.1", '"127.0.0.1" has no port: write "127.0.0.1:8080"'),
            ("[::1]", '"[::1]" has no port: write "[::1]:8080"'),
            ("::1", '"::1" is ambiguous: write IPv6 in brackets'),
            ("::1:80", '"::1:80" is ambiguous: write IPv6 in brackets'),
            ("127.0.0.1:", '"127.0.0.1:" has no valid port: write a number from 1 to 65535'),
            ("127.0.0.1:65536", '"127.0.0.1:65536" has no valid port'),
            ("127.0.0.1:http", '"127.0.0.1:http" has no valid port'),
            ("127.0.0.1:80\n", '"127.0.0.1:80\\n" has no valid port'),
            ("127.0.0.1:٨٠", "has no valid port"),
            ("http://a.b:80", '"http://a.b:80" is a URL, not an address: remove "http://"'),
            ("10.0.0.300:80", '"10.0.0.300" is not an IPv4 address'),
            ("*.a.b:80", '"*.a.b" is not a host name'),
            ("a b:80", '"a b" is not a host name'),
            ("[::1:80", '"[::1" is not a host name'),
            ("unix:", '"unix:" is not a socket: write it like "unix:/run/app.sock"'),
            ("unix:x.sock", '"unix:x.sock" is not a socket'),
            ("unix:/run/", '"unix:/run/" is not a socket'),
            ("unix:/a b", '"unix:/a b" is not a socket'),
            ("unix:/a\0b", '"unix:/a\\u0000b" is not a socket'),
            ("unix:/" + "x" * 107, "is too long for a socket: use at most 107 bytes"),
            ("/run/x.sock", '"/run/x.sock" lacks its scheme: write "unix:/run/x.sock"'),
        ],
    )
    def test_refused(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            Address.parse(text)

    @given(st.builds(Address, HOSTS, st.integers(0, 65535)) | st.builds(Address, path=PATHS))
    def test_round_trip(self, address: Address) -> None:
        assert Address.parse(str(address)) == address

    @given(st.text(st.sampled_from("a1.:[]/*- ") | st.characters()))
    def test_any_text_is_an_address_or_a_value_error(self, text: str) -> None:
        try:
            address = Address.parse(text)
        except ValueError:
            return
        assert Address.parse(str(address)) == address
        assert all("!" <= character <= "~" for character in str(address))


class TestServices:
    def test_endpoints_are_canonical(self) -> None:
        text = '["127.0.0.1:09001", "[0::1]:1", "App_1.local.:80", "unix:/run/x.sock"]'
        assert endpoints(text) == [
            "127.0.0.1:9001", "[::1]:1", "app_1.local:80", "unix:/run/x.sock",
        ]  # fmt: skip

    def test_port_completes_endpoints(self) -> None:
        assert endpoints('["10.0.0.5", "a:81", "[::1]", "unix:/x"]', port="8080") == [
            "10.0.0.5:8080", "a:81", "[::1]:8080", "unix:/x",
        ]  # fmt: skip

    def test_no_endpoints_are_allowed(self) -> None:
        assert endpoints("[]") == []
        assert parse(service()).services == (ServiceSpec("shop", ("shop.local",)),)

    def test_options_are_those_of_labels(self) -> None:
        [shop] = parse(service(hosts='"a.local, b.local"', ip_hash='"true"')).services
        assert shop == service_spec("shop", ("a.local", "b.local"), ip_hash=True)

    @pytest.mark.parametrize(
        ("written", "reason"),
        [
            ("127.0.0.1", '"127.0.0.1" has no port: write "127.0.0.1:8080", or set port for'),
            ("[::1]", '"[::1]" has no port: write "[::1]:8080", or set port for the service'),
            ("::1", '"::1" is ambiguous'),
            (":80", '":80" cannot be connected to: write it like "10.0.0.5:8080"'),
            ("a:0", '"a:0" cannot be connected to'),
            ("a:b", '"a:b" has no valid port'),
            ("http://a", '"http://a" is a URL, not an address: remove "http://"'),
            ("/run/x.sock", 'write "unix:/run/x.sock"'),
            ("", 'is empty: write e.g. "10.0.0.5:8080"'),
        ],
    )
    def test_bad_endpoint(self, written: str, reason: str) -> None:
        found = problems(service(endpoints=f'["a:1", "{written}"]'))
        assert list(found) == ["services[0] (shop).endpoints[1]"]
        assert reason in found["services[0] (shop).endpoints[1]"]

    def test_an_endpoint_with_an_id(self) -> None:
        text = '["10.0.0.5", { id = "blue", address = "10.0.0.6" }]'
        [shop] = parse(service(port="80", endpoints=text)).services
        assert shop.endpoints == (
            EndpointSpec("10.0.0.5:80", "10.0.0.5:80"),
            EndpointSpec("10.0.0.6:80", "10.0.0.6:80", slot="blue"),
        )

    @pytest.mark.parametrize(
        ("written", "reason"),
        [
            ('{ id = "blue" }', "a table of an endpoint has two keys: write it like"),
            ('{ id = "blue", address = "a:1", port = 5 }', "a table of an endpoint has two keys"),
            ('{ id = "", address = "a:1" }', "is empty"),
            ('{ id = 5, address = "a:1" }', "5 is not text"),
            ('{ id = "blue", address = "a:0" }', '"a:0" cannot be connected to'),
            ('{ id = "green", address = "a:1" }', '"green" is the id of endpoints[0] too'),
            ('{ id = "blue", address = "b:1" }', '"b:1" is the same as endpoints[0]: remove one'),
        ],
    )
    def test_a_bad_id(self, written: str, reason: str) -> None:
        text = f'[{{ id = "green", address = "b:1" }}, {written}]'
        found = problems(service(endpoints=text))
        assert list(found) == ["services[0] (shop).endpoints[1]"]
        assert reason in found["services[0] (shop).endpoints[1]"]

    def test_a_bad_port_is_said_once(self) -> None:
        assert problems(service(port="0", endpoints='["10.0.0.5", "10.0.0.6"]')) == {
            "services[0] (shop).port": "0 is not a port: write a number from 1 to 65535"
        }

    @pytest.mark.parametrize("port", ["80", '"80"'])
    def test_the_same_endpoint_twice(self, port: str) -> None:
        assert problems(service(port=port, endpoints='["A:80", "b:80", "a", "x y", 5]')) == {
            "services[0] (shop).endpoints[3]": '"x y" is not a host name: use letters, digits, '
            'hyphens and dots, or an address such as "192.0.2.1" or "[2001:db8::1]"',
            "services[0] (shop).endpoints[4]": "5 is not text: write it in quotes, "
            'like "10.0.0.5:8080"',
            "services[0] (shop).endpoints[2]": '"a:80" is the same as endpoints[0]: remove one',
        }

    def test_the_same_name_twice(self) -> None:
        """Reported even when something else is wrong."""
        assert problems(service() + service(name='"other"') + service(ip_hash="5")) == {
            "services[2] (shop).ip_hash": "5 is neither true nor false: write one of them",
            "services[2] (shop).name": '"shop" is the name of services[0] too: rename one',
        }


class TestTlsToEndpoints:
    """``[[services]] tls``."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        """A directory with files that are right, and others."""
        ca = make_ca()
        ours, other = (make_certificate(["proxy"], ca, client=True) for _ in range(2))
        encrypted = pem_of_key(make_key(), password="x")
        for name, text in {
            "ca.pem": f"Subject: é\n{ca.pem}\n{ca.pem}",
            "cert.pem": ours.chain,
            "key.pem": ours.key,
            "both.pem": ours.key + ours.chain,
            "other-key.pem": other.key,
            "encrypted.pem": encrypted,
            "text.pem": "hello",
            "damaged.pem": ca.pem.replace("M", "?"),
        }.items():
            (tmp_path / name).write_text(text)
        return tmp_path

    def read(self, files: Path, table: str, **others: str) -> Config:
        return parse(self.text(files, table, **others))

    def text(self, files: Path, table: str, **others: str) -> str:
        keys = {"endpoints": '["10.0.0.1:8443"]'} | others
        table = table.replace("<", f'"{files}/').replace(">", '.pem"')
        return service(**keys, tls=table)

    def test_everything(self, files: Path) -> None:
        names = 'server_name = "B.local", cert = <cert>, key = <key>'
        config = self.read(files, f"{{ verify = true, ca = <ca>, {names} }}")
        [shop] = config.services
        assert shop.tls is not None
        assert (shop.tls.verify, shop.tls.server_name) == (True, "b.local")
        assert shop.tls.ca.count("-----BEGIN CERTIFICATE-----") == 2
        assert shop.tls.ca.isascii()
        assert shop.tls.certificate == (files / "cert.pem").read_text().strip()
        assert shop.tls.key == (files / "key.pem").read_text().strip()
        assert config.files == tuple(str(files / f"{name}.pem") for name in ("ca", "cert", "key"))

    def test_endpoints_are_verified_by_default(self, files: Path) -> None:
        assert self.read(files, "{}").services[0].tls == UpstreamTls(verify=True)
        assert self.read(files, "{ verify = false }").services[0].tls == UpstreamTls()

    def test_one_file_with_both(self, files: Path) -> None:
        [shop] = self.read(files, "{ cert = <both>, key = <both> }").services
        assert shop.tls is not None
        assert "PRIVATE" not in shop.tls.certificate
        assert "CERTIFICATE" not in shop.tls.key

    def test_keys_are_not_shown(self, files: Path) -> None:
        config = self.read(files, "{ cert = <cert>, key = <key> }")
        assert "PRIVATE" not in repr(config)

    @pytest.mark.parametrize(
        ("table", "key", "reason"),
        [
            ("true", "", "is not a table"),
            ("{ ca = <nowhere> }", ".ca", "cannot be read (No such file or directory)"),
            ("{ ca = <text> }", ".ca", "has no certificate in PEM"),
            ("{ ca = <key> }", ".ca", "has no certificate in PEM"),
            (
                "{ ca = <damaged> }",
                ".ca",
                "that cannot be read (this is not PEM)",
            ),
            ("{ ca = <ca>, verify = false }", ".ca", "has no meaning with verify = false"),
            ("{ cert = <cert> }", ".key", "is required with cert"),
            ("{ key = <key> }", ".key", "has no meaning without cert"),
            ("{ cert = <cert>, key = <other-key> }", ".key", "has the key of another certificate"),
            ("{ cert = <cert>, key = <encrypted> }", ".key", "is encrypted"),
            ("{ cert = <cert>, key = <text> }", ".key", "has no key in PEM"),
            ("{ cert = <damaged>, key = <key> }", ".key", "cannot be used"),
            ("{ cert = <text>, key = <key> }", ".cert", "has no certificate in PEM"),
            ('{ server_name = "*.a.b" }', ".server_name", "is a wildcard"),
            ('{ server_nam = "a.b" }', ".server_nam", 'did you mean "server_name"?'),
            ('{ verify = "true" }', ".verify", "without quotes"),
        ],
    )
    def test_what_is_wrong(self, files: Path, table: str, key: str, reason: str) -> None:
        [(place, said)] = problems(self.text(files, table)).items()
        assert place == f"services[0] (shop).tls{key}"
        assert reason in said

    @pytest.mark.parametrize(
        ("others", "reason"),
        [
            ({"ssl_backend": "true"}, "cannot be combined with ssl_backend"),
            ({"endpoints": '["unix:/run/app.sock"]'}, "needs server_name"),
        ],
    )
    def test_what_does_not_go_together(
        self, files: Path, others: dict[str, str], reason: str
    ) -> None:
        [(place, said)] = problems(self.text(files, "{}", **others)).items()
        assert place == "services[0] (shop).tls"
        assert reason in said

    def test_the_authority_beside_ssl_backend(self, files: Path) -> None:
        keys = {"ssl_backend": "true", "ssl_backend_tls_verify": "true"}
        config = parse(service(**keys, ssl_backend_ca=f'"{files}/ca.pem"'))
        [shop] = config.services
        assert shop.tls is not None
        assert shop.tls.ca.count("-----BEGIN CERTIFICATE-----") == 2
        assert config.files == (f"{files}/ca.pem",)

    def test_of_the_proxy(self, files: Path) -> None:
        config = parse(f'[proxy]\nupstream_ca = "{files}/ca.pem"')
        assert config.proxy.upstream_ca.count("-----BEGIN CERTIFICATE-----") == 2
        assert config.files == ()  # it is read at the start

    def test_files_are_watched(self, files: Path) -> None:
        path = files / "config.toml"
        path.write_text(self.text(files, "{ ca = <ca> }"))
        file = ConfigFile(path)
        file.load()
        assert not file.changed(file.look())
        (files / "ca.pem").write_text(make_ca().pem)
        assert file.changed(file.look())
        file.load()
        assert not file.changed(file.look())
        (files / "ca.pem").unlink()
        assert file.changed(file.look())
        with pytest.raises(ConfigError):
            file.load()
        assert not file.changed(file.look())  # nothing has changed since
        path.unlink()
        assert not file.changed(file.look())


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "place", "reason"),
        [
            ("proxi = 1", "proxi", 'unknown key "proxi" (did you mean "proxy"?)'),
            ("zzz = 1", "zzz", "(known: listeners, proxy, access_log, log, services, "),
            ('"a b" = 1', '"a b"', 'unknown key "a b" (known:'),
            ("[proxy]\nsecrets = 1", "proxy.secrets", '(did you mean "secret"?)'),
            ("[[listeners]]\nadress = ':80'\naddress = ':81'", "listeners[0].adress", '"address"?'),
            ("[[services]]\nhosts = ['a']", "services[0].name", "is required"),
            (service(name="''"), "services[0].name", 'is empty: write e.g. "shop"'),
            (service(name="'a b'"), "services[0].name", '"a b" is not a service name: use'),
            (service(name="5"), "services[0].name", "5 is not text: write it in quotes"),
            (service(hosts="[]"), "services[0] (shop).hosts", "is required: name at least one"),
            (service(hosts="['a', 'b c']"), "services[0] (shop).hosts[1]", '"b c" is not a host'),
            (service(sticky_sesion_cookie="'x'"), "services[0] (shop).sticky_sesion_cookie",
             'unknown key "sticky_sesion_cookie" (did you mean "sticky_session_cookie"?)'),
            (service(endpoints="'a:1'"), "services[0] (shop).endpoints", '"a:1" is not a list'),
            ("[[listeners]]", "listeners[0].address", "is required"),
            ("[[listeners]]\naddress = 80", "listeners[0].address", "80 is not text: write it"),
            ("listeners = [':80']", "listeners[0]", '":80" is not a table'),
            ("listeners = [{address = ':80'}, {address = ':080'}]", "listeners[1].address",
             '":80" is the address of listeners[0] too: remove one'),
            ("[services]\nname = 'x'", "services", "tables of a list have [[double brackets]]"),
            ("[[proxy]]", "proxy", "a single table has [single brackets]"),
            ("proxy = 5", "proxy", "5 is not a table"),
            ("[proxy]\ntrusted_proxies = 'unix:'", "proxy.trusted_proxies", "is not a list"),
            ("[proxy]\ntrusted_proxies = ['::1', 'x']", "proxy.trusted_proxies[1]",
             '"x" is not a network: write it like "10.0.0.0/8"'),
            ("[proxy]\ntrusted_proxies = ['10.0.0.1/8']", "proxy.trusted_proxies[0]",
             '"10.0.0.1/8" has bits set beyond its prefix: write "10.0.0.0/8"'),
            ("[proxy]\ntrusted_proxies = ['unix:/x']", "proxy.trusted_proxies[0]",
             'write "unix:" for peers on all of them'),
            ("[proxy]\nhide_info_headers = 'yes'", "proxy.hide_info_headers",
             '"yes" is neither true nor false: write one of them, without quotes'),
            ("[proxy]\nsecret = ''", "proxy.secret", "is empty: write"),
            ("[proxy]\nsecret_file = '/nowhere/x'", "proxy.secret_file",
             '"/nowhere/x" cannot be read (No such file or directory): name a readable file'),
            ("[proxy]\nconnect_timeout = 3", "proxy.connect_timeout", '3 has no unit: write "3s"'),
            ("[proxy]\ngrace_period = '0s'", "proxy.grace_period", '"0s" would time out at once'),
            ("[proxy]\nsession_window = '10s'", "proxy.session_window",
             '"10s" is too short: write at least "1m"'),
            ("[proxy]\nmax_headers = 1", "proxy.max_headers", "1 is too small: write at least 16"),
            ("[proxy]\nmax_headers = true", "proxy.max_headers", "true is not a whole number"),
            ("[proxy]\nmax_head_line = 65537", "proxy.max_head_line", "write at most 65536"),
            ("[proxy]\nmax_head_line = '8190'", "proxy.max_head_line", "digits, without quotes"),
            ("[access_log]\nformat = 'xml'", "access_log.format",
             '"xml" is not known: write "off", "text" or "json"'),
            ("[access_log]\npath = ''", "access_log.path", "is empty: write"),
            ('[access_log]\npath = "a\\nb"', "access_log.path", '"a\\nb" holds a control'),
        ],
    )  # fmt: skip
    def test_with_place_and_reason(self, text: str, place: str, reason: str) -> None:
        found = problems(text)
        assert list(found) == [place]
        assert reason in found[place]

    def test_all_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            parse("zzz = 1\n[proxy]\nmax_headers = 1\n[[services]]\nname = 'shop'", "x.toml")
        assert str(caught.value).splitlines() == [
            "x.toml: proxy.max_headers: 1 is too small: write at least 16",
            "x.toml: services[0] (shop).hosts: is required: name at least one host, "
            "or set default_backend to answer for any",
            'x.toml: zzz: unknown key "zzz" (known: listeners, proxy, access_log, log, '
            "services, certificates, admin, providers, controller, acme, tracing)",
        ]


class TestReading:
    @pytest.mark.parametrize(
        ("text", "place", "reason"),
        [
            ("a = 1\nb = x", "line 2, column 5", "is not valid TOML: Invalid value"),
            ("a = ", "end of document", "is not valid TOML: Invalid value"),
            ("a = 1\na = 2", "end of document", "is not valid TOML: Cannot overwrite a value"),
            ("a = " + "9" * 5000, "", "is not valid TOML: Exceeds the limit"),
            ("a = " + "[" * 100_000, "", "is not valid TOML: lists or tables nested too deeply"),
        ],
    )
    def test_syntax_errors(self, text: str, place: str, reason: str) -> None:
        found = problems(text)
        assert list(found) == [place]
        assert found[place].startswith(reason)

    def test_a_number_too_long_to_print(self) -> None:
        text = "[proxy]\nmax_headers = 0x" + "f" * 9999
        assert problems(text)["proxy.max_headers"].startswith("a number of this size is too large")

    def test_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "none.toml"
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: cannot be read: No such file or directory"

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load(tmp_path)
        with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
            load("a\0b")

    def test_other_encodings(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_bytes(b"# caf\xe9")
        with pytest.raises(ConfigError, match="cannot be read: byte 5 is not UTF-8"):
            load(str(path))
        path.write_text("# Windows writes such a mark\r\n", "utf-8-sig")
        assert load(str(path)) == Config()


# --- nothing but ConfigError ----------------------------------------------------------------

TEXT = st.text(
    st.sampled_from("a1.-_*/:;,=?#% \r\n\0[]") | st.characters(exclude_categories=["Cs"]),
    max_size=12,
)
VALUES = st.recursive(
    TEXT | st.integers() | st.floats() | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
KEYS = st.sampled_from(sorted({key for model in TABLES.values() for key in model.model_fields}))
SECTIONS = st.dictionaries(KEYS | TEXT, VALUES, max_size=4)


def toml(value: object) -> str:
    """A value as TOML text."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return (
                "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
            )
        case _:
            return str(value)


@given(SECTIONS, SECTIONS, st.lists(SECTIONS, max_size=2), st.lists(SECTIONS, max_size=2))
def test_whatever_stands_in_the_tables(
    proxy: dict[str, object],
    access_log: dict[str, object],
    listeners: list[dict[str, object]],
    services: list[dict[str, object]],
) -> None:
    document = {
        "proxy": proxy, "access_log": access_log, "listeners": listeners, "services": services,
    }  # fmt: skip
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    assert tomllib.loads(text).keys() == document.keys(), "the test writes TOML"
    for place, reason in problems(text).items():
        assert f"{place}{reason}".isprintable()
        assert "Input should" not in reason, "pydantic's words"


@given(SECTIONS)
def test_whatever_stands_at_the_top(document: dict[str, object]) -> None:
    problems("\n".join(f"{toml(key)} = {toml(value)}" for key, value in document.items()))


@given(st.text(st.sampled_from("[]{}=.,'\"\n#a1- ") | st.characters()))
def test_whatever_the_file_holds(text: str) -> None:
    problems(text)


class TestSwarm:
    def test_nothing_by_default(self) -> None:
        config = parse("")
        assert (config.admin, config.swarm, config.follow, config.controller) == (None,) * 4

    def test_whole_table(self, tmp_path: Path) -> None:
        pem = tmp_path / "a.pem"
        pem.write_text("")
        keys = f"tls_ca = '{pem}'\ntls_cert = '{pem}'\ntls_key = '{pem}'\n"
        config = parse(
            f"[providers.swarm]\nendpoint = 'tcp://manager:2376'\n{keys}"
            "poll_interval = '1s'\nservice_cluster = 'eu'\nattach_networks = false\n"
            "networks = ['shop_*']\nrelease_networks_after = '1m'\nproxy_service = 'lb'"
        )
        assert config.swarm == SwarmSettings(
            endpoint="tcp://manager:2376",
            poll_interval=1.0,
            tls_ca=str(pem),
            tls_cert=str(pem),
            tls_key=str(pem),
            service_cluster="eu",
            attach_networks=False,
            networks=("shop_*",),
            release_networks_after=60.0,
            proxy_service="lb",
        )

    @pytest.mark.parametrize(
        ("text", "place", "reason"),
        [
            ("[providers.swarn]", "providers.swarn", 'did you mean "swarm"?'),
            ("[providers.swarm]\nendpont = 1", "providers.swarm.endpont", '"endpoint"?'),
            ("[providers.swarm]\nendpoint = '/x'", "providers.swarm.endpoint", 'like "unix:///'),
            ("[providers.swarm]\nendpoint = 'tcp://h'", "providers.swarm.endpoint", "no port"),
            ("[providers.swarm]\ntls_ca = '/none'", "providers.swarm.tls_ca", "readable file"),
            ("[providers.swarm]\npoll_interval = '0s'", "providers.swarm.poll_interval", "more"),
            ("[controller]\naddress = ':1'", "controller.token_file", "is required"),
            ("[providers.controller]\ntoken = 'a'", "providers.controller.url", "is required"),
            (
                "[providers.controller]\ntoken = 'a'\nurl = 'https://c'",
                "providers.controller.url",
                "has no port",
            ),
            (
                "[providers.controller]\ntoken = 'a'\nurl = 'controller:8082'",
                "providers.controller.url",
                'like "https://controller:8082"',
            ),
            (
                "[providers.controller]\ntoken = 'a'\nurl = 'http://user:s3cret@c:8082'",
                "providers.controller.url",
                "remove what is before the @",
            ),
        ],
    )
    def test_problems(self, text: str, place: str, reason: str) -> None:
        found = problems(text)
        assert list(found) == [place]
        assert reason in found[place]
        assert "s3cret" not in found[place]

    @pytest.mark.parametrize(
        ("keys", "place", "reason"),
        [
            ("tls_cert tls_key", "tls_cert", "needs tls_ca"),
            ("tls_ca tls_cert", "tls_key", "is required with tls_cert"),
            ("tls_ca tls_key", "tls_key", "without tls_cert"),
        ],
    )
    def test_tls_is_whole_or_not_at_all(
        self, tmp_path: Path, keys: str, place: str, reason: str
    ) -> None:
        """Else the engine would not be verified, or not let us in."""
        pem = tmp_path / "a.pem"
        pem.write_text("")
        lines = "".join(f"{key} = '{pem}'\n" for key in keys.split())
        found = problems(f"[providers.swarm]\n{lines}")
        assert list(found) == [f"providers.swarm.{place}"]
        assert reason in found[f"providers.swarm.{place}"]

    def test_tls_without_a_certificate_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "a.pem").write_text("")
        config = parse(f"[providers.swarm]\ntls_ca = '{tmp_path}/a.pem'")
        assert config.swarm is not None
        assert config.swarm.tls_cert is None

    def test_a_token_may_come_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        config = parse(f"[controller]\naddress = ':1'\ntoken_file = '{tmp_path}/token'")
        assert config.controller is not None
        assert config.controller.token == b"s3cret"
        assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    "text",
    [
        "[[certificates]]\ncert = 'c.pem'\nkey = {}",
        "[[listeners]]\naddress = ':443'\ntls = true\nclient_ca = {}",
        "[proxy]\nupstream_ca = {}",
        "[[services]]\nname = 'shop'\nhosts = ['a.example']\ntls = {{cert = {0}, key = {0}}}",
        "[[services]]\nname = 'shop'\nhosts = [{}]",
    ],
)
def test_no_message_shows_a_key_that_stands_where_its_file_is_expected(text: str) -> None:
    key = pem_of_key(make_key())
    found = problems(text.format(json.dumps(key)))
    assert found
    assert not any(key[30:40] in reason for reason in found.values()), found
