"""A headless Chromium that reaches loopback alone, where the machine has one."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FOUND = bool(CHROMIUM and DRIVER)
REASON = "needs Debian's chromium and chromium-driver (apt-get install chromium chromium-driver)"
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
WAIT_S = 60
STARTS = 3


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """One with an empty profile, for the time of the block."""
    with TemporaryDirectory(prefix="taskvec-", ignore_cleanup_errors=True) as folder:
        driver = _started(Path(folder))
        try:
            yield driver
        finally:
            driver.quit()


def _started(folder: Path) -> webdriver.Chrome:
    """One that runs: on a busy machine a start can take longer than its driver waits for it."""
    for number in range(1, STARTS):
        try:
            return _start(folder / f"{number}")
        except WebDriverException:
            continue
    return _start(folder / f"{STARTS}")


def _start(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


class Page:
    """The playground in a browser, at a server's URL."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.sized(1280, 900)
        driver.get(f"{url}/playground")
        # On a busy machine the driver comes back before the page has run its scripts.
        self.until(lambda: self.script("return typeof cards !== 'undefined'"))
        self.until(lambda: self.script("return cards.length > 0 || !$('problem').hidden"))

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.find(name).text

    def until(self, condition: Any) -> None:
        WebDriverWait(self.driver, WAIT_S, 0.02).until(lambda _: condition())

    def sized(self, width: int, height: int, *, scheme: str = "light", scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def write(self, *texts: str, into: str = "texts") -> None:
        """Put texts into a list, as pasting them does."""
        code = "$(arguments[0]).value = arguments[1];"
        code += "$(arguments[0]).dispatchEvent(new Event('input', {bubbles: true}))"
        self.script(code, into, "\n".join(texts))

    def choose(self, **values: Any) -> None:
        """Choose in fields, by their names with `_` for `-`, and wait for what that starts."""
        for name, value in values.items():
            field = self.find(name.replace("_", "-"))
            if isinstance(value, bool):
                if field.is_selected() != value:
                    field.click()
            else:
                Select(field).select_by_value(str(value))
            self.rest()

    def rest(self) -> None:
        """Wait until no request is in progress."""
        self.until(lambda: self.script("return running === null"))

    def embed(self) -> None:
        self.find("embed").click()
        self.rest()

    @property
    def problem(self) -> str:
        """What went wrong, in the page's words and the server's."""
        return self.text("problem")

    @property
    def milliseconds(self) -> int:
        """What the page says that the last run took."""
        shown = self.script("return $('summary').lastChild.lastChild.textContent")
        return int(shown.removesuffix(" ms").replace(",", ""))

    def map(self, number: int = 0) -> list[list[float]]:
        """The cosines of a heat map."""
        return self.script(
            "return [...document.querySelectorAll('.map')[arguments[0]].tBodies[0].rows].map("
            "row => [...row.querySelectorAll('td')].map(cell => Number(cell.dataset.value)))",
            number,
        )

    def table(self, name: str) -> list[list[str]]:
        """What the cells of a table's body and foot show."""
        return self.script(
            "return [...$(arguments[0]).querySelectorAll('tbody tr, tfoot tr')]"
            ".map(row => [...row.cells].map(cell => cell.innerText))",
            name,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the browser's log has of a kind of event since it was last read."""
        entries = self.driver.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [message["params"] for message in messages if message["method"] == name]

    def save(self, file: Path, *, whole: bool = True) -> None:
        """A picture of the whole page, or of what a screen shows of it."""
        options = {"format": "png", "captureBeyondViewport": whole}
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        file.write_bytes(base64.b64decode(picture["data"]))
