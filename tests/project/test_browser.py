"""Notebooks as their users meet them: opened in JupyterLab and run from top to bottom in a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NOTEBOOKS = os.environ.get("SEAP_BROWSER_NOTEBOOKS", "00_task_corpora 04_pruning").split()
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--window-size=1500,1100")  # fmt: skip
#: the project's notebooks must stay as they are, and no question may cover them
SETTINGS = {"docmanager-extension/plugin": {"autosave": False}}
SETTINGS |= {"apputils-extension/notification": {"fetchNews": "false"}}
SECONDS = 600
LEFT = "\ue012"  # the left arrow, as WebDriver writes it

if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium and driver here (Debian: chromium, chromium-driver)", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab as ``make lab`` starts it; what the notebooks export goes to a temporary directory."""
    place = tmp_path_factory.mktemp("lab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (line,) = re.findall(r"^\t\$\(RUN\) (-m jupyterlab.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    command = [sys.executable, *line.split(), "--no-browser", f"--port={port}", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--expose-app-in-browser"]
    environment = os.environ | {"SEAP_FIGURES_DIR": str(place / "figures"), "OMP_NUM_THREADS": "1"}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(place / "workspaces"), "HF_HUB_OFFLINE": "1"}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(place / "settings")}
    for plugin, setting in SETTINGS.items():
        file = place / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(setting))
    with (place / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((place / "lab.log").read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


# The state of the open notebook, from JupyterLab's own model.
STATE = """
const panel = [...window.jupyterapp.shell.widgets('main')].find(w => w.content && w.content.model && w.sessionContext);
if (!panel || !panel.content.model.cells) return null;
const cells = [...panel.content.model.cells].filter(c => c.type === 'code');
const status = panel.sessionContext.session && panel.sessionContext.session.kernel
    ? panel.sessionContext.session.kernel.status : 'none';
return {status: status, cells: cells.length, counted: cells.filter(c => c.executionCount).length,
        errors: cells.flatMap(c => c.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.evalue)),
        images: cells.flatMap(c => c.outputs.toJSON().filter(o => o.data && o.data['image/png'])).length};
"""


def wait_for(browser, condition, seconds: int = SECONDS) -> dict:
    deadline, state = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        state = browser.execute_script(f"if (!window.jupyterapp) return null; {STATE}")
        if state and condition(state):
            return state
        time.sleep(1)
    pytest.fail(f"JupyterLab did not get there in {seconds} s; last state: {state}")


#: Brings the cell with sliders into view.
SHOW_SLIDERS = """
const panel = [...window.jupyterapp.shell.widgets('main')].find(w => w.content && w.content.model && w.sessionContext);
const place = [...panel.content.model.cells].findIndex(c => c.sharedModel.source.includes('_sliders('));
panel.content.activeCellIndex = place;
panel.content.scrollToItem(place, 'center');
return place;
"""


def slider_and_image(browser):
    """The first slider's handle and the address of the picture below it, None while they are not drawn."""
    handles = browser.find_elements("css selector", ".widget-interact .noUi-handle")
    images = browser.find_elements("css selector", ".widget-interact img")
    return (handles[0], images[0].get_attribute("src")) if handles and images else None


def until(look, seconds: int = 60):
    """What ``look`` returns as soon as that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"not there after {seconds} s")


def test_the_lab_opens_at_the_notebooks_and_shows_the_whole_project(lab):
    assert urllib.request.urlopen(f"{lab}/", timeout=30).geturl().endswith("/lab/tree/notebooks")
    shown = json.loads(urllib.request.urlopen(f"{lab}/api/contents/?content=1", timeout=30).read())
    assert {"notebooks", "figures", "data"} <= {entry["name"] for entry in shown["content"]}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(lab, browser, name):
    before = (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
    browser.get(f"{lab}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?reset")
    wait_for(browser, lambda state: state["cells"] and state["status"] == "idle", 120)
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    done = wait_for(browser, lambda s: s["errors"] or (s["counted"] == s["cells"] and s["status"] == "idle"))
    if shots := os.environ.get("SEAP_SCREENSHOTS"):
        for part in range(int(os.environ.get("SEAP_SCREENSHOT_PARTS", "6"))):
            browser.execute_script(
                "const n = document.querySelector('.jp-WindowedPanel-outer');"
                "n.scrollTop = (n.scrollHeight - n.clientHeight) * arguments[0] / Math.max(arguments[1] - 1, 1);",
                part, int(os.environ.get("SEAP_SCREENSHOT_PARTS", "6")),
            )  # fmt: skip
            time.sleep(1.5)
            browser.save_screenshot(str(Path(shots) / f"{name}-{part}.png"))
    assert not done["errors"]
    if "figures.save" in (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"):
        assert done["images"] > 0, "no figure was shown"
    if "_sliders(" in (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"):
        assert browser.execute_script(SHOW_SLIDERS) >= 0
        handle, image = until(lambda: slider_and_image(browser))
        handle.send_keys(LEFT, LEFT)
        until(lambda: (drawn := slider_and_image(browser)) and drawn[1] != image)
    assert (ROOT / "notebooks" / f"{name}.ipynb").read_bytes() == before, "the Lab has saved the notebook"
