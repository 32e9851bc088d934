"""The page in a real Chromium: draw, watch, cancel, look at, repeat, by keyboard alone, at phone width, behind a key."""

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for word in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900",
        f"--user-data-dir={profile}", "--disable-background-networking",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, server: Any) -> Any:
    browser.set_window_size(1200, 900)
    browser.get(server.url)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#model option"))
    yield browser
    refused = [e for e in browser.get_log("browser") if "Content Security Policy" in e["message"]]
    assert refused == []


def until(browser: Any, is_so: Callable[[], Any], seconds: float = 150) -> Any:
    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda _: is_so())


def fill(page: Any, prompt: str, **fields: object) -> None:
    for name, value in {"prompt": prompt, **fields}.items():
        box = page.find_element(By.ID, name)
        box.clear()
        box.send_keys(str(value))


def cards(page: Any) -> list[Any]:
    return list(page.find_elements(By.CSS_SELECTOR, ".job"))


def card_of(page: Any, prompt: str) -> Any:
    def found() -> Any:
        return next(
            (c for c in cards(page) if c.find_element(By.CSS_SELECTOR, ".words").text == prompt),
            None,
        )

    return until(page, found)


def shown(page: Any, card: Any) -> bytes:
    """The file that a card shows, once it is to be seen."""
    picture = until(page, lambda: card.find_elements(By.CSS_SELECTOR, ".pictures button"))[0]
    image = picture.find_element(By.TAG_NAME, "img")
    until(page, lambda: page.execute_script("return arguments[0].naturalWidth", image))
    data = page.execute_async_script(
        "const [url, done] = arguments; const key = sessionStorage.getItem('key');"
        " fetch(url, {headers: key ? {Authorization: `Bearer ${key}`} : {}}).then((r) => r.blob()).then((blob) => {"
        " const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(blob); });",
        picture.get_attribute("data-url"),
    )
    return base64.b64decode(data.partition(",")[2])


def click(card: Any, action: str) -> None:
    card.find_element(By.CSS_SELECTOR, f"[data-do={action}]").click()


SMALL = {"size": "64x64", "steps": 2}


def test_draw_find_and_repeat(page: Any, expected: Callable[..., bytes]) -> None:
    fill(page, "a cat", seed=5, **SMALL)
    page.find_element(By.ID, "draw").click()
    card = card_of(page, "a cat")
    assert shown(page, card) == expected("a cat", seed=5)
    card.find_element(By.CSS_SELECTOR, "summary").click()
    assert "seed" in card.find_element(By.CSS_SELECTOR, "dl").text
    before = len(cards(page))
    click(card, "again")
    until(page, lambda: len(cards(page)) == before + 1)
    assert shown(page, cards(page)[0]) == expected("a cat", seed=5)
    click(cards(page)[0], "vary")
    until(page, lambda: len(cards(page)) == before + 2)
    assert shown(page, cards(page)[0]) != expected("a cat", seed=5)


def test_a_gallery_outlives_the_page(page: Any, expected: Callable[..., bytes]) -> None:
    fill(page, "an owl", seed=2, **SMALL)
    page.find_element(By.ID, "draw").click()
    shown(page, card_of(page, "an owl"))
    page.refresh()
    assert shown(page, card_of(page, "an owl")) == expected("an owl", seed=2)


def test_previews_then_cancel(page: Any) -> None:
    fill(page, "a red ship", size="1024x1024", steps=150)  # not done before it is cancelled
    page.find_element(By.ID, "draw").click()
    card = card_of(page, "a red ship")
    until(page, lambda: card.find_elements(By.CSS_SELECTOR, "img.so-far"))
    assert "draws: step" in card.find_element(By.CSS_SELECTOR, ".status").text
    click(card, "cancel")
    until(page, lambda: card.find_element(By.CSS_SELECTOR, ".status").text == "cancelled")
    assert not card.find_elements(By.CSS_SELECTOR, "img.so-far")


