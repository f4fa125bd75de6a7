"""Shuts the network off for a notebook's kernel and every Python it starts. Serves every notebook under `vlmlab run`.

The strict runner puts this folder first on PYTHONPATH, so that Python imports this module at start-up. An audit hook
cannot be taken off again. Loopback and Unix sockets stay open: the kernel itself, and worker processes, talk over them.
Each refused attempt is also written to the file in VLMLAB_NETWORK_LOG, so that swallowing the error does not hide it.
"""

import os
import sys

_LOOPBACK = ("::1", "::", "0.0.0.0", "localhost", "ip6-localhost")


def _own_name() -> str:
    try:
        return os.uname().nodename
    except (AttributeError, OSError):
        return ""


_OWN = _own_name()


def _allowed(host: object) -> bool:
    if host is None or host == "" or host == b"":
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    return text in (*_LOOPBACK, _OWN) or (text.startswith("127.") and text.replace(".", "").isdigit())


def _refuse(what: str, target: object) -> None:
    if isinstance(target, bytes):
        target = target.decode("ascii", "replace")
    log = os.environ.get("VLMLAB_NETWORK_LOG")
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, f"{what} {target}\n".encode())
        os.close(handle)
    raise ConnectionRefusedError(f"the network is off while a notebook runs under `vlmlab run`: {what} {target}")


def _audit(event: str, arguments: tuple) -> None:
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and address and isinstance(address[0], str | bytes) and not _allowed(address[0]):
            host = address[0].decode("ascii", "replace") if isinstance(address[0], bytes) else address[0]
            _refuse(event, f"{host}:{address[1] if len(address) > 1 else ''}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _allowed(arguments[0]):
        _refuse(event, arguments[0])


if os.environ.get("VLMLAB_NETWORK") == "off":
    sys.addaudithook(_audit)


def _next_sitecustomize() -> None:
    """Run the sitecustomize that this one hides, if the environment has one."""
    import importlib.machinery

    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        import importlib.util

        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_next_sitecustomize()
