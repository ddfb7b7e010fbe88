"""The documentation as a reader meets it: every page in headless Chromium, wide and narrow, light and dark.

Run: make docs, then python -m pytest -m site. It needs Debian's package chromium, or another Chromium on the PATH.
"""

import functools
import http.server
import importlib
import shutil
import threading
import zlib
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

SITE = Path(__file__).parent.parent / "docs" / "_build" / "html"
PAGES = sorted(str(p) for p in (q.relative_to(SITE) for q in SITE.rglob("*.html")) if p.parts[0] != "_modules")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
FLAWS = """() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    broken: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src),
    unnamed: [...document.querySelectorAll('article img')].filter(i => !i.alt && !i.src.endsWith('_thumb.png')).map(i => i.src),
    titles: document.querySelectorAll('h1').length,
    missing: [...document.querySelectorAll('a[href^="#"]')].map(a => decodeURIComponent(a.getAttribute('href').slice(1)))
        .filter(id => id && !document.getElementById(id)),
})"""

MODULES = [
    "rieszflow",
    *(f"rieszflow.{name}" for name in ("data", "directions", "engines", "errors", "generative", "metrics")),
    *("rieszflow.report", "rieszflow.sklearn", "rieszflow.two_sample.permutations"),
]

pytestmark = pytest.mark.site


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def address():
    assert (SITE / "index.html").exists(), "make docs builds the site first"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "Chromium is needed, by the name chromium, chromium-browser or google-chrome"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[(1280, 800), (390, 844)], ids=["desktop", "phone"])
def size(request):
    return request.param


@pytest.fixture(scope="module", params=["light", "dark"])
def page(browser, address, size, request):
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=request.param)
    page = context.new_page()
    page.scheme, page.problems = request.param, []
    page.on("console", lambda message: page.problems.append(message.text) if message.type in ("error", "warning") else None)
    # What a browser gives up because the next page is opened has not failed.
    page.on("requestfailed", lambda it: page.problems.append(f"failed: {it.url}") if "ABORTED" not in it.failure else None)
    page.on("response", lambda got: page.problems.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    # Nothing may come from elsewhere: the site is read where there is no network, too.
    page.on(
        "request", lambda asked: None if asked.url.startswith((address, "data:")) else page.problems.append(f"asks {asked.url}")
    )
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_fits(page, address, name):
    page.problems.clear()
    page.goto(f"{address}/{quote(name)}", wait_until="load")
    page.evaluate("""() => Promise.all([...document.images].map(i => {
        i.loading = 'eager'
        return i.complete || new Promise(done => { i.onload = i.onerror = done })
    }))""")
    flaws = page.evaluate(FLAWS)
    assert page.problems == [] and flaws["broken"] == [] and flaws["unnamed"] == [] and flaws["missing"] == []
    assert flaws["wide"] <= 0, f"{flaws['wide']} pixels wider than the window"
    assert flaws["titles"] == 1 or name in ("search.html", "genindex.html")


def test_dark_is_dark_and_text_can_be_read(page, address):
    """Contrast of text and ground by WCAG 2.1 (at least 4.5 for text of this size), and the ground's own lightness."""
    page.goto(f"{address}/start.html")
    colours = page.evaluate("""() => [getComputedStyle(document.querySelector('article p')).color,
                                      getComputedStyle(document.body).backgroundColor]""")
    text, ground = (_luminance([float(v) for v in c[c.index("(") + 1 : -1].split(",")[:3]]) for c in colours)
    assert (ground < 0.1) == (page.scheme == "dark")
    assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5


def test_search_finds_a_name(page, address):
    page.goto(f"{address}/search.html?q=pairwise_energy_distance")
    page.wait_for_selector("#search-results li")
    assert "pairwise_energy_distance" in page.inner_text("#search-results")


def test_every_page_can_be_reached(browser, address):
    """By links from the first page, as a reader goes; and every link leads somewhere."""
    page = browser.new_page()
    seen, new = set(), {"index.html"}
    wanted, there = set(), set()
    while new:
        name = new.pop()
        seen.add(name)
        if name.startswith("_modules"):
            continue
        assert page.goto(f"{address}/{name}").ok, name
        there |= {(name, it) for it in page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")}
        for link in page.evaluate("() => [...document.querySelectorAll('a[href*=\"#\"]')].map(a => a.href)"):
            target, _, part = link.removeprefix(f"{address}/").partition("#")
            if part and link.startswith(address) and not target.startswith("_modules"):
                wanted.add((target, unquote(part)))
        links = page.evaluate("() => [...document.querySelectorAll('a[href]')].map(a => a.href.split('#')[0])")
        new |= {
            link.removeprefix(f"{address}/") for link in links if link.startswith(address) and link.endswith(".html")
        } - seen
    assert set(PAGES) - {"search.html"} <= seen
    assert wanted <= there, f"no such place on its page: {sorted(wanted - there)[:5]}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_page(module):
    """In the built inventory: what has no docstring is left out of the pages without a word. A name is listed where it is, or
    where it is at home; tables of names, in capitals, have no page."""
    names = {name for name in importlib.import_module(module).__all__ if not name.isupper()}
    with open(SITE / "objects.inv", "rb") as file:
        for _ in range(4):
            file.readline()
        listed = {line.split()[0] for line in zlib.decompress(file.read()).decode().splitlines() if " py:" in line}
    homes = (module, "rieszflow", "rieszflow.errors")
    assert [name for name in sorted(names) if not listed & {f"{home}.{name}" for home in homes}] == []


def _luminance(rgb):
    linear = [v / 255 / 12.92 if v <= 0.04045 * 255 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
