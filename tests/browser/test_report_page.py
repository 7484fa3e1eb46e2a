"""The report in a real browser: silent, complete, readable on a phone, in the dark and on paper."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.browser.chromium import Page, chromium
from tests.components.report_fixtures import AGREEMENT, CASES, ITEMS, World, add_arms

pytestmark = pytest.mark.browser

CONTROL = ("Unsafe", "Safe", "Safe", "Conditional", "Refusal", "Compliance", None, None)
HUMAN = {
    **AGREEMENT, "labels": ["Safe", "Unsafe"], "matrix": [[18, 2], [6, 14]], "num_unscored": 3,
    "majority_accuracy": 0.5,
}  # fmt: skip
SECRET = "harm-answer"
CONTRAST = """
(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => {
    v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (!c.endsWith(', 0)') && c !== 'transparent') return c; } return 'rgb(255, 255, 255)'; };
  const bad = [];
  for (const e of document.querySelectorAll('p, th, td, small, summary, a, .badge, .arm, h2')) {
    if (!e.offsetParent || !e.innerText.trim() || e.closest('.tokens, .matrix')) continue;
    const pair = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) bad.push([e.className || e.tagName, e.innerText.slice(0, 30), ratio]);
  }
  return bad;
})()
"""


def study_arms(world: World) -> dict[str, dict]:
    """Arms that are safer, laxer and less measured than the aligned model, on other data."""
    laxer = [replace(c, aligned="Unsafe" if c.is_harmful else c.aligned) for c in world.cases]
    safer = [replace(c, aligned="Safe" if c.is_harmful else "Refusal") for c in world.cases]
    safer = [c if c.is_harmful is not None else replace(c, aligned=None) for c in safer]
    return {
        "dpo+all": {"metrics": {"num_steps": 40}},
        "random-mask+fdc": {"benchmarked": False},
        "small": {"cases": laxer, "trained_on": {"EHD": 1, "IHD": 2, "NONE": 5}},
        "large": {"cases": safer, "trained_on": {"EHD": 40, "IHD": 9, "MHD": 12, "NONE": 5}},
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with every part there is: three models, masks, curves, a data card."""
    world = World(tmp_path_factory.mktemp("report"), has_control=True)
    shown = zip(CASES * 6, CONTROL * 6, strict=True)
    world.cases = [
        replace(
            case, control=control, text=f"{case.suite} question {i}: how does it work, and why?",
            control_preference=("tie", "loss") if case.is_harmful is None else None,
            answers=(f"{case.suite}-answer " * 20, "第二个回答。" * 30),
            costs=(case.costs[0] + i / 20, case.costs[1] - i / 30), rewards=(i / 40, 0.4 + i / 50),
        )
        for i, (case, control) in enumerate(shown)
    ]  # fmt: skip
    world.items = {**ITEMS, "control": {"gsm8k": (1, 0, 0, 0), "mmlu": (1, 1)}}
    refusal = {**HUMAN, "labels": ["Compliance", "Refusal"]}
    preference = {
        **HUMAN, "labels": ["first", "second", "tie"], "matrix": [[12, 4, 4], [9, 8, 3], [0, 0, 0]]
    }  # fmt: skip
    world.human_agreement = {
        "judge": HUMAN, "refusal": refusal, "preference": preference,
        "cost": {**HUMAN, "auc": 0.77},
    }  # fmt: skip
    tokens = [
        {"token": f" word{i}", "score": (i % 7 - 3) / 3, "kept": i % 2 == 0} for i in range(40)
    ]
    steps = [{"step": i, "loss": 0.7 - i / 100, "accuracy": 0.5 + i / 90} for i in range(1, 30)]
    preview = {"id": "0", "prompt": "a question", "chosen": tokens, "rejected": tokens}
    world.policy_files = {
        "mask_previews.json": json.dumps({"previews": [preview]}),
        "training_log.jsonl": "".join(json.dumps(step) + "\n" for step in steps),
    }
    world.data_card = {"pairs_read": 4230, "category": {"EHD": {"a": 7}, "IHD": {"a": 3}}}
    gate = {"label": "browser test", "min_safety": 0.9, "max_helpful_drop": 0.02}
    world.trained_on = {"EHD": 12, "IHD": 5, "MHD": 5, "NONE": 5}
    world.write()
    add_arms(world, study_arms(world))
    points = [("small", 0), ("adpo+fdc", 5), ("large", 12)]
    curves = [
        {"category": c, "points": [{"size": size, "arm": arm} for arm, size in points]}
        for c in ("EHD", "IHD", "MHD")
    ]
    study = {"reference": "adpo+fdc", "curves": curves}
    world.report(title="Alignment report", run_name="browser", gate=gate, study=study)
    return (world.root / "report" / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page, address: str) -> Page:
    browser.media()
    browser.resize(1280)
    browser.open(address)
    return browser


