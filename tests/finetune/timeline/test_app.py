"""python -m finetune.app, in a real browser."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from data_pipeline.files.weights import ASSETS
from finetune.recognizer import SHIPPED

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VIDEO = next((ASSETS / "samples").glob("*.flv"))


@pytest.fixture(scope="module")
def address(root):
    pytest.importorskip("gradio", reason="pip install -e .[app]")
    pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    if not SHIPPED.is_dir():
        pytest.skip(f"no recognizer at {SHIPPED}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "finetune.app", f"port={port}"]
    process = subprocess.Popen(command, cwd=root)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)
    yield address
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.slow
def test_a_video_becomes_a_timeline_and_a_broken_upload_one_message(address, tmp_path):
    from playwright.sync_api import sync_playwright

    (tmp_path / "broken.mp4").write_bytes(b"no video" * 500)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(address)
            page.set_input_files("input[type=file]", str(VIDEO))
            page.wait_for_selector("iframe[title='Emotion timeline']", timeout=300_000)
            inside = page.frame_locator("iframe[title='Emotion timeline']")
            assert inside.locator("ol.said li").count() >= 1
            assert VIDEO.name in inside.locator("h2").first.inner_text()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width + 1, "the page is wider than the window"
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("input[type=file]", str(tmp_path / "broken.mp4"))
        page.wait_for_selector("[role=alert]", timeout=120_000)
        assert "unreadable_video" in page.inner_text("[role=alert]")
        browser.close()
