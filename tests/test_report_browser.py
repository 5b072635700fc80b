"""The page of a real sweep in a real browser, from its file: what it does, and that it asks nobody for anything.

Debian's Chromium, driven by Playwright. Skipped where either is absent, but never where CI is set.
"""

import base64
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import run_program, sweep_folder
from test_compare import job

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not (CHROMIUM and importlib.util.find_spec("playwright")),
    reason="there is no Chromium with Playwright",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """Opens a file; at the end nothing but files of that name was asked for, and nobody complained."""
    contexts, asked, complaints = [], [], []

    def show(file: Path, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 800}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        page.goto(file.as_uri())
        assert asked[-1] == file.as_uri()
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.endswith("/report.html") and not url.startswith(("data:", "blob:"))] == []


@pytest.fixture
def report(sensitivity_sweep) -> Path:
    return sweep_folder(sensitivity_sweep) / "report.html"


def column(page: Any, number: int) -> list[str]:
    return page.locator(".comparison tbody tr:visible").evaluate_all(
        "(rows, n) => rows.map((row) => row.children[n].textContent.trim())", number
    )


def test_the_answer_and_the_chart_are_seen_without_scrolling(opened, report):
    page = opened(report)
    for element in (
        page.locator("h1"),
        page.locator(".answer"),
        page.locator(".command"),
        page.locator(".forest").first,
    ):
        box = element.bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 800
    assert "Batch size" in page.locator(".answer").inner_text()


def test_sorting_by_mouse_and_by_keyboard(opened, report):
    page = opened(report)
    values = pd.read_csv(report.with_name("comparison.csv")).set_index("batch_size")["softmax_jacobian_mean"]
    assert column(page, 0) == ["16", "64", "256"]
    head = page.get_by_role("columnheader", name="batch_size")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert (head.get_attribute("aria-sort"), column(page, 0)) == ("ascending", ["16", "64", "256"])
    head.get_by_role("button").click()
    assert (head.get_attribute("aria-sort"), column(page, 0)) == ("descending", ["256", "64", "16"])
    button = page.get_by_role("columnheader", name="softmax sensitivity").get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 0) == [str(size) for size in values.sort_values().index]


@pytest.mark.parametrize(
    ("words", "left"),
    [("batch_size=64", ["64"]), ("batch_size=64.0", ["64"]), ("=16", ["16"]), ("nothing", []),
     ("ok", ["16", "64", "256"]), ("ok batch_size=256", ["256"])],
)  # fmt: skip
def test_filtering_the_table_and_the_chart(opened, report, words, left):
    page = opened(report)
    page.get_by_role("searchbox").fill(words)
    assert column(page, 0) == left
    labels = page.locator(".chart").first.locator(".row:visible .label").all_inner_texts()
    assert labels == [f"batch_size={size}" for size in left]
    assert page.locator("[data-count]").inner_text() == f"{len(left)} of 3 conditions"
    assert page.locator("[data-count]").get_attribute("aria-live") == "polite"


def test_hovering_tells_condition_replica_and_value(opened, report):
    page = opened(report)
    summary = pd.read_csv(report.with_name("summary.csv"))
    value = summary.query("batch_size == 64 and replica == 1")["softmax_jacobian"].item()
    row = page.locator(".chart").first.locator('.row[data-c="1"]')
    row.locator('.dot[data-r="1"]').hover()
    tip = page.get_by_role("tooltip").inner_text()
    assert "batch_size=64" in tip
    found = [line.rpartition(": ")[2] for line in tip.splitlines() if line.startswith("replica 1")]
    assert found
    assert float(found[0]) == pytest.approx(value, rel=1e-5)
    page.mouse.move(5, 5)
    assert page.get_by_role("tooltip").count() == 0


def test_a_condition_is_highlighted_everywhere_by_mouse_and_by_keyboard(opened, report):
    page = opened(report)
    page.locator('.chart .row[data-c="2"]').first.click()
    picked = page.locator(".picked")
    assert picked.evaluate_all("(all) => all.map((one) => one.dataset.c)") == ["2", "2", "2"]  # two charts, the table
    row = page.locator('.chart .row[data-c="0"]').first
    row.focus()
    page.keyboard.press("Space")
    assert set(picked.evaluate_all("(all) => all.map((one) => one.dataset.c)")) == {"0"}
    assert row.get_attribute("aria-pressed") == "true"
    assert page.locator("[data-said]").text_content() == "batch_size=16 is highlighted"
    page.locator('.comparison tr[data-c="0"] td').first.click()
    assert picked.count() == 0


def test_another_axis_and_another_metric(opened, report):
    page = opened(report)
    chart = page.locator(".chart").first
    dots = chart.locator(".dot")

    def places() -> list[float]:
        return dots.evaluate_all("(all) => all.map((dot) => parseFloat(dot.getAttribute('cx')))")

    before, ticks = places(), chart.locator(".ticks").inner_text()
    assert chart.get_by_role("button", name="Linear").get_attribute("aria-pressed") == "true"
    chart.get_by_role("button", name="Log").click()
    assert chart.get_by_role("button", name="Log").get_attribute("aria-pressed") == "true"
    assert places() != before
    chart.get_by_role("button", name="Linear").click()
    assert places() == pytest.approx(before, abs=0.02)
    chart.get_by_role("combobox").select_option(label="test accuracy")
    assert chart.locator("strong").inner_text() == "test accuracy"
    assert chart.locator(".ticks").inner_text() != ticks
    table = page.locator(".comparison tbody tr").first.locator("td").nth(3).inner_text()
    assert chart.locator(".row").first.locator(".value").inner_text() == table


