"""An LLM behind an OpenAI-compatible endpoint.

The ``openai`` library sends requests and repeats them after 408, 409, 429, 5xx, broken connections and late answers,
with growing pauses, or those that the server asks for. Servers differ in the optional fields that they know, so a
field that one refuses is left out from then on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.synthesis.llm.budget import estimated_tokens
from shortlist_adapt.synthesis.llm.chat import Answer, EndpointRefused, NotTaken, Request, Unanswered
from shortlist_adapt.synthesis.llm.settings import LlmSettings, extra_fields

NO_KEY = "none"
"""What an endpoint without keys gets, because the library would take a key from the environment otherwise."""

MAX_PAUSE_SECONDS = 60.0
"""The longest pause that a server may ask for; the library ignores longer ones."""

OPTIONAL = ("seed", "temperature", "max_tokens")
"""Fields that a server may refuse, besides the schema."""

UNKNOWN_FIELD = re.compile(r"support|unknown|unexpected|unrecogni[sz]ed|permitted|allowed|extra|only the default")

MAX_MESSAGE = 300


class Endpoint:
    """Asks an endpoint. To be made and closed inside one event loop."""

    def __init__(self, settings: LlmSettings) -> None:
        """Opens no connection yet.

        Raises:
            InvalidInput: the URL or the key cannot be used.
        """
        import openai

        self._settings = settings
        self._key = read_key(settings)
        self._extra = dict(extra_fields(settings))
        self._refused: set[str] = set()
        # Organization and project would come from the environment; they are those of another service's account.
        unset: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        self._client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY,
            base_url=checked_url(settings.url),
            timeout=settings.timeout_seconds,
            max_retries=settings.retries,
            default_headers=unset,
        )

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._settings.model

    @property
    def parallel(self) -> int:
        """As the settings say."""
        return self._settings.concurrency

    async def answer(self, request: Request) -> Answer:
        """See ``ChatModel``."""
        while True:
            fields = self._fields(request)
            try:
                return self._read(request, await self._send(fields))
            except _FieldRefused as refusal:
                self._refused.add(refusal.field)

    async def close(self) -> None:
        """Closes connections."""
        await self._client.close()

    def _fields(self, request: Request) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
            },
        }
        kept = {name: value for name, value in fields.items() if name not in self._refused}
        if "max_tokens" in self._refused:
            kept["max_completion_tokens"] = request.max_tokens
        return kept

    async def _send(self, fields: dict[str, Any]) -> Any:
        import openai

        attempts = self._settings.retries + 1
        # A server that sends blanks to keep the connection would otherwise hold a request for ever.
        longest = attempts * self._settings.timeout_seconds + self._settings.retries * MAX_PAUSE_SECONDS
        try:
            async with asyncio.timeout(longest):
                return await self._client.chat.completions.create(**fields, extra_body=self._extra or None)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            problem = "refuses the key" if self._key else "wants a key (--llm-key-file or --llm-key-variable)"
            raise EndpointRefused(f"{self._where()} {problem}: {self._message(error)}") from None
        except openai.NotFoundError as error:
            raise EndpointRefused(
                f"{self._where()} has no model {self._settings.model!r}, or no chat completions: {self._message(error)}"
            ) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if field := _field_to_drop(error, fields):
                raise _FieldRefused(field) from None
            raise NotTaken(f"{self._where()} refuses the request: {self._message(error)}") from None
        except (openai.APITimeoutError, TimeoutError):
            raise Unanswered(f"{self._where()} did not answer in {self._settings.timeout_seconds:g} seconds") from None
        except openai.APIStatusError as error:
            raise Unanswered(f"{self._where()} answers {error.status_code}: {self._message(error)}") from None
        except openai.APIConnectionError as error:
            raise Unanswered(f"{self._where()} cannot be reached: {self._message(error.__cause__ or error)}") from None
        except (openai.OpenAIError, ValueError) as error:
            raise Unanswered(f"{self._where()} does not answer in JSON: {self._message(error)}") from None

    def _read(self, request: Request, response: Any) -> Answer:
        # The library checks nothing of what it reads: a wrong server may send any JSON, or a page of HTML as a text.
        try:
            (choice, *_) = response.choices
            text, reason = choice.message.content, choice.finish_reason
        except (AttributeError, TypeError, ValueError):
            raise Unanswered(f"{self._where()} does not answer like an OpenAI-compatible endpoint") from None
        if text is not None and not isinstance(text, str):
            raise Unanswered(f"{self._where()} answers with a message that is no text")
        text = text or ""
        usage = getattr(response, "usage", None)
        return Answer(
            text=text,
            prompt_tokens=_count(usage, "prompt_tokens", request.bytes()),
            answer_tokens=_count(usage, "completion_tokens", len(text.encode("utf-8", errors="replace"))),
            complete=reason != "length",
        )

    def _where(self) -> str:
        parts = urlsplit(self._settings.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def _message(self, error: BaseException) -> str:
        """The error's text in one line, never with the key."""
        text = " ".join(_said(error).split())
        if self._key:
            text = text.replace(self._key, "[key]")
        return text[:MAX_MESSAGE] or type(error).__name__


class _FieldRefused(Exception):
    """The server does not take an optional field."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def read_key(settings: LlmSettings) -> str:
    """The key of the endpoint; "" without.

    Raises:
        InvalidInput: the file or the variable that is named has none.
    """
    if settings.key_file is not None:
        try:
            key = settings.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the key file {settings.key_file} cannot be read: {error}") from error
        source = f"the key file {settings.key_file}"
    elif settings.key_variable:
        key, source = os.environ.get(settings.key_variable, "").strip(), f"the variable {settings.key_variable}"
    else:
        return ""
    # Without this, the message of the HTTP library would show the key.
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise InvalidInput(f"{source} has no key: one line of printable ASCII characters is expected")
    return key


def checked_url(url: str) -> str:
    """The URL, if it can be one of an endpoint. Raises ``InvalidInput``."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput(f"{url!r} is not a URL such as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise InvalidInput("the URL of the LLM holds a password; give the key by --llm-key-file or --llm-key-variable")
    return url


def sends_key_in_the_clear(settings: LlmSettings) -> bool:
    """Whether a key would cross a network without encryption."""
    parts = urlsplit(settings.url)
    if parts.scheme != "http" or not (settings.key_file or settings.key_variable):
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"


def _field_to_drop(error: Any, fields: Mapping[str, Any]) -> str | None:
    """The optional field that the server does not take; None if it refuses for another cause, such as a long prompt."""
    text = f"{error.param or ''} {_said(error)}".lower()
    if "response_format" in fields and re.search(r"response_format|schema|grammar|guided|structured", text):
        return "response_format"
    if "max_tokens" in fields and "max_completion_tokens" in text:
        return "max_tokens"
    if not UNKNOWN_FIELD.search(text):
        return None
    return next((name for name in OPTIONAL if name in fields and re.search(rf"\b{name}\b", text)), None)


def _said(error: BaseException) -> str:
    """What the server said of an error: OpenAI's ``message``, FastAPI's ``detail``, or whatever it sent."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return str(body or error)


def _count(usage: Any, name: str, size: int) -> int:
    """What the server counted; an estimate where it did not."""
    count = getattr(usage, name, None)
    return count if isinstance(count, int) and count > 0 else estimated_tokens(size)
