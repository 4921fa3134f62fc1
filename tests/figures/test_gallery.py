"""The gallery: complete, self-contained, small, safe against names, and alive in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import ndimage

from seglab.data.normalise import brain_mask, quantise
from seglab.data.phantom.patient import make_patient
from seglab.evaluation.failure_report import FailureAnalysis, analyse
from seglab.evaluation.failures import explain
from seglab.evaluation.metrics import Case, score_patient
from seglab.figures.gallery import write_gallery
from seglab.figures.sprites import choose_positions, encode

MakeCase = Callable[..., Case]
HOSTILE = "</script><script>document.title='owned'</script><b>&\"'"


def written(folder: Path, cases: list[Case], title: str = "Failures") -> str:
    path = folder / "gallery" / "index.html"
    write_gallery(path, iter(cases), analyse([explain(c) for c in cases]), title=title)
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    return path.read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return dict(json.loads(text))


def picture(uri: str) -> np.ndarray:
    head, body = uri.split(",")
    assert head == "data:image/webp;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("upright", [True, False])
def test_labels_travel_without_loss(make_case: MakeCase, upright: bool) -> None:
    case = make_case(upright=upright, off=5)
    sprites = encode(case, 100, 10**9)
    sheet, flair = picture(sprites["labels"]), picture(sprites["flair"])
    truth = predicted = 0
    for place, position in enumerate(sprites["positions"]):
        row, column = divmod(place, sprites["columns"])
        box = np.s_[
            row * sprites["height"] : (row + 1) * sprites["height"],
            column * sprites["width"] : (column + 1) * sprites["width"],
        ]
        packed = sheet[box]
        turn = (lambda a: a) if upright else np.transpose
        for bit, mask in ((7, case.truth), (6, case.prediction)):
            assert (packed >> bit & 1).sum() == mask[position].sum()
        ys, xs = np.nonzero(packed >> 7 & 1)
        if ys.size:
            expected = np.argwhere(turn(case.truth[position]))
            assert np.ptp(ys) == np.ptp(expected[:, 0])
            assert np.ptp(xs) == np.ptp(expected[:, 1])
            inside = flair[box][ys, xs].mean()
            assert inside == pytest.approx(
                case.image[position][case.truth[position] > 0].mean(), abs=6
            )
        truth += int((packed >> 7 & 1).sum())
        predicted += int((packed >> 6 & 1).sum())
    assert truth == case.truth.sum()
    assert predicted == case.prediction.sum()


def test_the_page_holds_every_patient_and_cause_and_loads_nothing(
    make_case: MakeCase, tmp_path: Path
) -> None:
    cases = [make_case(f"P{off}", off=off, seed=off) for off in (0, 2, 4, 9)]
    analysis = analyse([explain(case) for case in cases])
    page = written(tmp_path, cases)
    for fetch in (
        "http:",
        "https:",
        "localStorage",
        "import(",
        "<link",
        "@import",
        "fetch(",
        "src=",
    ):
        assert fetch not in page
    data = data_of(page)
    assert [entry["patient_id"] for entry in data["cases"]] == list(analysis.explanations)
    assert [cause["cause"] for cause in data["causes"]] == [str(c.cause) for c in analysis.costs]
    for entry in data["cases"]:
        assert entry["text"].startswith(entry["patient_id"])
        assert entry["dice"] == pytest.approx(
            analysis.explanations[entry["patient_id"]].score.dice, abs=1e-4
        )
        agreed = sum(row[1] for row in entry["slices"])
        assert agreed == analysis.explanations[entry["patient_id"]].score.tp


def test_hostile_names_stay_text(make_case: MakeCase, tmp_path: Path) -> None:
    page = written(tmp_path, [make_case(HOSTILE)], title=HOSTILE)
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert data_of(page)["cases"][0]["patient_id"] == HOSTILE
    assert "&lt;/script&gt;" in page


def test_placeholders_in_names_are_not_filled_in(make_case: MakeCase, tmp_path: Path) -> None:
    page = written(tmp_path, [make_case("@@SCRIPT@@")], title="@@DATA@@")
    assert data_of(page)["cases"][0]["patient_id"] == "@@SCRIPT@@"
    assert "<h1>@@DATA@@</h1>" in page


def test_undefined_scores_are_valid_json(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    healthy = make_case("healthy", spacing=None)
    empty = np.zeros_like(healthy.truth)
    score = score_patient("healthy", healthy.prediction, empty, None, True, surface=False)
    data = data_of(written(tmp_path, [case, replace(healthy, truth=empty, score=score)]))
    assert data["cases"][1]["dice"] is None
    assert "undefined" in str(data["cases"][1]["figures"])


@pytest.mark.slow
def test_sixty_full_volumes_fit_fifteen_megabytes(tmp_path: Path) -> None:
    """The hardest case: every rule chose everyone, and predictions are ragged."""
    case = full_volume()
    explained = explain(case)
    names = [f"P{number:02d}" for number in range(60)]
    scores = [replace(case.score, patient_id=name) for name in names]
    analysis = analyse([replace(explained, score=score) for score in scores])
    everyone: FailureAnalysis = replace(
        analysis, selection=dict.fromkeys(analysis.selection, tuple(names))
    )
    path = tmp_path / "index.html"
    few = [replace(case, patient_id=name) for name in names[:3]]
    write_gallery(path, [], everyone, title="sixty")
    overhead = path.stat().st_size
    write_gallery(path, few, everyone, title="sixty")
    each = (path.stat().st_size - overhead) / len(few)
    assert overhead + 60 * each <= 15_000_000
    assert min(len(entry["slices"]) for entry in data_of(path.read_text())["cases"]) >= 30


def full_volume() -> Case:
    made = make_patient(1, 4)
    flair, truth = made.image[..., 0], (made.labels > 0).astype(np.uint8)
    image, _ = quantise(flair, brain_mask(flair, shared_scale=True), "zscore", "volume")
    noise = np.random.default_rng(0).normal(size=truth.shape).astype(np.float32)
    rough = ndimage.gaussian_filter(truth + 8 * ndimage.gaussian_filter(noise, 3), 1)
    probability = (np.clip(255 * rough, 0, 255) * (image > 0)).astype(np.uint8)
    prediction = (probability > 127).astype(np.uint8)
    spacing = (1.0, 1.0, 1.0)
    return Case(
        patient_id="P",
        image=image,
        truth=truth,
        probability=probability,
        prediction=prediction,
        slice_indices=np.arange(155, dtype=np.int32),
        spacing_mm=spacing,
        upright=False,
        score=score_patient("P", prediction, truth, spacing, True, surface=False),
    )


# ---- in a browser -------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.slow
def test_it_works_in_a_sandboxed_frame(make_case: MakeCase, tmp_path: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    cases = [make_case(HOSTILE, off=6), make_case("P2", off=2), make_case("P3", off=0)]
    written(tmp_path, cases, title=HOSTILE)
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe sandbox="allow-scripts" style="width:1260px;height:860px" '
        'src="gallery/index.html"></iframe>'
    )
    browser.get_log("browser")  # what earlier pages complained of
    browser.get(frame.as_uri())
    browser.switch_to.frame(0)
    cards = browser.find_elements(By.CSS_SELECTOR, ".card")
    assert len(cards) == 3
    assert browser.title != "owned"

    cards[0].click()
    position = browser.find_element(By.ID, "position")
    WebDriverWait(browser, 20).until(lambda _: position.text.startswith("slice "))
    assert HOSTILE in browser.find_element(By.ID, "case-name").text
    marked = np.flatnonzero((cases[0].truth | cases[0].prediction).any(axis=(1, 2)))
    count = marked[-1] - marked[0] + 7  # three more on both sides
    kept = browser.find_element(By.ID, "kept").text
    assert kept.startswith(f"{count} of the patient's {len(cases[0].truth)} slices")
    keys = browser.switch_to.active_element
    before, drawn = position.text, _marked(browser)
    keys.send_keys(Keys.ARROW_RIGHT)
    assert position.text != before
    keys.send_keys(Keys.ARROW_LEFT)
    assert _marked(browser) == drawn
    keys.send_keys("2")
    assert _marked(browser) != drawn
    keys.send_keys("5")
    keys.send_keys(Keys.ARROW_DOWN)
    WebDriverWait(browser, 20).until(
        lambda _: browser.find_element(By.ID, "case-name").text.startswith("P2")
    )
    slider = browser.find_element(By.ID, "slice")
    slider.send_keys(Keys.HOME)
    assert position.text.startswith(f"slice {_first_slice(cases[1])} ")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "viewer").get_attribute("open")

    cause = browser.find_element(By.CSS_SELECTOR, '[data-filter="rule"]:not([disabled])')
    cause.click()
    assert cause.get_attribute("aria-pressed") == "true"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_cause_shows_everyone_who_has_it(
    make_case: MakeCase, tmp_path: Path, browser: Any
) -> None:
    """Also where another is named first; the count beside a cause is that of its patients."""
    from selenium.webdriver.common.by import By

    cases = [make_case(f"P{off}", off=off) for off in (3, 5, 12)]
    truth = cases[0].truth
    score = score_patient("exact", truth, truth, None, True, surface=False)
    cases.append(replace(cases[0], patient_id="exact", prediction=truth, score=score))
    data = data_of(written(tmp_path, cases))
    browser.get((tmp_path / "gallery" / "index.html").as_uri())
    assert any(cause["patients"] == 0 < cause["share"] for cause in data["causes"])
    for cause in data["causes"]:
        expected = {one["patient_id"] for one in data["cases"] if cause["cause"] in one["causes"]}
        name = f'[data-filter="cause"][data-value="{cause["cause"]}"]'
        button = browser.find_element(By.CSS_SELECTOR, name)
        button.click()
        shown = browser.find_elements(By.CSS_SELECTOR, ".card strong")
        assert {one.text for one in shown} == expected
        assert button.find_element(By.TAG_NAME, "em").text.split()[0] == str(len(expected))
        for card in browser.find_elements(By.CSS_SELECTOR, ".card .why"):
            assert cause["cause"] in card.text
        button.click()


def _marked(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('marked').toDataURL()"))


def _first_slice(case: Case) -> int:
    return int(case.slice_indices[choose_positions(case, 96)[0]])
