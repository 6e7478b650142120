"""The pages, in a real browser: they work by mouse and by keys, ask for nothing, and run nothing that is in a report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from domains.lab.catalogue import experiment
from domains.lab.output.page import index, page
from domains.lab.report import Claim, Report
from tests.chromium import CHROMIUM, Chromium
from tests.domains.lab.reports import COSTS, EXPERIMENT, HOSTILE, SOURCE, a_report

pytestmark = [
    pytest.mark.needs_chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
PHONE, DESK = (390, 800), (1280, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """One for all tests of this file."""
    with Chromium() as browser:
        yield browser


@cache
def report() -> Report:
    """A real run of page-fault."""
    return experiment("page-fault").run(COSTS)


def place(system: str, exit: int) -> tuple[int, int]:
    """Of an exit, from 1 on, in that system's trace: the number of its step, and of how many."""
    steps = next(trace.steps for trace in report().traces if trace.title == system)
    return [number for number, step in enumerate(steps, 1) if step.is_exit][exit - 1], len(steps)


def number_of(system: str) -> int:
    """The place of its trace, from 1 on."""
    return [trace.title for trace in report().traces].index(system) + 1


def count(number: int, of: int) -> str:
    """What the page says of a place."""
    return f"step {number} of {of}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: hostile.html has hostile texts, page-fault.html a real run, index.html both."""
    folder = tmp_path_factory.mktemp("pages")
    chosen = experiment("page-fault")
    (folder / "hostile.html").write_bytes(page(EXPERIMENT, a_report(holds=False), COSTS))
    (folder / "page-fault.html").write_bytes(page(chosen, report(), COSTS, has_index=True))
    (folder / "index.html").write_bytes(
        index([("page-fault", [Claim("a", True), Claim("b", True)]), ("lmbench", f"failed {HOSTILE}")])
    )
    return folder


@pytest.fixture
def real(browser: Chromium, pages: Path) -> Iterator[Chromium]:
    """The page of the real run; at the end it has asked for nothing, and its console has nothing to complain of."""
    yield from watched(browser, pages / "page-fault.html")


@pytest.fixture
def hostile(browser: Chromium, pages: Path) -> Iterator[Chromium]:
    """The same of the page with hostile texts."""
    yield from watched(browser, pages / "hostile.html")


def watched(browser: Chromium, file: Path) -> Iterator[Chromium]:
    browser.resize(*DESK)
    browser.open(file)
    yield browser
    assert browser.errors == []
    assert [request for request in browser.requests if not request.startswith(file.as_uri())] == []


def text(browser: Chromium, selector: str) -> str:
    return " ".join(str(browser.evaluate(f"document.querySelector({selector!r}).textContent")).split())


def test_buttons_go_through_a_trace(real: Chromium) -> None:
    whole = len(report().traces[0].steps)
    assert text(real, "#count") == count(1, whole)
    real.click("#next")
    assert text(real, "#count") == count(2, whole)
    real.click("#back")
    assert text(real, "#count") == count(1, whole)
    assert real.evaluate("document.getElementById('back').disabled")
    real.click(f"#systems button:nth-child({number_of('ESX')})")
    for _ in range(3):
        real.click("#next-exit")
    number, whole = place("ESX", 3)
    assert text(real, "#count") == count(number, whole)
    assert text(real, "#who") == "The monitor is in control: an exit"
    assert text(real, "#what") == "traced store"
    assert text(real, "#lanes .here") == "monitor"
    assert text(real, "#tables .changed") == "guest L1[16]0x204000 P RW USwas 0"
    assert text(real, "#listing .here") == f"{number}monitortraced store"


def test_keys_go_through_a_trace(real: Chromium) -> None:
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        real.press(key)
    assert text(real, "#count").startswith("step 2 of")
    real.press(str(number_of("Xen")))
    real.press("n")
    real.press("n")
    assert text(real, "#count") == count(*place("Xen", 2))
    assert text(real, "#who") == "Xen is in control: an exit"
    assert text(real, "#what").startswith("hypercall")


def test_the_buttons_are_reached_and_worked_by_keys(real: Chromium) -> None:
    for _ in range(20):
        real.press("Tab")
        if real.evaluate("document.activeElement.id") == "next":
            break
    real.press("Enter")
    assert text(real, "#count").startswith("step 2 of")