def test_by_keyboard_alone(page: Any, expected: Callable[..., bytes]) -> None:
    """The prompt has the focus; Tab walks the form in reading order, Escape cancels, arrows walk the pictures."""
    keys = webdriver.ActionChains(page)
    assert page.switch_to.active_element.get_attribute("id") == "prompt"
    keys.send_keys("a green hat").perform()
    visited = []
    for _ in range(9):
        webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
        visited.append(page.switch_to.active_element.get_attribute("id"))
        typed = {"size": "64x64", "steps": "2", "seed": "9"}.get(visited[-1])
        if typed:
            webdriver.ActionChains(page).send_keys(typed).perform()
    assert visited[:5] == ["draw", "model", "size", "steps", "seed"]
    webdriver.ActionChains(page).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()
    card = card_of(page, "a green hat")
    assert shown(page, card) == expected("a green hat", seed=9)
    picture = card.find_element(By.CSS_SELECTOR, ".pictures button")
    picture.send_keys(Keys.ENTER)
    viewer = page.find_element(By.ID, "viewer")
    until(page, lambda: viewer.get_attribute("open"))
    webdriver.ActionChains(page).send_keys(Keys.ESCAPE).perform()
    until(page, lambda: not viewer.get_attribute("open"))
    assert page.switch_to.active_element == picture, "the focus is where it was"
    fill(page, "a blue ship", size="1024x1024", steps=150, seed=1)  # not done before Escape comes
    webdriver.ActionChains(page).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()
    ship = card_of(page, "a blue ship")
    webdriver.ActionChains(page).send_keys(Keys.ESCAPE).perform()
    until(page, lambda: ship.find_element(By.CSS_SELECTOR, ".status").text == "cancelled")


def test_a_picture_and_a_mask(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "teal").save(tmp_path / "teal.png")
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(tmp_path / "half.png")
    fill(page, "a sofa", size="64x64", steps=2, seed=1)
    for kind, name in (("image", "teal.png"), ("mask", "half.png")):
        page.find_element(By.ID, kind).send_keys(str(tmp_path / name))
        until(
            page,
            lambda kind=kind: page.find_element(
                By.CSS_SELECTOR, f"#drop-{kind} img"
            ).is_displayed(),
        )
    page.find_element(By.ID, "draw").click()
    card = card_of(page, "a sofa")
    shown(page, card)
    text = card.find_element(By.CSS_SELECTOR, "dl").get_attribute("textContent")
    assert "teal.png" in text
    assert "half.png" in text
    for kind in ("image", "mask"):
        page.find_element(By.CSS_SELECTOR, f"#drop-{kind} .clear").click()


def test_a_mistake_is_told(page: Any) -> None:
    fill(page, "a cat", size="65x64")
    page.find_element(By.ID, "draw").click()
    problem = page.find_element(By.ID, "problem")
    until(page, problem.is_displayed)
    assert "not a multiple of 32" in problem.text


def test_a_phone_s_width(page: Any) -> None:
    page.set_window_size(500, 900)
    metrics = {"width": 380, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide = page.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 380, "nothing is cut"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_dark_and_light_can_be_read(page: Any, scheme: str) -> None:
    """The contrast of text is at least 4.5 (WCAG 2.2, 1.4.3)."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    contrast = page.execute_script("""
        const light = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = light(getComputedStyle(document.body).backgroundColor);
        return [document.body, document.getElementById("keys"), document.querySelector("label")].map((element) => {
          const [a, b] = [light(getComputedStyle(element).color), back].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05);
        });
    """)
    assert min(contrast) >= 4.5


def test_behind_a_key(browser: Any, starting: Callable[..., Any]) -> None:
    own = starting(keys=("a-secret-of-sixteen",))
    browser.get(own.url)
    box = browser.find_element(By.ID, "key")
    until(browser, box.is_displayed)
    box.send_keys("a-secret-of-sixteen", Keys.ENTER)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#model option"))
    fill(browser, "a key", seed=1, **SMALL)
    browser.find_element(By.ID, "draw").click()
    assert shown(browser, card_of(browser, "a key"))[:4] == b"\x89PNG"
