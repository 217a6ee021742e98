"""The playground's page where things go wrong, overlap, or are larger or odder than usual."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from taskvec.core import Encoder
from tests import browser as browsers
from tests.browser import Page
from tests.remote_server import NAME, Server, serving

pytestmark = pytest.mark.skipif(not browsers.FOUND, reason=browsers.REASON)
KEY = "k" * 24
PAIR = "queries \N{MULTIPLICATION SIGN} passages"
HEBREW = "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}\N{HEBREW LETTER VAV}"
TURNED = "\N{RIGHT-TO-LEFT OVERRIDE}turned"
ODD = [
    'it\'s "so": $HOME `id` $(id) %s \\n \\',
    "'!!' !$ \N{GRINNING FACE}",
    f"\x7f \x9b {TURNED} a\N{LINE SEPARATOR}b \x1b[31m \N{ZERO WIDTH SPACE}",
    '"token_counts": true',
]


def begun(page: Page, server: Server) -> None:
    """Start a run, and wait until the server has it."""
    page.find("embed").click()
    page.until(lambda: server.app.state.service.in_progress > 0)


def test_a_browser_that_fails_to_start_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    script = (
        f'#!/bin/sh\n[ -e {first} ] || {{ touch {first}; exit 1; }}\nexec {browsers.CHROMIUM} "$@"'
    )
    once = tmp_path / "chromium"
    once.write_text(script)
    once.chmod(0o755)
    monkeypatch.setattr(browsers, "CHROMIUM", str(once))
    with browsers.chromium() as driver:
        assert driver.execute_script("return 1") == 1
    assert first.exists()


def test_a_reading_is_of_the_map_that_is_shown(page: Page) -> None:
    hint = page.script("return HINT")
    page.embed()
    page.script("point(0, 3)")
    assert page.text("readout") != hint
    page.write("one", "two")
    page.embed()
    assert page.text("readout") == hint


def test_a_form_that_is_no_longer_what_is_shown_is_told_of(
    page: Page, server: Server, encoder: Encoder
) -> None:
    page.choose(task_a="separation")
    page.write("one", "two")
    with encoder._engine.exclusively():
        begun(page, server)
        page.write("one", "three")
    page.rest()
    assert page.table("tokens")[1][0] == "T2two"
    assert page.find("stale").is_displayed()
    page.write("one", "two")
    assert not page.find("stale").is_displayed()
    with encoder._engine.exclusively():
        Select(page.find("dim-a")).select_by_value("8")
        page.until(lambda: page.find("cancel").is_displayed())
        page.find("cancel").click()
    assert page.find("stale").is_displayed()


def test_a_run_that_is_refused_ends_the_one_before(
    page: Page, server: Server, encoder: Encoder
) -> None:
    with encoder._engine.exclusively():
        begun(page, server)
        page.write("")
        page.find("embed").click()
        page.until(lambda: server.app.state.service.in_progress == 0)
    page.rest()
    assert page.problem.startswith("There are no passages")
    assert (page.text("status"), page.find("shown").is_displayed()) == ("", False)


def test_pairs_that_tie_have_one_rank(page: Page) -> None:
    page.choose(task_a="separation", compare=True, task_b="text-matching")
    page.write("cat", "dog", "dog", "cat")
    page.embed()
    rows = page.table("ranks-table")
    assert [(row[2], row[4], row[5]) for row in rows] == [("1", "1", "=")] * 2 + [
        ("3", "3", "=")
    ] * 4
    assert page.text("ranks-note") == "0 of 6 pairs have another rank in B."
    page.choose(task_a=PAIR)
    page.write("one", "two", into="queries")
    page.write("cat", "cat")
    page.embed()
    assert [len(row) for row in page.table("ranks-table")] == [1, 6, 6] * 2
    assert "comes first in B for 0 of 2 queries; 0 of 4 ranks differ" in page.text("ranks-note")
    best = page.script("return [...document.querySelectorAll('.best')].map(c => c.dataset.column)")
    assert best == ["0"] * 4


def test_a_text_has_its_own_direction_and_keeps_it_to_itself(page: Page) -> None:
    page.choose(task_a="separation", compare=True, task_b="text-matching")
    page.write(HEBREW, TURNED)
    page.embed()
    page.script("point(0, 1)")
    texts = page.script(
        "return ['maps', 'readout', 'ranks-table', 'tokens'].map(id => "
        "[...$(id).querySelectorAll('span:not(.pair)')].map(one => "
        "[one.textContent, getComputedStyle(one).direction, getComputedStyle(one).unicodeBidi]))"
    )
    for place in texts:
        found = {text: (direction, bidi) for text, direction, bidi in place}
        assert found[HEBREW] == ("rtl", "isolate")
        assert found[TURNED][1] == "isolate"
    bidi = "return ['texts', 'queries'].map(id => getComputedStyle($(id)).unicodeBidi)"
    assert page.script(bidi) == ["plaintext"] * 2


def test_a_long_text_is_shown_in_short_and_asked_for_in_full(page: Page) -> None:
    long = f"{'x' * 299}\N{GRINNING FACE}{'y' * 300}"
    page.choose(task_a="separation", compare=True, task_b="text-matching")
    page.write(long, "one")
    page.embed()
    for name in ("maps", "tokens", "ranks-table"):
        shown = page.script("return $(arguments[0]).textContent", name)
        assert f"{'x' * 299} \N{HORIZONTAL ELLIPSIS}" in shown
        assert "y" * 50 not in shown
        assert page.script("return $(arguments[0]).textContent.isWellFormed()", name)
    assert long in page.script("return $('code').textContent")


@pytest.mark.parametrize("language", ["asCurl", "asPython"])
def test_copied_code_asks_for_any_text(
    page: Page, encoder: Encoder, tmp_path: Path, language: str
) -> None:
    long = "file " * 30_000  # more than a command line's argument may have
    texts = [*ODD, long]
    body = {"model": NAME, "token_counts": True, "input": texts}
    requests = [{"name": "vectors", "body": body | {"truncate": True}}]
    if language == "asPython":
        requests = [{"name": "vectors", "body": body | {"input": ODD}}]
    code = page.script(f"return {language}(arguments[0], false)", requests)
    assert all(one.isprintable() or one == "\n" for one in code)
    script = tmp_path / "copied"
    if language == "asCurl":
        if not shutil.which("curl"):
            pytest.skip("needs curl")
        script.write_text(code)
        done = run("bash", str(script))
        found = [one["embedding"] for one in json.loads(done)["data"]]
    else:
        script.write_text(code + "\nimport json\nprint(json.dumps(vectors))\n")
        found = json.loads(run(sys.executable, str(script)))
    want = encoder.encode(requests[0]["body"]["input"])
    np.testing.assert_allclose(found, want, atol=1e-5)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


DELAY = """
const real = fetch;
let count = 0;
window.late = false;
window.fetch = async (address, options) => {
  if (count++) return real(address, options);
  const reply = await real(address, {...options, signal: undefined});
  const content = await reply.text();
  await new Promise(done => setTimeout(done, 300));
  setTimeout(() => { window.late = true; }, 50);
  return new Response(content, {status: reply.status});
};
$('key').value = 'wrong';
loadModels();
$('key').value = arguments[0];
loadModels();
"""


def test_a_late_answer_about_an_earlier_key_changes_nothing(
    driver: webdriver.Chrome, encoder: Encoder
) -> None:
    with serving(encoder, keys=[KEY], playground=True) as keyed:
        page = Page(driver, keyed.url)
        page.script(DELAY, KEY)
        page.until(lambda: page.script("return late"))
        assert not page.find("problem").is_displayed()
        assert page.text("card").startswith(NAME)
    driver.get_log("browser")


def test_an_example_chosen_before_the_key_is_given_runs_as_chosen(
    driver: webdriver.Chrome, encoder: Encoder
) -> None:
    with serving(encoder, keys=[KEY], playground=True) as keyed:
        page = Page(driver, keyed.url)
        page.all(".examples button")[2].click()
        page.until(lambda: driver.switch_to.active_element.get_attribute("id") == "key")
        # Browsers put passwords they know for a machine into fields that say less.
        assert page.find("key").get_attribute("autocomplete") == "new-password"
        page.find("key").send_keys(KEY, Keys.ENTER)
        page.until(lambda: page.text("status").startswith("Done: 6 texts"))
        tasks = [body["task"] for path, body in keyed.seen if path == "/v1/embeddings"]
        assert tasks == ["separation"]
    driver.get_log("browser")


@pytest.mark.parametrize(
    ("given", "told"),
    [("3", "in 3 s"), ("Wed, 21 Oct 2026 07:28:00 GMT", "after Wed, 21 Oct 2026 07:28:00 GMT")],
)
def test_a_wait_is_told_as_the_server_or_a_proxy_says_it(page: Page, given: str, told: str) -> None:
    reply = "new Response('{}', {status: 429, headers: {'Retry-After': arguments[0]}})"
    note = page.script(f"return problemOf({reply}, {{}}).note", given)
    assert note == f"status 429, it asks to come again {told}"


def test_an_answer_that_is_not_the_servers_is_told_of(page: Page, server: Server) -> None:
    try:
        for answer in ({"login": "here"}, {"data": [], "usage": {"total_tokens": 1}}):
            server.answers["/v1/embeddings"] = answer
            page.embed()
            assert page.problem.startswith("No usable answer\nIt came as JSON")
    finally:
        server.answers.clear()


RING = """
const cell = document.querySelector('.map td[tabindex="0"]');
cell.focus();
const {outlineColor, boxShadow} = getComputedStyle(cell);
return [outlineColor, boxShadow];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_ring_of_a_cell_in_focus_is_seen_on_every_colour(page: Page, scheme: str) -> None:
    page.embed()
    page.sized(1280, 900, scheme=scheme)
    outline, shadow = page.script(RING)
    assert shadow.endswith("0px 0px 0px 5px inset")
    one, other = sorted(map(light, (outline, shadow)))
    assert (other + 0.05) / (one + 0.05) >= 3


def light(colour: str) -> float:
    """The relative luminance of `rgb(…)`, by WCAG 2."""
    channels: Any = colour.partition("(")[2].partition(")")[0].split(",")
    shares = np.array(channels, float) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
