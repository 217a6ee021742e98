"""The playground: its page over HTTP, and what a real browser makes of it."""

import base64
import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from taskvec.core import Encoder
from taskvec.core.embedder import Array
from taskvec.integrations.server import Limits, create_app
from tests import browser as browsers
from tests.browser import Page
from tests.remote_server import NAME, Server, serving

in_browser = pytest.mark.skipif(not browsers.FOUND, reason=browsers.REASON)
KEY = "k" * 24
QUERIES = ["how to read a file", "wait for a thread"]
TEXTS = [
    "open the file and read it",
    "a lock of a thread",
    "the time in json",
    "naïve 'café' \\ \"test\"",
]
ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PAIR = "queries \N{MULTIPLICATION SIGN} passages"
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


def cosines(rows: Array, columns: Array) -> Array:
    return rows @ columns.T


# --- over HTTP ---


def test_there_is_no_page_unless_it_is_asked_for(encoder: Encoder) -> None:
    with serving(encoder) as plain, httpx.Client(base_url=plain.url) as client:
        assert client.get("/playground").status_code == client.get("/").status_code == 404


def test_the_page_may_run_its_own_scripts_alone(server: Server) -> None:
    reply = httpx.get(f"{server.url}/", follow_redirects=True)
    assert (reply.status_code, reply.url.path) == (200, "/playground")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["frame-ancestors"] == policy["trusted-types"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()) for one in parts]
        assert parts
        assert policy[f"{tag}-src"] == " ".join(f"'sha256-{one.decode()}'" for one in digests)
    outside = re.findall(r"https?://[^\s'\"]+", reply.text)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<[^>]+\s(on\w+|style)=", re.sub(r"<script>.*?</script>", "", reply.text))


def test_the_page_needs_no_key_and_what_it_asks_for_does(encoder: Encoder) -> None:
    def status(path: str) -> int:
        return client.get(path, follow_redirects=True).status_code

    with serving(encoder, keys=[KEY]) as plain, httpx.Client(base_url=plain.url) as client:
        assert status("/playground") == status("/") == 401
    with (
        serving(encoder, keys=[KEY], playground=True) as keyed,
        httpx.Client(base_url=keyed.url) as client,
    ):
        assert status("/playground") == status("/") == 200
        assert status("/v1/models") == status("/playground/x") == status("/metrics") == 401


def test_the_page_is_for_the_names_of_its_machine_alone(encoder: Encoder) -> None:
    with serving(encoder, playground=True, hosts=("localhost",)) as local:
        url, foreign = f"{local.url}/playground", {"Host": "rebound.example"}
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers=foreign).status_code == 421


def test_a_mounted_application_leads_to_its_own_page(encoder: Encoder) -> None:
    outer = FastAPI()
    outer.mount("/embed", create_app(encoder, playground=True))
    reply = TestClient(outer).get("/embed/")
    assert reply.url.path == "/embed/playground"
    assert "taskvec playground" in reply.text


