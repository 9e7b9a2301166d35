"""The page in a real browser, without a window: what a visitor types, presses, moves and reads."""

import re
import shutil
import socket

import pytest
from test_demo import KNOWN, PROMPT, L, picture_model, text_model

from d3pm.cli.model import load_generator
from d3pm.cli.prompt import blanks
from d3pm.demo import serve
from d3pm.errors import ConfigError

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'd3pm[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as drive:
        browser = drive.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Serve a model that was saved and loaded, and open its page, which must speak to nobody but the server."""
    pages, strangers = [], []

    def open_page(model):
        model.save_pretrained(tmp_path / "run")
        loaded, _ = load_generator(str(tmp_path / "run"))
        pages.append(serve(loaded, "run", blanks, port=free_port()))
        tab = browser.new_page()
        tab.on("request", lambda request: strangers.append(request.url))
        tab.goto(pages[0].local_url)
        return tab

    yield open_page
    pages[0].close()
    own = (pages[0].local_url, "data:", "blob:")
    assert [url for url in strangers if not url.startswith(own)] == []


def choose(tab, field, option):
    tab.locator(f"#{field} input").click()
    tab.get_by_role("option", name=option, exact=True).click()


def move(tab, position):
    """Drag the slider, as far as the page can tell."""
    slider = tab.locator("#moment input[type=range]")
    slider.evaluate(
        "(e, to) => { e.value = to; e.dispatchEvent(new Event('input', {bubbles: true})) }", position
    )


def test_a_visitor_fills_in_blanks_and_looks_back(visit):
    tab = visit(text_model())
    expect = playwright.expect
    tab.locator("#prompt textarea").fill(PROMPT)
    choose(tab, "sampler", "FirstHitting")
    expect(tab.locator("#steps input[type=number]")).to_have_value(str(L))  # what suits this sampler
    tab.locator("#sample").click()
    result = tab.locator("#result textarea")
    expect(result).to_have_value(re.compile(f"^[a-z ]{{{L}}}$"))  # all of it, and no mask left
    text = result.input_value()
    assert [text[i] for i in KNOWN] == [PROMPT[i] for i in KNOWN]
    expect(tab.locator("#cost")).to_contain_text(re.compile(r"network calls? a sample, .* s"))

    frame = tab.locator("#frame")
    expect(frame.locator(".d3pm-text")).to_have_text(text, use_inner_text=True)
    expect(frame.locator(".masked")).to_have_count(0)
    move(tab, 0)
    expect(frame).to_contain_text("░" * (L - len(PROMPT)))
    expect(frame.locator(".given").first).to_have_text("the ")
    expect(tab.locator("#time")).to_have_text("t = 20 of 20")

    tab.locator("#prompt textarea").fill("Three <b>Cats</b>")
    tab.locator("#sample").click()
    expect(tab.locator(".toast-body")).to_contain_text("unknown symbol 'T' (U+0054) at position 0")
    assert result.input_value() == text


def test_a_visitor_asks_for_pictures_of_a_class(visit):
    tab = visit(picture_model(num_classes=3))
    expect = playwright.expect
    choose(tab, "label", "2")
    number = tab.locator("#num input[type=number]")
    number.fill("5")
    number.blur()
    tab.locator("#sample").click()
    pictures = tab.locator("#frame img")
    expect(pictures).to_have_count(5)
    last = pictures.first.get_attribute("src")
    move(tab, 0)
    expect(tab.locator("#time")).to_have_text("t = 20 of 20")
    expect(pictures.first).not_to_have_attribute("src", last)
    expect(pictures).to_have_count(5)


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} cannot be listened at on 127.0.0.1"):
            serve(text_model(), "run", blanks, port=port)
