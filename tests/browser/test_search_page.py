"""The interactive page of a search in a real browser, in sandboxed frames of two widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seglab.studies.search.figures import search_page
from tests.studies.test_search_figures import study

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("width", [1280, 800])
def test_every_figure_is_drawn_within_a_sandboxed_frame(
    browser: Any, tmp_path: Path, width: int
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    (tmp_path / "page.html").write_text(search_page(study(8), "any", 0.5), encoding="utf-8")
    frame = f'<iframe sandbox="allow-scripts" width="{width}" height="900" src="page.html">'
    (tmp_path / "frame.html").write_text(frame)
    browser.get_log("browser")  # what earlier pages complained of
    browser.get((tmp_path / "frame.html").as_uri())
    browser.switch_to.frame(0)
    count = "return document.querySelectorAll('.main-svg').length"
    WebDriverWait(browser, 60).until(lambda page: page.execute_script(count) >= 6)
    across = "return [document.body.scrollWidth, window.innerWidth]"
    content, inner = browser.execute_script(across)
    assert content <= inner
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
