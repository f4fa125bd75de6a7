"""Notebook 05. A language model behind an endpoint, asked through the client `openai`: as a judge, or as a teacher.

Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY; any compatible endpoint will do. What an exchange costs is
counted before it is asked, finished ones are kept in a file, and the key is in no file, output or error.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlmlab.benchmarks.records import File, finished
from vlmlab.errors import BadInput, MissingDependency, VlmlabError

TRIES, FIRST_WAIT, LONGEST_WAIT = 7, 1.0, 60.0  # of one request; seconds between tries, doubled each time
PASSING = (408, 409, 429, 500, 502, 503, 504)  # HTTP statuses that another try may cure
OVERHEAD = 16  # tokens that a chat template may put around one message, at most
Messages = list[dict[str, str]]


class Chat:
    """`Chat("gpt-4")(messages)` is the model's reply, a string. The same request is asked only once.

    Args:
        model: the endpoint's name for it.
        options: sent with each request; one of them must limit the reply (max_tokens or max_completion_tokens).
        file: JSON lines of finished exchanges. They are not asked again, without key or package if need be.
        per_minute: requests a minute at most, evenly spaced.
        budget: what all exchanges of the file may cost together, in the unit of `prices`.
        prices: what a token of the prompt and one of the reply cost; 1 each makes the budget a number of tokens.
        client: used instead of openai.OpenAI().
    A request that could exceed the budget is not asked: a prompt has at most as many tokens as bytes.
    """

    def __init__(
        self,
        model: str,
        *,
        options: dict[str, Any] | None = None,
        file: File | None = None,
        per_minute: float = 30.0,
        budget: float = 1_000_000,
        prices: tuple[float, float] = (1.0, 1.0),
        client: Any = None,
    ):
        self.model = model
        self.options = {"temperature": 0.2, "max_tokens": 1024} if options is None else options
        limits = [self.options[name] for name in ("max_tokens", "max_completion_tokens") if name in self.options]
        if not limits or per_minute <= 0:
            raise BadInput("a chat needs max_tokens or max_completion_tokens among its options, and per_minute above 0")
        self.longest, self.pause, self.prices, self.budget = max(limits), 60.0 / per_minute, prices, budget
        self.file = None if file is None else Path(file)
        self.finished = {
            each.need("request", str): (each.need("reply", str), each.need("cost", int, float))
            for each in (finished(self.file) if self.file is not None else [])
        }
        self.spent = float(sum(cost for _, cost in self.finished.values()))
        self._client, self._next = client, float("-inf")

    def __call__(self, messages: Messages) -> str:
        """The reply to `messages`, each {"role", "content"}.

        Raises VlmlabError when the budget does not suffice, or the endpoint refuses or keeps failing; BadInput without
        a key; MissingDependency without the package.
        """
        request = json.dumps([self.model, self.options, messages], sort_keys=True)
        name = hashlib.sha256(request.encode()).hexdigest()
        if name not in self.finished:
            most = sum(len(message["content"].encode()) + OVERHEAD for message in messages)
            worst = most * self.prices[0] + self.longest * self.prices[1]
            if self.spent + worst > self.budget:
                raise VlmlabError(
                    f"the next request may cost {worst:g}, and {self.spent:g} of the budget of {self.budget:g} are "
                    "spent; raise the budget to go on (finished exchanges are kept)"
                )
            response = self._ask(messages)
            if not response.choices:
                raise VlmlabError(f"the endpoint answered {self.model!r} without a choice; check the model's name")
            reply, used = response.choices[0].message.content or "", response.usage
            tokens = (used.prompt_tokens, used.completion_tokens) if used else (most, self.longest)
            self._keep(name, reply, tokens[0] * self.prices[0] + tokens[1] * self.prices[1])
        return self.finished[name][0]

    def _keep(self, name: str, reply: str, cost: float) -> None:
        self.finished[name] = reply, cost
        self.spent += cost
        if self.file is not None:
            record = {"request": name, "model": self.model, "reply": reply, "cost": cost}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _ask(self, messages: Messages) -> Any:
        """Ask at the allowed pace, and again with longer and longer waits while the failure may pass."""
        self._client = self._client or _client()
        wait, reason = FIRST_WAIT, ""
        for _ in range(TRIES):
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self.pause
            try:
                return self._client.chat.completions.create(model=self.model, messages=messages, **self.options)
            except Exception as error:
                # known by status and name, not by class: the package may be absent, and endpoints differ
                status = getattr(error, "status_code", None)
                reason = self._told(error, status)
                if not _passing(error, status):
                    raise VlmlabError(reason) from None  # its context may quote the key
                self._next = max(self._next, time.monotonic() + max(wait, _asked_to_wait(error)))
                wait = min(2 * wait, LONGEST_WAIT)
        raise VlmlabError(f"gave up after {TRIES} tries: {reason}; finished exchanges are kept, run it again later")

    def _told(self, error: Exception, status: int | None) -> str:
        """An error in one line, without the key."""
        if status in (401, 403):
            return f"the endpoint refused the key (status {status}); check OPENAI_API_KEY and OPENAI_BASE_URL"
        text = " ".join(str(error).split())
        address = os.environ.get("OPENAI_BASE_URL", "")
        for secret in (getattr(self._client, "api_key", ""), os.environ.get("OPENAI_API_KEY"), _password(address)):
            text = text.replace(secret, "***") if secret else text
        return f"the endpoint failed ({type(error).__name__}, status {status}): {text[:200]}"


def _client() -> Any:
    try:
        from openai import OpenAI
    except ImportError:
        raise MissingDependency("openai", "a judge or teacher behind an endpoint") from None
    if not os.environ.get("OPENAI_API_KEY"):
        raise BadInput("OPENAI_API_KEY is not set; export it (any text will do for an endpoint that wants no key)")
    return OpenAI(max_retries=0)  # reads address and key itself; the retries are ours


def _password(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None


def _passing(error: Exception, status: int | None) -> bool:
    """Whether another try may succeed: a rate limit, a server's fault, a broken connection; not an empty account."""
    if getattr(error, "code", None) == "insufficient_quota":
        return False
    broken = isinstance(error, ConnectionError | TimeoutError)
    return status in PASSING or broken or any(kind.__name__ == "APIConnectionError" for kind in type(error).__mro__)


def _asked_to_wait(error: Exception) -> float:
    """Seconds that the endpoint asks to wait; 0 where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return min(float(headers.get("retry-after", 0)), 10 * LONGEST_WAIT)
    except ValueError:
        return 0.0  # a date
