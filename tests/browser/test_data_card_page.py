"""The data card in a real browser: silent, readable on a phone and in the dark, masked."""

from pathlib import Path

import pytest

from equilibrate_core.data_card_page import to_html
from tests.browser.chromium import chromium
from tests.components.scoring_fixtures import make_pair
from tests.components.test_data_card import cards

pytestmark = pytest.mark.browser
SOURCE = "a_source_with_a_very_long_name_" * 3


def test_the_card_fits_a_phone_keeps_its_secrets_and_asks_for_nothing(tmp_path: Path) -> None:
    _, _, card = cards(tmp_path)
    pair = make_pair("explosive 如何", "no", "yes", source=SOURCE, category="EHD")
    (tmp_path / "card.html").write_text(to_html(card, [pair]))
    with chromium() as page:
        page.resize(390, mobile=True)
        page.media(scheme="dark")
        page.open(f"file://{tmp_path}/card.html")
        page.shot("data-card-phone-dark")
        assert page.value("document.documentElement.scrollWidth") <= 390
        assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert "explosive" not in page.value("document.body.innerText")
        page.value("document.querySelector('details').open = true")
        assert "explosive" in page.value("document.body.innerText")
        assert page.complaints() == []
        assert len(page.requests()) == 1
