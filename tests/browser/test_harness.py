"""The harness itself: which browser it takes, and that nothing which a page asks for goes unseen or gets through."""

import subprocess

import pytest

from browser import harness

REACHING = """async () => {
  const image = new Image();
  image.src = "https://example.org/picture.png";
  const socket = new WebSocket("ws://example.org/socket");
  const script = new Blob(["fetch('https://example.org/worker').then(() => 'through', () => '').then(postMessage)"]);
  const worker = new Worker(URL.createObjectURL(script));
  return await Promise.all([
    new Promise((done) => { image.onload = () => done("through"); image.onerror = () => done("") }),
    fetch("http://192.0.2.1/").then(() => "through", () => ""),
    new Promise((done) => { socket.onopen = () => done("through"); socket.onerror = () => done("") }),
    new Promise((done) => { worker.onmessage = (message) => done(message.data) }),
  ]);
}"""


def test_the_browser_is_the_one_that_is_named_else_the_first_on_the_path(tmp_path, monkeypatch):
    monkeypatch.delenv("VLMLAB_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert harness.find_browser() is None
    for name in reversed(harness.BROWSERS):
        (tmp_path / name).touch(0o755)
        assert harness.find_browser() == str(tmp_path / name)
    monkeypatch.setenv("VLMLAB_BROWSER", "/opt/mine")
    assert harness.find_browser() == "/opt/mine"


def test_a_state_that_does_not_come_is_named():
    with pytest.raises(TimeoutError, match="the kettle does not boil"):
        harness.until(lambda: False, "the kettle does not boil", 0.0)


def test_pictures_addresses_sockets_and_workers_are_seen_and_stopped(chromium):
    with harness.watched_page(chromium) as (page, watch):
        assert page.evaluate(REACHING) == ["", "", "", ""]
        asked = {"https://example.org/picture.png", "http://192.0.2.1/", "ws://example.org/socket",
                 "https://example.org/worker"}  # fmt: skip
        assert set(watch.outside) == asked
        with pytest.raises(AssertionError, match="asked for"):
            watch.check()


def test_what_a_page_complains_of_is_seen(chromium):
    with harness.watched_page(chromium) as (page, watch):
        page.evaluate("() => console.log('fine')")
        watch.check()
        page.evaluate("() => { console.error('not fine'); setTimeout(() => { throw new Error('thrown') }) }")
        harness.until(lambda: page.evaluate("1") and len(watch.errors) == 2, "two complaints")
        with pytest.raises(AssertionError, match=r"not fine.*thrown"):
            watch.check()


def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    notebooks = tmp_path / "of the user"
    notebooks.mkdir()
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **named: started([command[0], "-c", "1/0"], **named))
    with pytest.raises(AssertionError, match="ZeroDivisionError"), harness.jupyterlab(tmp_path, notebooks):
        pass
