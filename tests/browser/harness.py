"""What the tests in a browser stand on: which browser, JupyterLab of their own, and a watch on what pages ask for."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vlmlab import runtime
from vlmlab.notebooks import lab_environment, process, strict

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

PATIENCE = 120.0  # seconds until a state that does not come is a failure
WINDOW = {"width": 1120, "height": 1040}  # CSS pixels, as on a laptop
SCALE = 1.25  # pixels of a screenshot to a CSS pixel
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("data:", "blob:", "about:")  # what a page may always ask for: it leaves the page by no wire
T = TypeVar("T")


def find_browser() -> str | None:
    """The browser's program: what VLMLAB_BROWSER names, else the first of BROWSERS that is there; None without one."""
    return os.environ.get("VLMLAB_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


def until(state: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Wait until `state` is true and return it. Raises TimeoutError naming what did not come."""
    end = time.monotonic() + seconds
    while not (found := state()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s: {what}")
        time.sleep(0.05)
    return found


@dataclass
class Watch:
    """What a page asked for beyond what it may, and what it complained of.

    allowed: how addresses begin that may be asked for. outside: all others that were. errors: of the console and of
    scripts.
    """

    allowed: tuple[str, ...]
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def asked(self, address: str) -> None:
        if not address.startswith((*LOCAL, *self.allowed)):
            self.outside.append(address)

    def check(self) -> None:
        """Fail for anything that was seen since the last check."""
        outside, errors = list(self.outside), list(self.errors)
        self.outside.clear()
        self.errors.clear()
        assert not outside, f"the page asked for {outside}"
        assert not errors, f"the page complained: {errors}"


@contextmanager
def watched_page(browser: "Browser", *allowed: str) -> "Iterator[tuple[Page, Watch]]":
    """A page of its own, watched: requests of workers and sockets count too. It is closed at the end."""
    watch = Watch(allowed)
    context = browser.new_context(viewport=WINDOW, device_scale_factor=SCALE)
    try:
        context.set_default_timeout(1000 * PATIENCE)
        context.on("request", lambda request: watch.asked(request.url))
        page = context.new_page()
        page.on("websocket", lambda socket: watch.asked(socket.url))
        page.on("console", lambda said: watch.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        yield page, watch
    finally:
        context.close()


def launch(playwright: "Playwright", program: str) -> "Browser":
    """The browser without a window. Whatever is not on this machine goes to a proxy that does not exist."""
    return playwright.chromium.launch(
        executable_path=program,
        proxy={"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"},
        timeout=1000 * PATIENCE,
    )


class Lab(NamedTuple):
    """A running JupyterLab. url: with a slash at its end. folder: what it serves. work: where notebooks write."""

    url: str
    token: str
    folder: Path
    work: Path

    def address(self, notebook: str) -> str:
        """Where a notebook opens."""
        return f"{self.url}lab/tree/{notebook}?token={self.token}"


@contextmanager
def jupyterlab(folder: Path, notebooks: Path) -> Iterator[Lab]:
    """JupyterLab on a copy of a folder of notebooks, with the settings that `vlmlab lab` gives it.

    The server and its kernels run behind the strict runner's guard: what they try to reach is refused, and fails here.
    """
    from jupyter_server.serverapp import list_running_servers

    served, work, own = folder / "notebooks", folder / "work", folder / "jupyter"
    shutil.copytree(notebooks, served, ignore=shutil.ignore_patterns("src", ".*"))
    token = secrets.token_hex(16)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    environment |= process.kernel_environment("quick", folder, work, runtime.data_dir().resolve())
    environment |= {f"JUPYTER_{name}_DIR": str(own / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {f"JUPYTERLAB_{name}_DIR": str(own / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
        f"--ServerApp.root_dir={served}", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as target:
        server = subprocess.Popen(
            command,
            env={**lab_environment(environment), "JUPYTER_TOKEN": token},
            cwd=folder,
            stdout=target,
            stderr=target,
        )

    def started() -> str:
        assert server.poll() is None, f"JupyterLab ended: {log.read_text()[-2000:]}"
        return next((each["url"] for each in list_running_servers(str(own / "runtime"))), "")

    try:
        yield Lab(until(started, f"JupyterLab does not start, see {log}"), token, served, work)
    finally:
        server.terminate()  # it ends its kernels, then itself
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    assert not (tried := strict.network_attempts(folder / "network.log")), tried