def test_the_command_line_says_where_the_page_is(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "taskvec.integrations.cli", "serve", "--port", "0"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    running: Any
    with subprocess.Popen([*command, "--playground", str(checkpoint)], **pipes) as running:
        try:
            assert "/v1, without API keys; Ctrl-C ends it" in running.stdout.readline()
            found = re.fullmatch(r"try it at (http://\S+/playground)\n", running.stdout.readline())
            assert found
            assert "taskvec playground" in httpx.get(found[1]).text
        finally:
            running.kill()


# --- in a browser ---


@in_browser
def test_the_map_has_the_cores_cosines_for_every_task_and_dim(page: Page, encoder: Encoder) -> None:
    page.write(*TEXTS)
    page.embed()
    seen = []
    for dim in (8, 32):
        page.choose(dim_a=dim)  # once there is a map, a choice draws it anew
        for task in ("", *encoder.tasks):
            page.choose(task_a=task)
            vectors = encoder.encode(TEXTS, task=task or None, dim=dim)
            np.testing.assert_allclose(page.map(), cosines(vectors, vectors), atol=1e-5)
            seen.append(str(page.map()))
    assert len(set(seen)) == len(seen)
    cells = page.script(
        "return [...document.querySelectorAll('.map td[data-row]')].map(c => c.innerText)"
    )
    want = [round(value, 2) for value in np.ravel(page.map())]
    assert [float(cell.replace(MINUS, "-")) for cell in cells] == want


@in_browser
def test_queries_meet_passages_each_with_its_own_task(page: Page, encoder: Encoder) -> None:
    page.choose(task_a=PAIR, dim_a=16)
    page.write(*QUERIES, into="queries")
    page.write(*TEXTS)
    page.embed()
    queries = encoder.encode(QUERIES, task="retrieval.query", dim=16)
    passages = encoder.encode(TEXTS, task="retrieval.passage", dim=16)
    want = cosines(queries, passages)
    np.testing.assert_allclose(page.map(), want, atol=1e-5)
    best = page.script("return [...document.querySelectorAll('.best')].map(c => +c.dataset.column)")
    assert best == want.argmax(axis=1).tolist()
    counts = encoder.count_tokens(QUERIES, task="retrieval.query")
    counts += encoder.count_tokens(TEXTS, task="retrieval.passage")
    assert [row[1] for row in page.table("tokens")] == [str(one) for one in (*counts, sum(counts))]
    assert page.text("status").startswith(f"Done: 6 texts, {sum(counts)} tokens, ")


@in_browser
def test_late_chunking_reads_all_lines_as_one_document(page: Page, encoder: Encoder) -> None:
    page.choose(task_a="retrieval.passage", dim_a=32, late_a=True)
    page.write(*TEXTS[:3])
    page.embed()
    document, ends = " ".join(TEXTS[:3]), np.cumsum([len(text) + 1 for text in TEXTS[:3]])
    spans = [(int(end) - 1 - len(t), int(end) - 1) for t, end in zip(TEXTS[:3], ends, strict=True)]
    vectors = encoder.encode_chunks(document, spans, task="retrieval.passage")
    np.testing.assert_allclose(page.map(), cosines(vectors, vectors), atol=1e-5)
    [total] = encoder.count_tokens([document], task="retrieval.passage")
    assert [row[1] for row in page.table("tokens")] == [NONE, NONE, NONE, str(total)]


@in_browser
def test_two_settings_are_compared_by_the_ranks_of_the_same_pairs(
    page: Page, encoder: Encoder
) -> None:
    page.write(*TEXTS)
    page.choose(task_a="separation", dim_a=32, compare=True, task_b="text-matching", dim_b=8)
    page.embed()
    vectors = [
        encoder.encode(TEXTS, task="separation"),
        encoder.encode(TEXTS, task="text-matching", dim=8),
    ]
    upper = np.triu_indices(len(TEXTS), 1)
    values = [cosines(one, one) for one in vectors]
    for number, one in enumerate(values):
        np.testing.assert_allclose(page.map(number), one, atol=1e-5)
    pairs = [one[upper] for one in values]
    ranks = [1 + (-one).argsort().argsort() for one in pairs]
    want = [
        [f"{pairs[0][k]:.3f}", str(ranks[0][k]), f"{pairs[1][k]:.3f}", str(ranks[1][k])]
        for k in ranks[0].argsort()
    ]
    rows = page.table("ranks-table")
    assert [[cell.replace(MINUS, "-") for cell in row[1:5]] for row in rows] == want
    moves = [ranks[0][k] - ranks[1][k] for k in ranks[0].argsort()]
    signs = {1: "▲", -1: "▼"}
    assert [row[5] for row in rows] == [
        f"{signs[np.sign(m)]} {abs(m)}" if m else "=" for m in moves
    ]
    moved = int(np.count_nonzero(moves))
    assert page.text("ranks-note") == f"{moved} of 6 pairs have another rank in B."


@in_browser
def test_ranks_of_passages_are_a_querys_own(page: Page, encoder: Encoder) -> None:
    page.choose(task_a=PAIR, dim_a=32, compare=True, task_b="classification", dim_b=32)
    page.write(*QUERIES, into="queries")
    page.write(*TEXTS)
    page.embed()
    want = cosines(*(encoder.encode(one, task="classification") for one in (QUERIES, TEXTS)))
    np.testing.assert_allclose(page.map(1), want, atol=1e-5)
    rows = page.table("ranks-table")
    assert [len(row) for row in rows] == [1, 6, 6, 6, 6] * 2
    assert [row[2] for row in rows if len(row) > 1] == ["1", "2", "3", "4"] * 2


@in_browser
def test_a_text_with_markup_is_shown_as_text(page: Page) -> None:
    page.choose(task_a=PAIR, compare=True, task_b="separation")
    page.write(ATTACK, into="queries")
    page.write(ATTACK, "one")
    page.embed()
    page.script("point(0, 0)")
    for name in ("tokens", "maps", "ranks-table", "readout", "code"):
        shown = page.script("return $(arguments[0]).textContent", name)
        assert (ATTACK if name != "code" else "onerror=") in shown
        assert not page.all(f"#{name} img, #{name} script")
    assert page.script("return window.hacked") is None


@in_browser
def test_the_page_asks_its_own_server_alone(page: Page, server: Server) -> None:
    page.driver.get("about:blank")
    page.events("")
    page.driver.get_log("browser")
    page = Page(page.driver, server.url)
    page.choose(compare=True)
    page.embed()
    urls = {one["request"]["url"] for one in page.events("Network.requestWillBeSent")}
    paths = {"/playground", "/v1/models", "/v1/embeddings"}
    assert {url for url in urls if not url.startswith("data:")} == {server.url + p for p in paths}
    told = [one for one in page.driver.get_log("browser") if one["level"] != "DEBUG"]
    assert told == []  # neither a violation of the policy nor an error


VIOLATE = """
window.broken = [];
document.addEventListener('securitypolicyviolation', e => broken.push(e.effectiveDirective));
document.body.append(Object.assign(document.createElement('style'), {textContent: 'b {}'}));
fetch('http://127.0.0.1:9/').catch(() => 0);
"""


@in_browser
def test_the_policy_is_in_force(page: Page) -> None:
    refused = page.script(
        "try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true }"
    )
    page.script(VIOLATE)
    page.until(lambda: len(page.script("return broken")) >= 2)
    assert refused
    assert set(page.script("return broken")) == {"style-src-elem", "connect-src"}
    assert "Content Security Policy" in str(page.driver.get_log("browser"))


@in_browser
def test_a_server_with_keys_asks_for_one_and_the_page_keeps_it_to_itself(
    driver: webdriver.Chrome, encoder: Encoder
) -> None:
    with serving(encoder, keys=[KEY], playground=True) as keyed:
        page = Page(driver, keyed.url)
        asked = "The server wants an API key\nno valid API key: send one as `Authorization: Bearer"
        assert page.problem.startswith(asked)
        assert driver.switch_to.active_element.get_attribute("id") == "key"
        page.find("key").send_keys("wrong" * 5, Keys.ENTER)
        page.until(lambda: keyed.keys[-1] == f"Bearer {'wrong' * 5}")
        page.rest()
        assert page.problem.startswith(asked)
        page.find("key").clear()
        page.find("key").send_keys(KEY, Keys.ENTER)
        page.until(lambda: page.text("status").startswith("Done"))
        assert not page.find("problem").is_displayed()
        assert 'Authorization: Bearer $TASKVEC_API_KEY"' in page.text("code")
        assert KEY not in page.driver.page_source + driver.current_url
        kept = "return [localStorage.length, sessionStorage.length, document.cookie]"
        assert page.script(kept) == [0, 0, ""]
        page.find("key").clear()
        page.find("key").send_keys("ключ")
        page.embed()
        assert "ASCII characters alone" in page.problem
    driver.get_log("browser")


@in_browser
def test_refusals_are_told_in_words_with_the_servers_own(
    driver: webdriver.Chrome, encoder: Encoder
) -> None:
    limits = Limits(body_bytes=2000, tokens=60)
    with serving(encoder, playground=True, limits=limits) as limited:
        page = Page(driver, limited.url)
        page.choose(task_a="")
        page.write("file " * 80)
        page.embed()
        assert page.problem.startswith("The server does not take this\ninput has 82 tokens or more")
        assert page.problem.endswith("\nstatus 422")
        page.write("file " * 500)
        page.embed()
        assert page.problem.startswith(
            "Too much for one request\nthe body has more than 2000 bytes"
        )
        page.write("one")
        limited.failures.append(429)
        page.embed()
        told = "status 429, it asks to come again in 0 s"
        assert page.problem == f"The server is busy\ntold to fail\n{told}"
        page.embed()
        assert not page.find("problem").is_displayed()
        page.write("", " ")
        page.embed()
        assert page.problem == "There are no texts\nWrite one a line."
        page.write(*["x"] * 101)
        page.embed()
        assert page.problem.startswith("101 texts are too many for this page")
    page.write("one")
    page.embed()
    assert page.problem.startswith("No answer\n")
    driver.get_log("browser")


@in_browser
def test_a_run_can_be_cancelled(page: Page, server: Server, encoder: Encoder) -> None:
    page.choose(task_a="separation")
    with encoder._engine.exclusively():  # no model runs meanwhile
        page.find("embed").click()
        page.until(lambda: server.app.state.service.in_progress == 1)
        assert page.text("status") == "Embedding 5 texts …"
        page.until(lambda: re.fullmatch(r"\d+\.\d s", page.text("clock")))
        page.find("cancel").click()
        assert page.text("status") == "Cancelled."
        assert page.driver.switch_to.active_element.get_attribute("id") == "embed"
        page.until(lambda: server.app.state.service.in_progress == 0)
        assert not page.find("cancel").is_displayed()
    page.embed()
    assert page.text("status").startswith("Done")


@in_browser
def test_the_copied_request_gives_the_same_vectors(
    page: Page, encoder: Encoder, tmp_path: Path
) -> None:
    page.choose(task_a=PAIR, dim_a=16)
    page.write('it\'s "here" \\n', into="queries")
    page.write(*TEXTS)
    page.embed()
    want = encoder.encode(['it\'s "here" \\n'], task="retrieval.query", dim=16)
    first, second = page.text("code").split("\n\n")
    words = shlex.split(first.replace("\\\n", " "))
    assert words[:1] + words[2:5] == ["curl", "-H", "Content-Type: application/json", "-d"]
    reply = httpx.post(words[1], content=words[5], headers={"Content-Type": "application/json"})
    assert reply.json()["data"][0]["tokens"] == reply.json()["usage"]["total_tokens"]
    np.testing.assert_allclose(reply.json()["data"][0]["embedding"], want[0], atol=1e-5)
    assert '"task": "retrieval.passage"' in second

    page.find("as-python").click()
    page.find("copy").click()
    page.until(lambda: page.text("copied") != "")
    script = tmp_path / "copied.py"
    script.write_text(page.text("code") + "\nprint(queries, passages, sep='\\n')\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    queries, passages = (np.array(eval(line)) for line in done.stdout.splitlines())  # noqa: S307
    np.testing.assert_allclose(cosines(queries, passages), page.map(), atol=1e-5)


@in_browser
def test_cells_are_reached_and_read_by_keyboard(page: Page) -> None:
    page.choose(task_a="separation")
    page.write(*TEXTS)
    page.find("texts").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.text("status").startswith("Done"))
    assert len(page.all('.map td[tabindex="0"]')) == 1
    page.script("document.querySelector('.map td[tabindex=\"0\"]').focus()")
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP):
        page.driver.switch_to.active_element.send_keys(key)
    at = page.driver.switch_to.active_element
    value = page.map()[0][1]
    assert at.accessible_name.replace(MINUS, "-").startswith(f"T1 with T2: {value:.3f}")
    assert f"{value:.4f} T1 “{TEXTS[0]}” with T2" in page.text("readout").replace(MINUS, "-")
    fields = page.all("input, select, textarea, button")
    assert all(field.accessible_name for field in fields if field.is_displayed())


