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
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait
from studies import NO_JOBS
from synthetic import Made, fill, results

from search_spaces import select

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120
"""Seconds for pages that come from a server which has just been started."""


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Chromium or Chrome without a window: Debian's, or what Selenium finds or fetches."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
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
    subprocess.run([sys.executable, ROOT / "analysis/report.py", *command], check=True, capture_output=True)
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
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", link.text.replace("\xa0", " "))
    runs = re.findall(r"[0-9a-f]{32}", str(link.get_attribute("href")))
    assert len(runs) == 3
    link.click()
    names = [f"digits/convnet/rrc+solarize/siamese-0/s{seed}" for seed in range(3)]
    WebDriverWait(browser, PATIENCE).until(lambda view: all(name in view.page_source for name in names))
    assert browser.current_url.startswith(f"{address}/#/compare-runs?")
    assert "siamese-0.01" not in browser.find_element(By.TAG_NAME, "body").text


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
