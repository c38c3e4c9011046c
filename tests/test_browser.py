"""What a reader does: opens the report in a browser and follows a number to its runs in MLflow."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from studies import NO_JOBS
from synthetic import Made, fill, results

from analysis.render.text import spread_text
from analysis.report import main
from search_spaces import select
from study.cli.summary import ui_hint
from study.ledger.ledger import Ledger
from study.ledger.pages import ARMS, view_page
from trainables.redact import masked

PATIENCE = 120
"""Seconds for pages that come from a server which has just been started."""


WINDOW = "--window-size=1280,1400"
TABLE = ("arm", "seed", "final/test_acc")


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Chromium or Chrome without a window: Debian's, or what Selenium finds or fetches."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", WINDOW):
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    service = webdriver.ChromeService(driver) if driver else webdriver.ChromeService()
    try:
        chrome = webdriver.Chrome(options, service)
    except WebDriverException as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Chromium or Chrome: {error.msg}")
    chrome.set_page_load_timeout(PATIENCE)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[tuple[Path, str]]:
    """A folder with a ledger of the quickstart, and the address at which `mlflow ui` shows it."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "runs").mkdir()
    shutil.copy(empty_store, folder / "runs/mlflow.db")
    trials = select("quickstart").trials
    fill(
        folder / "runs/mlflow.db",
        folder / "runs/mlartifacts",
        [Made(config=c, metrics=results(c)) for c in trials],
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{folder}/runs/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    with (folder / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            env={**os.environ, **NO_JOBS},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, folder / "ui.log")
        yield folder, address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310  # our own address
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"mlflow ui does not answer: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page(ui: tuple[Path, str]) -> str:
    """Address of the report of that ledger, which leads to those pages."""
    folder, address = ui
    command = [*("--space", "quickstart", "--experiment", "test", "--output", str(folder / "runs"))]
    command += ["--out", str(folder / "out"), "--ui", address]
    assert main(command) == 0
    return (folder / "out/report.html").as_uri()


def test_a_number_leads_to_its_runs(browser: WebDriver, ui: tuple[Path, str], page: str) -> None:
    _, address = ui
    browser.get(page)
    assert browser.title == "Study quickstart"
    pictures = browser.find_elements(By.TAG_NAME, "img")
    assert pictures
    assert all(picture.get_property("naturalWidth") for picture in pictures)  # each is there, none is broken
    row = browser.find_element(By.XPATH, "//tr[th='Test']")
    link = row.find_elements(By.TAG_NAME, "a")[1]
    number = link.text.replace("\xa0", " ")
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", number)
    runs = re.findall(r"[0-9a-f]{32}", str(link.get_attribute("href")))
    assert len(runs) == 3
    link.click()
    (table, *_) = wait_for(browser, "final/test_acc", within=".metrics-summary")
    assert browser.current_url.startswith(f"{address}/#/metric?runs=")
    # What each of its runs has of the metric, and no other run.
    found = dict(re.findall(r"(\S+ · s\d) · digits/convnet/rrc\+solarize (0\.\d+) \(step=0\)", table.text))
    assert list(found) == [f"siamese-0 · s{seed}" for seed in range(3)]
    assert number == spread_text([float(value) for value in found.values()])
    assert "siamese-0.01" not in browser.find_element(By.TAG_NAME, "body").text


def test_the_printed_link_opens_a_table_of_trials(browser: WebDriver, ui: tuple[Path, str]) -> None:
    folder, address = ui
    (line,) = ui_hint(Ledger(uri=address, experiment="test", artifact_root=folder))
    browser.get(masked(line).removeprefix("compare:  "))  # as it is printed
    patiently(browser).until(lambda view: list(shown_columns(view))[-4:] == [*TABLE, "final/val_acc"])
    columns = shown_columns(browser)
    rows = [
        tuple(row.find_element(By.CSS_SELECTOR, f"[col-id='{columns[name]}']").text for name in TABLE)
        for row in wait_for(browser, "siamese-0.01", within=".ag-center-cols-container .ag-row")
    ]
    trials = {trial: results(trial)["test_acc"] for trial in select("quickstart").trials}
    assert sorted(rows) == sorted((t.arm, str(t.seed), str(value)) for t, value in trials.items())
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_the_description_leads_to_the_report(browser: WebDriver, ui: tuple[Path, str]) -> None:
    folder, address = ui
    store = f"sqlite:///{folder}/runs/mlflow.db"
    ledger = Ledger(uri=store, experiment="test", artifact_root=folder / "runs/mlartifacts")
    ledger.log_study("quickstart", {"report.html": b"<h1>The report</h1>"})
    browser.get("about:blank")  # a page that is open has read the description
    browser.get(f"{address}/{view_page(ledger.experiment_id, ARMS, charts=True)}")
    wait_for(browser, "Learning curves", within="h2, h3, h4, span, div")
    link = wait_for(browser, "quickstart", within="a[href*='/artifacts/report.html']")[0]
    browser.get(str(link.get_attribute("href")))
    frame = wait_for(browser, "", within="iframe")[0]
    browser.switch_to.frame(frame)
    assert browser.find_element(By.TAG_NAME, "h1").text == "The report"
    browser.switch_to.default_content()


def shown_columns(browser: WebDriver) -> dict[str, str]:
    """Id by title of the table's columns, from left to right, without those that need scrolling."""
    headers = browser.find_elements(By.CSS_SELECTOR, ".ag-header-cell")
    headers.sort(key=lambda header: header.rect["x"])
    return {header.text: str(header.get_attribute("col-id")) for header in headers if header.text}


def patiently(browser: WebDriver) -> WebDriverWait[WebDriver]:
    # A page under construction replaces elements while they are read.
    return WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])


def wait_for(browser: WebDriver, text: str, within: str) -> list[WebElement]:
    """The elements of a CSS selector, once the visible text of one has `text` in it."""

    def found(view: WebDriver) -> list[WebElement]:
        elements = view.find_elements(By.CSS_SELECTOR, within)
        return elements if any(text in element.text for element in elements) else []

    return patiently(browser).until(found)


@pytest.mark.parametrize("width", [1150, 390])
def test_the_page_is_no_wider_than_the_window(browser: WebDriver, page: str, width: int) -> None:
    """On a phone wide tables scroll by themselves."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
