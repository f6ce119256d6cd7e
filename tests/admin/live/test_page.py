"""The live page in a browser, in front of an admin listener of our own making."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.admin.live.conftest import OpenPage
from tests.admin.live.fixture import Fixture, endpoint, many, problem, service, stir


async def looks(fixture: Fixture, more: int = 2) -> None:
    """Wait until the page has looked so often again, and has shown what it saw."""
    wanted = fixture.looks + more + 1
    await fixture.until(lambda: fixture.looks >= wanted)


def row(page: Page, name: str = "demo") -> Locator:
    """A service."""
    return page.locator(".service").filter(has=page.get_by_role("button", name=name, exact=True))


class TestShows:
    async def test_a_service_and_its_endpoints(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.services[0]["endpoints"][1] |= {"state": "down", "why": "check of /: status 503"}
        page = await open_page(fixture.url)
        demo = row(page)
        await expect(demo.locator(".places")).to_have_text("demo.local")
        await expect(demo.locator(".head .rate")).to_contain_text("60 req/s")
        await expect(demo.locator(".head .latency")).to_contain_text("2.1 ms, 19 ms")
        await expect(demo.locator(".head .state")).to_have_text("2 of 3 in use")
        endpoints = demo.locator(".endpoint")
        await expect(endpoints).to_have_count(3)
        await expect(endpoints.nth(1).locator("> .state")).to_have_text("down")
        await expect(endpoints.nth(1).locator(".why")).to_have_text("check of /: status 503")
        await expect(endpoints.locator("> .sessions b")).to_have_text(["20", "40", "60"])
        bars = endpoints.locator(".track i")
        widths = await bars.evaluate_all("all => all.map((each) => each.style.width)")
        assert widths == ["33.3%", "66.7%", "100%"]
        await expect(page.locator("#about")).to_have_text("version 9.9 · up 2 h · 4 workers")
        await expect(page.locator("#legend")).to_have_text("pinned55new5")
        await expect(page).to_have_title("60/s \u2013 stickyproxy")

    async def test_what_changes(self, fixture: Fixture, open_page: OpenPage) -> None:
        page = await open_page(fixture.url)
        demo = row(page)
        await expect(demo.locator(".head .state")).to_have_text("3 of 3 in use")
        fixture.services[0]["endpoints"].pop(0)
        fixture.services[0]["figures"] = None
        fixture.services.append(service("another"))
        await expect(demo.locator(".endpoint")).to_have_count(2)
        await expect(demo.locator(".head .rate b")).to_have_text("\u2013")
        await expect(page.locator(".service .name")).to_have_text(["another", "demo"])
        fixture.services.pop(0)
        await expect(page.locator(".service .name")).to_have_text(["another"])

    async def test_problems_and_what_mends_them(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        fixture.problems = [problem(), problem("other", fatal=False, remedy="")]
        page = await open_page(fixture.url)
        shown = page.locator("#problem-list .problem")
        await expect(shown).to_have_count(2)
        await expect(shown.nth(0)).to_contain_text('demo: port "eighty"')
        await expect(shown.nth(0).locator("code")).to_have_text(fixture.problems[0]["remedy"])
        await expect(shown.nth(1).locator(".remedy")).to_be_hidden()
        await shown.nth(0).get_by_role("button", name="Copy").click()
        await expect(page.locator("#toasts")).to_contain_text(re.compile("Copied|Ctrl-C"))
        fixture.problems.clear()
        await expect(page.locator("#problems")).to_be_hidden()
        await expect(page.locator("#t-problems")).to_have_text("0")

    async def test_events_and_what_they_tell_at_once(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        page = await open_page(fixture.url)
        await expect(page.locator("#link-text")).to_have_text("live")
        await _streaming(fixture)
        fixture.tell("demo/1 has joined", time="2026-11-22T10:20:30.5Z")
        fixture.tell("demo/2 is down", "endpoint-ejected")
        await expect(page.locator("#events .text")).to_have_text(
            ["demo/2 is down", "demo/1 has joined"]
        )
        await expect(page.locator("#events li").first).to_have_attribute("data-tone", "bad")

    async def test_nothing_is_touched_that_has_not_changed(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        page = await open_page(fixture.url)
        await expect(row(page).locator(".endpoint")).to_have_count(3)
        await looks(fixture)
        await page.evaluate(_COUNT)
        await looks(fixture, 3)
        assert await page.evaluate("changed.size") == 0

    async def test_of_500_services_only_those_on_the_screen_are_touched(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        fixture.services = many(500)
        fixture.on_look = lambda: stir(fixture.services)
        page = await open_page(fixture.url)
        await expect(page.locator("#count")).to_have_text("500")
        await expect(page.locator(".service")).to_have_count(500)
        await looks(fixture)
        await page.evaluate(_COUNT)
        await looks(fixture, 3)
        rows = "new Set([...changed].map((node) => node.closest('.service')).filter(Boolean)).size"
        touched = await page.evaluate(rows)
        assert 5 <= touched <= 40
        await page.locator("#search").fill("service-499")
        await expect(page.locator(".service:visible .name")).to_have_text(["service-499"])
        await expect(page.locator("#count")).to_have_text("1 of 500")
        rate = row(page, "service-499").locator(".head .rate b")
        await expect(rate).not_to_have_text("")


_COUNT = """() => {
  window.changed = new Set();
  const note = (records) => {
    for (const { target } of records) changed.add(target.parentElement ?? target);
  };
  const all = { subtree: true, childList: true, characterData: true };
  new MutationObserver(note).observe(document.querySelector("main"), all);
}"""
"""Note which elements get another text or other children."""


async def _streaming(fixture: Fixture) -> None:
    await fixture.until(lambda: fixture.streams > 0)


HOSTILE = (
    "<img src=x onerror=\"document.title='HACKED'\">",
    "<script>document.title='HACKED'</script>",
    '"><svg onload="document.title=\'HACKED\'">',
    "javascript:document.title='HACKED'",
    "__proto__",
    "constructor",
    "a\u202eb\u0000\u001b[31m",
)


class TestHostileNames:
    async def test_are_text_wherever_they_stand(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        fixture.services = [
            service(
                text,
                endpoint(1, id=text, address=text, node=text, why=text, state=text),
                hosts=[text],
                policy=text,
                context_root=text,
                state=text,
                problems=[problem(text, label=text, value=text, reason=text, remedy=text)],
                figures=service()["figures"] | {"affinity": {text: 1.0, "pinned": 1.0}},
            )
            for text in HOSTILE
        ]
        fixture.problems = [problem(text, reason=text, remedy=text) for text in HOSTILE]
        page = await open_page(fixture.url)
        await expect(page.locator(".service")).to_have_count(len(HOSTILE))
        await _streaming(fixture)
        for text in HOSTILE:
            fixture.tell(text, event=text.replace("\n", " "))
        await expect(page.locator("#events li")).to_have_count(len(HOSTILE))
        names = await page.locator(".service .name").evaluate_all(
            "all => all.map(e => e.textContent)"
        )
        assert set(names) == set(HOSTILE)
        await page.locator("#search").fill("onerror")
        await expect(page.locator(".service:visible")).to_have_count(1)
        await page.locator(".service:visible .endpoint .drain").click()
        await expect(page.locator("#ask-title")).to_contain_text("<img src=x onerror=")
        await expect(page.locator("#ask-command")).to_contain_text("stickyproxy drain '<img")
        await page.locator("#ask-yes").click()
        await expect(page.locator("#toasts .toast")).to_contain_text("<img src=x onerror=")
        await looks(fixture)
        assert await page.locator("img, script:not([src]), body svg:not(.spark)").count() == 0
        assert "HACKED" not in await page.title()

    async def test_the_browser_is_told_to_run_nothing_else(
        self, fixture: Fixture, browser: Browser
    ) -> None:
        page = await browser.new_page()  # one that may say to its console what was refused
        await page.goto(fixture.url)
        for way in (
            "document.body.innerHTML = '<b>text</b>'",
            "document.createElement('script').src = 'data:text/javascript,document.title=1'",
            "document.createElement('button').setAttribute('onclick', 'document.title = 1')",
        ):
            refused = "() => { try { %s; } catch (error) { return error.name; } }"
            assert await page.evaluate(refused % way) == "TypeError", way


class TestOrders:
    async def test_drain_is_asked_first_and_can_be_undone(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        page = await open_page(fixture.url)
        second = row(page).locator(".endpoint").nth(1)
        await second.get_by_role("button", name="Drain: demo/2").click()
        await expect(page.locator("#ask-text")).to_have_text(
            "Its sessions stay (about 40), and new ones go elsewhere."
        )
        await expect(page.locator("#ask-command")).to_have_text("stickyproxy drain demo/id2")
        await page.get_by_role("button", name="Cancel").click()
        assert fixture.orders == []
        await second.get_by_role("button", name="Drain: demo/2").click()
        await page.locator("#ask-yes").click()
        await expect(second.locator("> .state")).to_have_text("draining")
        assert fixture.orders == [("demo/id2", "drain")]
        await page.get_by_role("button", name="Undo (u)").click()
        await expect(second.locator("> .state")).to_have_text("usable")
        assert fixture.orders[1:] == [("demo/id2", "ready")]

    async def test_maintenance_and_undrain_of_a_whole_service(
        self, fixture: Fixture, open_page: OpenPage
    ) -> None:
        page = await open_page(fixture.url)
        states = row(page).locator(".endpoint > .state")
        await page.get_by_role("button", name="Maintenance: demo", exact=True).click()
        await page.locator("#ask-yes").click()
        await expect(states).to_have_text(["maintenance"] * 3)
        await page.get_by_role("button", name="Undrain demo", exact=True).click()
        await expect(states).to_have_text(["usable"] * 3)
        assert fixture.orders == [("demo", "maintenance"), ("demo", "ready")]
        await page.keyboard.press("u")
        await expect(states).to_have_text(["maintenance"] * 3)

    async def test_what_is_refused_is_told(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.refusal = "there are 1000 orders already"
        page = await open_page(fixture.url)
        await page.get_by_role("button", name="Drain: demo/1").click()
        await page.locator("#ask-yes").click()
        await expect(page.locator("#toasts")).to_contain_text("there are 1000 orders already")


class TestTokens:
    async def test_for_changes(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.change_token = "right"
        page = await open_page(fixture.url)
        await page.get_by_role("button", name="Drain: demo/1").click()
        await page.locator("#ask-yes").click()
        token = page.get_by_label("Token", exact=True)
        await expect(page.locator("#token-wrong")).to_be_hidden()
        await token.fill("wrong")
        await token.press("Enter")
        await expect(page.locator("#token-wrong")).to_be_visible()
        await token.fill("not possible in a header: ü")
        await token.press("Enter")
        await expect(page.locator("#token-wrong")).to_be_visible()
        await token.fill("right")
        await page.get_by_role("button", name="Use it").click()
        await expect(row(page).locator(".endpoint > .state").first).to_have_text("draining")
        await page.get_by_role("button", name="Undrain demo/1").click()
        await expect(row(page).locator(".endpoint > .state").first).to_have_text("usable")
        assert fixture.orders == [("demo/id1", "drain"), ("demo/id1", "ready")]

    async def test_nothing_is_done_without(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.change_token = "right"
        page = await open_page(fixture.url)
        await page.get_by_role("button", name="Drain: demo/1").click()
        await page.locator("#ask-yes").click()
        await page.get_by_label("Token", exact=True).press("Escape")
        await looks(fixture)
        assert fixture.orders == []

    async def test_for_looking(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.read_token = "look"
        page = await open_page(fixture.url)
        token = page.get_by_label("Token", exact=True)
        await token.press("Escape")
        await page.get_by_role("button", name="Give the token").click()
        await token.fill("wrong")
        await token.press("Enter")
        await expect(page.locator("#token-wrong")).to_be_visible()
        await token.fill("look")
        await token.press("Enter")
        await expect(row(page)).to_be_visible()
        await _streaming(fixture)
        await page.reload()
        await expect(row(page)).to_be_visible()

    async def test_that_for_changes_may_look(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.read_token, fixture.change_token = "look", "change"
        page = await open_page(fixture.url)
        await page.get_by_label("Token", exact=True).fill("change")
        await page.get_by_role("button", name="Use it").click()
        await expect(row(page)).to_be_visible()


class TestConnection:
    async def test_lost_and_back(self, fixture: Fixture, open_page: OpenPage) -> None:
        page = await open_page(fixture.url)
        await expect(page.locator("#link-text")).to_have_text("live")
        await fixture.stop()
        await expect(page.locator("#lost")).to_contain_text("has not answered since")
        await expect(row(page)).to_be_visible()
        fixture.services = [service("new")]
        await fixture.start()
        await expect(page.locator("#lost")).to_be_hidden()
        await expect(page.locator(".service .name")).to_have_text(["new"])
        await _streaming(fixture)
        fixture.tell("it is back")
        await expect(page.locator("#events .text").first).to_have_text("it is back")

    async def test_while_nobody_looks(self, fixture: Fixture, open_page: OpenPage) -> None:
        page = await open_page(fixture.url)
        await _streaming(fixture)
        await page.evaluate(
            """() => {
              Object.defineProperty(document, "hidden", { value: true, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        await fixture.until(lambda: fixture.streams == 0)
        seen = fixture.looks
        fixture.services[0]["policy"] = "another"
        await page.evaluate(
            """() => {
              Object.defineProperty(document, "hidden", { value: false, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        await expect(row(page).locator(".facts")).to_contain_text("policy another")
        assert fixture.looks >= seen
        await _streaming(fixture)


class TestSearch:
    async def test_by_what_a_row_shows(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.services = many(12, 2)
        fixture.services[3]["endpoints"][0]["node"] = "rack-7"
        fixture.services[5]["endpoints"][1] |= {"state": "draining", "admin_state": "drain"}
        fixture.services[7]["endpoints"][1] |= {"state": "down"}
        fixture.services[8]["figures"]["requests_per_second"] = 0.0
        page = await open_page(fixture.url)
        shown = page.locator(".service:visible .name")
        await expect(shown).to_have_count(12)
        for words, found in {
            "RACK-7": ["service-4"],
            "service-1 local": ["service-1", "service-10", "service-11", "service-12"],
            "10.0.9.2": ["service-9"],
            "draining": ["service-6"],
            "nowhere": [],
        }.items():
            await page.locator("#search").fill(words)
            await expect(shown).to_have_text(found)
        await expect(page.locator("#nothing")).to_be_visible()
        await page.locator("#search").press("Escape")
        await expect(shown).to_have_count(12)
        await page.locator("#show").select_option("trouble")
        await expect(shown).to_have_text(["service-8"])
        await page.locator("#show").select_option("drained")
        await expect(shown).to_have_text(["service-6"])
        await page.locator("#show").select_option("busy")
        await expect(shown).to_have_count(11)

    async def test_order(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.services = many(3, 1)
        for number, each in enumerate(fixture.services):
            each["figures"] |= {"requests_per_second": number * 2.0, "p99": 1.0 - number}
        page = await open_page(fixture.url)
        names = page.locator(".service .name")
        await expect(names).to_have_text(["service-1", "service-2", "service-3"])
        await page.locator("#order").select_option("requests")
        await expect(names).to_have_text(["service-3", "service-2", "service-1"])
        await page.locator("#order").select_option("latency")
        await expect(names).to_have_text(["service-1", "service-2", "service-3"])


class TestKeyboard:
    async def test_search_and_rows(self, fixture: Fixture, open_page: OpenPage) -> None:
        fixture.services = many(9, 1)
        page = await open_page(fixture.url)
        await expect(page.locator(".service")).to_have_count(9)
        await page.keyboard.press("/")
        await expect(page.locator("#search")).to_be_focused()
        await page.keyboard.type("service-2/")
        await expect(page.locator("#search")).to_have_value("service-2/")
        await page.keyboard.press("Escape")
        first, second = (page.locator(".toggle").nth(number) for number in (0, 1))
        await first.focus()
        await page.keyboard.press("ArrowDown")
        await expect(second).to_be_focused()
        await expect(second).to_have_attribute("aria-expanded", "false")
        await page.keyboard.press("Enter")
        await expect(second).to_have_attribute("aria-expanded", "true")
        await page.keyboard.press("Tab")
        await expect(page.locator(".service").nth(1).locator(".endpoint .drain")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("End")
        await expect(page.locator(".toggle").last).to_be_focused()

    async def test_an_order_without_a_mouse(self, fixture: Fixture, open_page: OpenPage) -> None:
        page = await open_page(fixture.url)
        button = row(page).locator(".endpoint").first.locator(".drain")
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#ask-yes")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(button).to_be_focused()
        await page.keyboard.press("Space")
        await expect(page.locator("#ask-yes")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(button).to_have_text("Undrain")
        await expect(button).to_be_focused()
        await looks(fixture)
        await expect(button).to_be_focused()
        assert fixture.orders == [("demo/id1", "drain")]
        await page.keyboard.press("u")
        await expect(button).to_have_text("Drain")

    async def test_tab_gets_through_and_out(self, fixture: Fixture, open_page: OpenPage) -> None:
        page = await open_page(fixture.url)
        await expect(row(page).locator(".endpoint")).to_have_count(3)
        stops = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            stops.append(await page.evaluate(_STOP))
            if stops[-1] == "BODY":
                break
        assert stops[0] == "A Skip to the services"
        assert stops[-1] == "BODY", "the end was reached"
        named = [stop for stop in stops[:-1] if len(stop.split()) > 1]
        assert named == stops[:-1], "each stop has a name"


_STOP = """() => {
  const at = document.activeElement;
  const label = at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent
    ?? document.getElementById(at.getAttribute("aria-labelledby"))?.textContent ?? at.textContent;
  return at === document.body ? "BODY" : `${at.tagName} ${label.trim()}`;
}"""


class TestLooks:
    @pytest.mark.parametrize("width", [320, 390, 768, 1100, 1920])
    async def test_nothing_sticks_out(
        self, fixture: Fixture, open_page: OpenPage, width: int
    ) -> None:
        name = "a-name-that-is-as-long-as-a-name-may-be-in-a-stack-of-somebody-else"
        down = endpoint(1, state="down in 3 of 8 workers", node="n" * 60, why="w" * 200)
        addresses = [f"[2001:db8::{n:x}:ffff:ffff:ffff]:8000" for n in range(60)]
        rows = [endpoint(n, address=address) for n, address in enumerate(addresses, 1)]
        fixture.services = [service(name, down), service("demo", *rows)]
        fixture.problems = [problem(name, remedy="docker " + "x" * 200)]
        page = await open_page(fixture.url, viewport={"width": width, "height": 800})
        await expect(page.locator(".service")).to_have_count(2)
        await expect(page.locator("#problem-list .problem")).to_have_count(1)
        await page.locator(".toggle").first.focus()
        overflow: Any = await page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter((e) => {
                 const box = e.getBoundingClientRect();
                 const hides = e.closest(".minis, .unseen, svg, .remedy code");
                 return !hides && box.width > 0 && box.right > innerWidth + 0.5;
               }).map((e) => `${e.tagName}.${e.className}`)"""
        )
        assert overflow == []

    async def test_themes(self, fixture: Fixture, open_page: OpenPage) -> None:
        background = "getComputedStyle(document.body).backgroundColor"
        page = await open_page(fixture.url, color_scheme="light")
        light = await page.evaluate(background)
        await page.emulate_media(color_scheme="dark")
        dark = await page.evaluate(background)
        assert light != dark
        theme = page.locator("#theme")
        await theme.click()
        await expect(theme).to_have_attribute("aria-label", "Light theme")
        assert await page.evaluate(background) == light
        await page.reload()
        await expect(theme).to_have_attribute("aria-label", "Light theme")
        assert await page.evaluate(background) == light

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_contrast(self, fixture: Fixture, open_page: OpenPage, scheme: str) -> None:
        """WCAG 2.2, 1.4.3: at least 4.5 to 1 for text."""
        states = ("usable", "down", "down in 1 of 2 workers", "draining", "maintenance")
        rows = [endpoint(n, state=state, why="because") for n, state in enumerate(states, 1)]
        fixture.services = [service("demo", *rows)]
        fixture.problems = [problem(), problem("other", fatal=False)]
        page = await open_page(fixture.url, color_scheme=scheme)
        await expect(page.locator(".endpoint")).to_have_count(len(states))
        await _streaming(fixture)
        fixture.tell("something")
        await expect(page.locator("#events li")).to_have_count(1)
        assert await page.evaluate(_CONTRASTS) == []


_CONTRASTS = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const brightness = (colour) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, option")) continue;
    const [one, other] = [rgba(getComputedStyle(element).color), ground(element)].map(brightness);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(found)];
}"""
