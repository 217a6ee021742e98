"""A server with the playground, and the page in a browser."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from taskvec.core import Encoder
from tests import browser as browsers
from tests.browser import Page
from tests.remote_server import Server, serving


@pytest.fixture(scope="module")
def server(encoder: Encoder) -> Iterator[Server]:
    with serving(encoder, playground=True) as running:
        yield running


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with browsers.chromium() as made:
        yield made


@pytest.fixture
def page(driver: webdriver.Chrome, server: Server) -> Page:
    return Page(driver, server.url)
