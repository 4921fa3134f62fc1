"""What a person sees: the MLflow UI, the gallery and a search's page in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.studies.search.figures import search_page
from seglab.tracking.connect import open_store
from seglab.tracking.store import runs_link
from tests.faults.servers import free_port, is_up, wait_until
from tests.studies.test_search_figures import study

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 90
Ids = tuple[str, list[str]]
EXPERIMENT = """\
name: seen
data: {{source: brats-h5, root: {root}, cache: {cache}, image_size: 64}}
model: {{name: unet, base_channels: 4, depth: 3}}
train: {{epochs: 2, batch_size: 8, threads: 1, device: cpu}}
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path
) -> Iterator[Path]:
    """A folder with two finished runs, which is the current one."""
    folder, before = tmp_path_factory.mktemp("ui"), Path.cwd()
    (folder / "seen.yaml").write_text(EXPERIMENT.format(root=phantoms, cache=shared_cache))
    os.chdir(folder)
    try:
        assert main(["run", "seen.yaml"]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def ui(folder: Path) -> Iterator[str]:
    """Address of the UI, served by the command that people use."""
    port = free_port()
    command = [sys.executable, "-m", "seglab", "ui", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: is_up(f"http://127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def ids(folder: Path) -> Ids:
    """The experiment's id and its child runs' ids."""
    runs = open_store().find_runs("seen", {"seglab.kind": "train"})
    assert len(runs) == 2
    return runs[0].experiment_id, [run.run_id for run in runs]


def shows(browser: Any, *texts: str) -> None:
    """Wait until the page's text holds all of ``texts``."""
    deadline = time.monotonic() + WAIT_S
    while True:
        page = browser.execute_script("return document.body ? document.body.innerText : ''")
        missing = [text for text in texts if text not in page]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{missing} not on the page:\n{page[:3000]}"
        time.sleep(0.5)


def severe(browser: Any) -> list[Any]:
    """What failed on the page since the last call."""
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_table_of_runs_has_the_columns_a_person_needs(browser: Any, ui: str, ids: Ids) -> None:
    browser.get(runs_link(ui, ids[0]))
    # The table draws only the columns in view.
    shows(browser, "seen · ablation", "3 matching runs", "val/dice", "val/iou", "arm", "loss.name")
    right = "document.querySelector('.ag-center-cols-viewport').scrollLeft = 1e4"
    browser.execute_script(right)
    shows(browser, "seglab.kind", "Description")


def test_two_runs_compare_side_by_side(browser: Any, ui: str, ids: Ids) -> None:
    listed = ",".join(f'"{run}"' for run in ids[1])
    browser.get(f'{ui}/#/compare-runs?runs=[{listed}]&experiments=["{ids[0]}"]')
    shows(browser, "seen · seed 0", "seen · seed 1", "val/dice")


def test_a_run_shows_its_metrics_and_params(browser: Any, ui: str, ids: Ids) -> None:
    browser.get(f"{ui}/#/experiments/{ids[0]}/runs/{ids[1][0]}")
    shows(browser, "val/dice", "val/iou", "seglab.split_hash", "optim.lr")


@pytest.mark.parametrize("width", [1280, 800])
def test_the_report_fits_the_window_and_loads_nothing(
    browser: Any, folder: Path, width: int
) -> None:
    browser.set_window_size(width, 1000)
    severe(browser)
    browser.get(next(folder.rglob("report/report.html")).as_uri())
    shows(browser, "seen: comparison of arms", "Failures", "Terms", "References")
    cut = """return [...document.querySelectorAll('.wide, main')]
        .filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"""
    assert browser.execute_script(cut) == []
    hidden = "return [...document.images].filter(one => !one.naturalWidth).map(one => one.alt)"
    assert browser.execute_script(hidden) == []
    assert not severe(browser)
    browser.set_window_size(1600, 1000)


def test_the_gallery_opens_inside_the_ui_and_its_slider_moves(
    browser: Any, ui: str, ids: Ids
) -> None:
    from selenium.webdriver.common.by import By

    browser.get(f"{ui}/#/experiments/{ids[0]}/runs/{ids[1][0]}/artifacts/gallery/index.html")
    shows(browser, "index.html")
    wait_until(lambda: browser.find_elements(By.TAG_NAME, "iframe"))
    browser.switch_to.frame(0)
    try:
        shows(browser, "validation patients")
        leaf_through(browser)
    finally:
        browser.switch_to.default_content()


@pytest.mark.parametrize("width", [1280, 800])
def test_every_figure_of_a_search_is_drawn_within_a_sandboxed_frame(
    browser: Any, tmp_path: Path, width: int
) -> None:
    (tmp_path / "page.html").write_text(search_page(study(8), "any", 0.5), encoding="utf-8")
    frame = f'<iframe sandbox="allow-scripts" width="{width}" height="900" src="page.html">'
    (tmp_path / "frame.html").write_text(frame)
    severe(browser)
    browser.get((tmp_path / "frame.html").as_uri())
    browser.switch_to.frame(0)
    count = "return document.querySelectorAll('.main-svg').length"
    wait_until(lambda: browser.execute_script(count) >= 6)
    across = "return [document.body.scrollWidth, window.innerWidth]"
    content, inner = browser.execute_script(across)
    assert content <= inner
    assert not severe(browser)


def leaf_through(browser: Any) -> None:
    """Open the first patient of a gallery; keyboard and slider both go to other slices."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.find_elements(By.CSS_SELECTOR, "#cards > *")[0].click()
    slider, body = browser.find_element(By.ID, "slice"), browser.find_element(By.TAG_NAME, "body")
    count = int(slider.get_attribute("max")) + 1
    assert count > 2
    pictures = []
    for control, key, place in (
        (slider, Keys.HOME, 1),
        (body, Keys.ARROW_RIGHT, 2),
        (slider, Keys.END, count),
    ):
        control.send_keys(key)
        pictures.append(drawn(browser, f"({place} of {count} kept)"))
    assert len(set(pictures)) == len(pictures)


def drawn(browser: Any, place: str) -> str:
    """The picture of a slice, once the page says that this is the one it shows."""
    shows(browser, place)
    picture = "return document.getElementById('plain').toDataURL()"
    return str(browser.execute_script(picture))