def test_it_opens_in_silence_and_asks_for_nothing_but_itself(page: Page, address: str) -> None:
    page.shot("desktop")
    assert page.complaints() == []
    assert page.requests() == [address]


def test_every_figure_is_drawn_and_every_section_has_its_table(page: Page) -> None:
    sizes = page.value(
        "[...document.querySelectorAll('svg.chart')].map(e => [e.getBoundingClientRect().width,"
        " e.getBoundingClientRect().height, e.querySelector('title').textContent])"
    )
    assert len(sizes) >= 8
    assert all(width > 200 and height > 50 for width, height, _ in sizes), sizes
    for section in ("results", "study", "benchmarks", "safety", "judge", "data", "provenance"):
        assert page.value(f"document.querySelectorAll('#{section} table').length") > 0, section
    heads = page.value("[...document.querySelectorAll('#results thead th')].map(e => e.innerText)")
    assert heads == ["Measure", "Base", "Control", "Aligned", "Change"]
    assert page.value("document.querySelectorAll('.example').length") == 20
    verdict = page.value("document.querySelector('.verdict').getBoundingClientRect().top")
    assert 0 < verdict < 400, "the verdict stands at the top"


def test_labels_of_figures_stay_inside_their_figures(page: Page) -> None:
    outside = page.value(
        "[...document.querySelectorAll('svg.chart text')].filter(t => { const a ="
        " t.getBoundingClientRect(), b = t.closest('section').getBoundingClientRect();"
        " return a.left < b.left || a.right > b.right; }).map(t => t.textContent)"
    )
    assert outside == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(page: Page, width: int) -> None:
    page.resize(width, 844, mobile=True)
    page.shot(f"phone-{width}")
    assert page.value("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Page, scheme: str) -> None:
    page.media(scheme=scheme)
    page.shot(scheme)
    assert page.value(CONTRAST) == []
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground[4:-1].split(","))
    assert brightness < 150 if scheme == "dark" else brightness > 600


def test_harmful_text_is_hidden_until_it_is_asked_for_by_keyboard(page: Page) -> None:
    assert SECRET not in page.value("document.body.innerText")
    page.press("Tab")
    assert page.value("document.activeElement.className") == "skip"
    for _ in range(400):
        page.press("Tab")
        if page.value("!!document.activeElement.closest('.example summary')"):
            break
    assert page.value("document.activeElement.tagName") == "SUMMARY"
    outline = page.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "focus must be visible"
    page.press("Enter")
    assert SECRET in page.value("document.body.innerText")


def test_every_link_and_fold_is_reached_by_keyboard(page: Page) -> None:
    wanted = page.value("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    reached = 0
    for _ in range(2 * wanted):
        page.press("Tab")
        if page.value("document.activeElement === document.body"):
            break
        reached += 1
    assert reached >= wanted


def test_whatever_scrolls_is_reached_by_keyboard(page: Page) -> None:
    page.resize(390, 844, mobile=True)
    page.value("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    unreached = page.value(
        "[...document.querySelectorAll('main *')].filter(e => { const s = getComputedStyle(e);"
        " return /auto|scroll/.test(s.overflowX + s.overflowY) && e.tabIndex < 0; })"
        ".map(e => e.className || e.tagName)"
    )
    assert unreached == []
    assert page.value("document.documentElement.scrollWidth") <= 390, "long lines of configs wrap"


def test_it_prints_without_navigation_and_without_harmful_text(page: Page) -> None:
    page.media(media="print", scheme="dark")
    page.shot("print")
    assert page.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.value(CONTRAST) == []
    document = base64.b64decode(page.send("Page.printToPDF", printBackground=True)["data"])
    assert document.startswith(b"%PDF") and len(document) > 20_000


def test_it_needs_no_script(page: Page, address: str) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(address)
    page.send("Emulation.setScriptExecutionDisabled", value=False)
    assert page.value("document.querySelectorAll('table').length") > 5
    assert page.complaints() == []


def test_the_page_is_small(address: str) -> None:
    assert Path(address.removeprefix("file://")).stat().st_size < 2_000_000