def test_the_slider_and_the_listing_lead_to_a_step(real: Chromium) -> None:
    real.evaluate(
        "(p => { p.value = 27; p.dispatchEvent(new Event('input')); })(document.getElementById('position'))"
    )
    assert text(real, "#count").startswith("step 28 of")
    assert text(real, "#at") == report().traces[0].steps[27].at
    real.click("#listing li:last-child")
    assert text(real, "#count").startswith("step 33 of")


def test_an_address_leads_to_a_system_s_step(real: Chromium, pages: Path) -> None:
    real.open("about:blank")
    real.open((pages / "page-fault.html").as_uri() + f"#{number_of('ESX')}.{place('ESX', 3)[0]}")
    assert text(real, "#what") == "traced store"


def test_every_number_shows_its_kind_and_its_source(hostile: Chromium) -> None:
    marks = "[...document.querySelectorAll('.figures td i')].map(mark => mark.className + ' ' + mark.title)"
    assert hostile.evaluate(marks)[:3] == [
        "measured measured",
        "modelled modelled",
        f"published published, {SOURCE}",
    ]
    assert text(hostile, "#source-1") == SOURCE
    assert hostile.evaluate("document.querySelector('td.published a').getAttribute('href')") == "#source-1"
    shown = "[...document.querySelectorAll('.legend i')].map(mark => mark.className)"
    assert hostile.evaluate(shown) == ["measured", "modelled", "published"]
    assert "calls" not in text(hostile, "#costs")


def test_nothing_in_a_report_is_run(hostile: Chromium) -> None:
    assert hostile.evaluate("document.title") == "page-fault – Xenoscope's laboratory"
    assert hostile.evaluate("document.querySelectorAll('img').length") == 0
    assert text(hostile, "h1") == HOSTILE
    hostile.press("2")
    hostile.press("ArrowRight")
    hostile.press("ArrowRight")
    assert text(hostile, "#what") == HOSTILE
    assert hostile.evaluate("document.title") == "page-fault – Xenoscope's laboratory"


def test_a_claim_that_fails_is_told(hostile: Chromium) -> None:
    assert text(hostile, "#claims") == "Not everything was seen that was claimed"
    assert text(hostile, ".claims .fails").startswith("✗ does not hold:")


def test_what_the_cpu_does_by_itself_is_no_exit(hostile: Chromium) -> None:
    assert text(hostile, "#systems button small") == "3 instructions, 2 exits"
    for _ in range(4):
        hostile.press("ArrowRight")
    assert text(hostile, "#who") == "The CPU does it by itself: no exit"


@pytest.mark.parametrize("name", ["page-fault.html", "hostile.html", "index.html"])
def test_a_phone_shows_the_whole_width(browser: Chromium, pages: Path, name: str) -> None:
    browser.resize(*PHONE)
    browser.open(pages / name)
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE[0]


def test_light_and_dark_are_the_reader_s(real: Chromium) -> None:
    light = real.evaluate("getComputedStyle(document.body).backgroundColor")
    real.resize(*DESK, dark=True)
    assert real.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert "var(--series-0)" in real.evaluate("document.querySelector('figure').innerHTML")
    bar = "getComputedStyle(document.querySelector('figure [style*=series-0]')).fill"
    assert real.evaluate(bar) == "rgb(74, 163, 192)"
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    assert real.evaluate(ink) == real.evaluate("getComputedStyle(document.body).color")


def test_the_index_leads_to_the_pages(browser: Chromium, pages: Path) -> None:
    browser.resize(*DESK)
    browser.open(pages / "index.html")
    assert "✗ failed: failed </script>" in text(browser, ".experiments")
    browser.click(".experiments a")
    browser.wait_for_page()
    assert text(browser, "#count").startswith("step 1 of")
    assert browser.evaluate("document.querySelector('.path a').getAttribute('href')") == "index.html"
    assert browser.errors == []


def test_a_page_names_no_other_place(pages: Path) -> None:
    for file in pages.iterdir():
        text = file.read_text()
        addresses = set(re.findall(r"\bhttps?://[^\s\"'<)]+", text))
        assert all(address.startswith("http://www.w3.org/") for address in addresses), addresses


def test_the_browser_tells_of_requests_and_errors(browser: Chromium, tmp_path: Path) -> None:
    """The control of the tests above: a page that does what ours do not."""
    (tmp_path / "bad.html").write_text(
        "<img src='other.png'><script>console.error('bad'); nonesuch()</script>"
    )
    browser.open(tmp_path / "bad.html")
    assert [request.rpartition("/")[2] for request in browser.requests] == ["bad.html", "other.png"]
    assert len(browser.errors) >= 2