def test_the_script_puts_everything_where_it_was(opened, report):
    """The positions that Python computed are those that the script computes."""
    shapes = """(rows) => rows.flatMap((row) => [...row.querySelectorAll("line, circle")].map((mark) =>
        [mark.getAttribute("class"), mark.getAttribute("cx"), mark.getAttribute("x1"), mark.getAttribute("x2")]))"""
    with_script = opened(report).locator(".chart .row").evaluate_all(shapes)
    without = opened(report, java_script_enabled=False).locator(".chart .row").evaluate_all(shapes)
    assert len(with_script) == len(without) > 0
    for (name, *places), (other, *others) in zip(with_script, without, strict=True):
        assert name == other
        for place, at in zip(places, others, strict=True):
            assert (place is None) == (at is None)
            assert place is None or float(place.rstrip("%")) == pytest.approx(float(at.rstrip("%")), abs=0.02)


def test_downloads_are_the_very_bytes(opened, report):
    page = opened(report)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download CSV").click()
    assert waiting.value.suggested_filename == "comparison.csv"
    assert Path(waiting.value.path()).read_bytes() == report.with_name("comparison.csv").read_bytes()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download SVG").first.click()
    assert waiting.value.suggested_filename == "sensitivity.svg"
    drawn = page.context.new_page()
    svg = base64.b64encode(Path(waiting.value.path()).read_bytes()).decode()
    drawn.set_content(f'<img src="data:image/svg+xml;base64,{svg}">')
    assert drawn.locator("img").evaluate("async (image) => { await image.decode(); return image.naturalWidth }") > 500


def test_the_command_is_copied(opened, report):
    page = opened(report, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("[data-command]").inner_text()


def test_columns_are_chosen(opened, report):
    page = opened(report)
    heads = page.locator(".comparison thead th:visible")
    before = heads.count()
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("checkbox", name="logit sensitivity").check()
    assert heads.count() == before + 1
    page.get_by_role("checkbox", name="test loss").uncheck()
    assert heads.count() == before


def test_with_scripts_off_all_is_there_but_the_controls(opened, report):
    page = opened(report, java_script_enabled=False)
    assert page.locator(".comparison tbody tr:visible").count() == 3
    assert page.locator(".forest .dot:visible").count() == 18  # two charts, three conditions, three replicas
    assert page.locator(".paper svg:visible").count() >= 1
    assert page.locator("details:not([open], .chooser)").count() == 0
    assert page.locator("button:visible, select:visible, input:visible").count() == 0
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download CSV").click()
    assert Path(waiting.value.path()).read_bytes() == report.with_name("comparison.csv").read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_overflows_and_text_is_legible(opened, report, width, scheme):
    page = opened(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unreadable = page.evaluate(
        """() => {
          const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          const rgb = (colour) => {
            probe.clearRect(0, 0, 1, 1); probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
            return [...probe.getImageData(0, 0, 1, 1).data];
          };
          const light = (colour) => {
            const [r, g, b] = rgb(colour).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = getComputedStyle(at).backgroundColor;
              if (rgb(colour)[3] === 255) return colour;
            }
            return "white";
          };
          const poor = [];
          for (const element of document.querySelectorAll("body *:not(.paper *)")) {
            const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
            if (!own || !element.checkVisibility() || element.tagName === "SCRIPT") continue;
            const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < 4.5) poor.push([element.tagName, element.className, contrast, element.textContent]);
          }
          return poor;
        }"""
    )
    assert unreadable == []  # WCAG AA


def test_in_print_nothing_is_folded_and_there_are_no_controls(opened, report):
    page = opened(report)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open], .chooser)").count() == 0
    assert page.locator("select:visible, input:visible, [data-copy-command]:visible").count() == 0
    assert column(page, 0) == ["16", "64", "256"]
    assert page.locator(".comparison thead th button:visible").count() >= 3  # the heads of the columns
    assert page.pdf()[:5] == b"%PDF-"


def test_a_hostile_name_stays_text_whatever_is_done(opened, tmp_path):
    for number, dropout in enumerate([0, 0.5]):
        typed = {"store": f"'{HOSTILE}'" if number else "runs", "dropout": dropout}
        job(tmp_path / str(number), [0.1 + number, 0.2 + number, 0.15 + number], typed)
    words = ["0", "1", "--out", "out", "--no-figures", "--by", "store,model.dropout"]
    assert run_program(tmp_path, words, ("-m", "hw1.compare")).code == 0
    page = opened(tmp_path / "out" / "report.html")
    page.locator(".row").nth(1).hover()
    assert HOSTILE in page.get_by_role("tooltip").inner_text()
    page.locator(".row").nth(1).click()
    page.get_by_role("combobox").first.select_option(index=1)
    page.get_by_role("columnheader", name="store").get_by_role("button").click()
    page.get_by_role("searchbox").fill("onerror")
    assert column(page, 0) == [HOSTILE]
    assert page.locator("img").count() == 0


def test_a_single_job_and_one_replica_open_without_a_complaint(opened, function_job, tmp_path):
    page = opened(sweep_folder(function_job) / "report.html")
    assert page.locator(".paper svg:visible").count() >= 1
    for number in range(2):
        job(tmp_path / str(number), [0.1 + number], {"dropout": number / 2})
    assert run_program(tmp_path, ["0", "1", "--out", "out", "--no-figures"], ("-m", "hw1.compare")).code == 0
    page = opened(tmp_path / "out" / "report.html")
    assert page.locator(".interval:visible").count() == 0
    assert page.locator(".mean:visible").count() >= 2