CONTRASTS = """
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
const context = canvas.getContext('2d', {willReadFrequently: true});
function light(colour) {
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(
    v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
const row = document.querySelector('.map tbody tr');
return Array.from({length: 101}, (_, share) => {
  const cell = Object.assign(document.createElement('td'));
  cell.dataset.row = 0;
  row.append(cell);
  paint(cell, share / 100);
  const style = getComputedStyle(cell);
  const [a, b] = [style.color, style.backgroundColor].map(light);
  cell.remove();
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), b];
});
"""


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_values_are_legible_on_every_colour_without_telling_hues_apart(
    page: Page, scheme: str
) -> None:
    page.embed()
    page.sized(1280, 900, scheme=scheme)
    contrasts, lights = np.transpose(page.script(CONTRASTS))
    assert contrasts.min() >= 4.5
    steps = np.diff(lights)
    assert (steps < 0).all() if scheme == "light" else (steps > 0).all()


@in_browser
def test_a_narrow_screen_needs_no_scrolling_sideways(page: Page, tmp_path: Path) -> None:
    page.choose(compare=True)
    page.write(*TEXTS, "x" * 300, "file " * 100)
    page.write(ATTACK, into="queries")
    page.sized(360, 740)
    page.embed()
    assert page.script("return document.documentElement.scrollWidth") == 360
    edges = "return [...document.querySelectorAll('input, select, textarea, button')].map("
    assert max(page.script(edges + "one => one.getBoundingClientRect().right)")) <= 360
    page.save(tmp_path / "narrow.png")
    assert (tmp_path / "narrow.png").stat().st_size > 10_000


@in_browser
def test_examples_run_at_once_and_changed_texts_are_told_of(page: Page) -> None:
    shapes = []
    for button in page.all(".examples button"):
        button.click()
        page.rest()
        shapes.append(np.shape(page.map()))
    assert shapes == [(3, 5), (6, 6), (6, 6)]
    assert not page.find("stale").is_displayed()
    page.find("texts").send_keys("!")
    assert page.find("stale").is_displayed()


@in_browser
def test_the_model_is_chosen_where_several_names_are_served(
    driver: webdriver.Chrome, encoder: Encoder
) -> None:
    with serving(encoder, names=(NAME, "other"), playground=True) as two:
        page = Page(driver, two.url)
        page.embed()
        page.choose(model="other")
        page.embed()
        models = [body["model"] for path, body in two.seen if path == "/v1/embeddings"]
        assert set(models[:2]) == {NAME}
        assert set(models[-2:]) == {"other"}
