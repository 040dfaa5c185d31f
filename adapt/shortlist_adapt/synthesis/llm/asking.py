"""One document, both steps: its configuration, then its query. Screens what comes back.

Answers that are in the cache are not asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.answers import (
    Configuration,
    Malformed,
    configuration_schema,
    query_schema,
    read_configuration,
    read_query,
)
from shortlist_adapt.synthesis.llm.budget import most_tokens
from shortlist_adapt.synthesis.llm.cache import AnswerCache
from shortlist_adapt.synthesis.llm.chat import ChatModel, NotTaken, Request, Unanswered
from shortlist_adapt.synthesis.llm.drawing import Draw, Drawing, number
from shortlist_adapt.synthesis.llm.prompts import Choice, PromptFiles
from shortlist_adapt.synthesis.llm.screening import Reason, objection
from shortlist_adapt.synthesis.llm.settings import DOCUMENT_LANGUAGE, LlmSettings
from shortlist_adapt.synthesis.llm.showing import Shown, show
from shortlist_adapt.synthesis.source import Draft

T = TypeVar("T")

SOURCE = "llm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A query that was not made, or must not be used. ``detail`` is the query, or what went wrong."""

    document_id: str
    reason: Reason
    detail: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of one document.

    Attributes:
        calls: requests that got an answer, from the model or from the cache.
        tokens: of these answers and their prompts.
    """

    document_id: str
    drafts: list[Draft] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    calls: int = 0
    tokens: int = 0

    @property
    def unanswered(self) -> bool:
        """Whether a request got no answer, and may get one another time."""
        return any(rejection.reason is Reason.UNANSWERED for rejection in self.rejections)

    @property
    def not_taken(self) -> bool:
        """Whether a request will never get an answer."""
        return any(rejection.reason is Reason.NOT_TAKEN for rejection in self.rejections)

    def reject(self, reason: Reason, detail: str = "") -> None:
        """Notes that the document has a query less."""
        self.rejections.append(Rejection(document_id=self.document_id, reason=reason, detail=detail))


class Asking:
    """Asks about documents. Keeps nothing between them but the cache."""

    def __init__(
        self, model: ChatModel, cache: AnswerCache, files: PromptFiles, settings: LlmSettings, seed: int
    ) -> None:
        """Takes what all documents share."""
        self._model = model
        self._cache = cache
        self._files = files
        self._settings = settings
        self._seed = seed
        self._drawing = Drawing(files, settings, seed)

    async def ask(self, document: CorpusDocument) -> Outcome:
        """The queries of a document.

        Raises:
            EndpointRefused: no request will be answered.
        """
        outcome = Outcome(document_id=document.id)
        for index in range(self._settings.per_document):
            shown = show(document, index, self._settings.max_document_characters, self._seed)
            if not any(character.isalpha() for character in shown.text):
                outcome.reject(Reason.NO_TEXT)
                break
            try:
                await self._ask_once(outcome, document, index, shown)
            except Malformed as error:
                outcome.reject(Reason.MALFORMED, str(error))
            except Unanswered as error:
                outcome.reject(Reason.NOT_TAKEN if isinstance(error, NotTaken) else Reason.UNANSWERED, str(error))
                break
        return outcome

    def most_tokens(self, document: CorpusDocument) -> int:
        """What the document can cost: each request with the longest answer, asked as often as the settings allow."""
        shown = show(document, 0, self._settings.max_document_characters, self._seed)
        draw = self._drawing.draw(document, 0)
        first = self._configuration_request(document, 0, shown, draw, 0)
        # Half as much again, because another part of the document and other people may take more bytes.
        prompts = 2 * most_tokens(first.bytes() * 3 // 2)
        once = prompts + 2 * self._settings.max_answer_tokens
        return once * self._settings.attempts * self._settings.per_document

    async def _ask_once(self, outcome: Outcome, document: CorpusDocument, index: int, shown: Shown) -> None:
        draw = self._drawing.draw(document, index)
        levels = self._files.levels
        chosen = await self._answered(
            outcome,
            lambda attempt: self._configuration_request(document, index, shown, draw, attempt),
            lambda text: read_configuration(text, draw, levels),
        )
        if chosen.gives_orders:
            outcome.reject(Reason.INSTRUCTED, "the model says that the document gives orders")
            return
        system, user = self._files.query.fill(_query_values(shown, draw, chosen))
        query = await self._answered(
            outcome,
            lambda attempt: self._request("query", document, index, attempt, system, user, query_schema()),
            read_query,
        )
        reason = objection(query, shown, system, draw.words[1])
        if reason is None and any(query.casefold() == draft.text.casefold() for draft in outcome.drafts):
            reason = Reason.REPEATED
        if reason is not None:
            outcome.reject(reason, query)
            return
        outcome.drafts.append(
            Draft(
                text=query,
                source=SOURCE,
                positives={document.id: 1},
                kind=chosen.type.name,
                language="" if draw.language == DOCUMENT_LANGUAGE else draw.language,
                provenance=self._provenance(draw, chosen),
            )
        )

    async def _answered(self, outcome: Outcome, asked: Callable[[int], Request], read: Callable[[str], T]) -> T:
        """The answer in its form, asked for under another seed while it has another one."""
        last = self._settings.attempts - 1
        for attempt in range(last + 1):
            request = asked(attempt)
            key = request.key(self._model.name)
            answer = self._cache.get(key)
            if answer is None:
                answer = await self._model.answer(request)
                self._cache.put(key, answer)
            outcome.calls += 1
            outcome.tokens += answer.tokens
            try:
                return read(answer.text)
            except Malformed as error:
                if attempt == last:
                    cut = "" if answer.complete else f"cut off at {request.max_tokens} tokens: "
                    raise Malformed(f"{cut}{error}") from None
        raise AssertionError("attempts are at least one")

    def _configuration_request(
        self, document: CorpusDocument, index: int, shown: Shown, draw: Draw, attempt: int
    ) -> Request:
        values = {
            "document": shown.block,
            "characters": _lines(draw.characters),
            "types": _lines(draw.types),
            "levels": _lines(self._files.levels),
            "words": _words(draw),
        }
        system, user = self._files.configuration.fill(values)
        schema = configuration_schema(draw, self._files.levels)
        return self._request("configuration", document, index, attempt, system, user, schema)

    def _request(
        self,
        step: str,
        document: CorpusDocument,
        index: int,
        attempt: int,
        system: str,
        user: str,
        schema: Mapping[str, object],
    ) -> Request:
        return Request(
            system=system,
            user=user,
            schema=schema,
            max_tokens=self._settings.max_answer_tokens,
            temperature=self._settings.temperature,
            seed=number(self._seed, step, document.id, index, attempt),
        )

    def _provenance(self, draw: Draw, chosen: Configuration) -> Mapping[str, str]:
        return {
            "model": self._model.name,
            "configuration_prompt": f"configuration.txt@{self._files.configuration.hash}",
            "query_prompt": f"query.txt@{self._files.query.hash}",
            "seed": str(self._seed),
            "character": chosen.character.name,
            "difficulty": chosen.level.name,
            "words": f"{draw.words[0]}-{draw.words[1]}",
        }


def _query_values(shown: Shown, draw: Draw, chosen: Configuration) -> Mapping[str, str]:
    return {
        "document": shown.block,
        "character": chosen.character.line(),
        "type": chosen.type.line(),
        "level": chosen.level.line(),
        "language": (
            "the language of the document"
            if draw.language == DOCUMENT_LANGUAGE
            else f"the language with the ISO 639-1 code {draw.language!r}"
        ),
        "words": _words(draw),
    }


def _words(draw: Draw) -> str:
    return f"{draw.words[0]} to {draw.words[1]}"


def _lines(choices: tuple[Choice, ...]) -> str:
    return "\n".join(f"- {choice.line()}" for choice in choices)
