"""Take the screenshot of the server's page that docs/server.md shows: `python -m benchmarks.page_screenshot`.

Needs the extra `serve`, selenium, and Debian's chromium and chromium-driver. The built-in model draws the pictures.
"""

import io
import shutil
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from sana_cli.server.limits import Limits
from sana_cli.server.run import Serving, run
from sana_cli.server.served_models import ServedModels

TARGET = Path(__file__).parents[1] / "docs/images/page.png"
PROMPTS = (
    "a panda",
    "a cat left of a pizza on a blue background",
    "two frogs on a purple background",
)
SECONDS = 300  # for all pictures


def main() -> None:
    """Draw three pictures, begin a fourth, and keep what the browser shows."""
    told: list[str] = []
    there = threading.Event()
    stops: list[object] = []

    def listening(host: str, port: int, stop: object) -> None:
        told.append(f"http://{host}:{port}")
        stops.append(stop)
        there.set()

    models = ServedModels(("builtin",), default=None)
    serving = Serving(host="127.0.0.1", port=0, models=models, limits=Limits())
    thread = threading.Thread(target=run, args=(serving,), kwargs={"listening": listening})
    thread.start()
    there.wait(60)
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        for word in (
            "--headless=new",
            "--no-sandbox",
            "--window-size=1100,820",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(word)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.get(told[0])
            for i, prompt in enumerate(PROMPTS):
                _draw(driver, prompt, seed=7)
                _until(
                    lambda i=i: len(driver.find_elements(By.CSS_SELECTOR, ".pictures button")) > i
                )
            _draw(driver, "a large red heart", seed=3)
            _until(lambda: driver.find_elements(By.CSS_SELECTOR, "img.so-far"))
            png = driver.get_screenshot_as_png()
        finally:
            driver.quit()
            stops[0]()  # type: ignore[operator]
            thread.join()
    picture = Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB").quantize(128)
    picture.save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


def _draw(driver: webdriver.Chrome, prompt: str, *, seed: int) -> None:
    for name, value in (("prompt", prompt), ("seed", str(seed))):
        box = driver.find_element(By.ID, name)
        box.clear()
        box.send_keys(value)
    driver.find_element(By.ID, "draw").click()


def _until(is_so: object) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError("the page shows no picture")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
