"""The source "llm": asks about the chosen documents, many at a time, and gives the queries in the documents' order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path

from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import BudgetSpent, InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.asking import SOURCE, Asking, Outcome
from shortlist_adapt.synthesis.llm.budget import TokenBudget, estimated_tokens
from shortlist_adapt.synthesis.llm.cache import AnswerCache
from shortlist_adapt.synthesis.llm.chat import ChatModel, Nobody
from shortlist_adapt.synthesis.llm.drawing import sample, shuffled
from shortlist_adapt.synthesis.llm.endpoint import Endpoint, checked_url, read_key, sends_key_in_the_clear
from shortlist_adapt.synthesis.llm.local import LocalModel, local_name
from shortlist_adapt.synthesis.llm.patience import Patience
from shortlist_adapt.synthesis.llm.prompts import read_prompts
from shortlist_adapt.synthesis.llm.settings import LlmSettings, check
from shortlist_adapt.synthesis.source import Draft, QuerySource

AHEAD = 4
"""Documents that wait for a place, as a multiple of those asked about: a slow answer does not hold the others up."""

PROMPT_BYTES = 3_000
"""What both prompts hold besides the document."""

ANSWER_TOKENS = 60
"""What the two answers for a query likely have together."""

SECONDS_PER_CALL = 2.0
"""Of an endpoint, for an answer as short as ours. A model on this machine without a GPU takes far longer."""

LOCAL_SECONDS_PER_TOKEN = 0.02
"""Of a small model on a few CPU cores."""


def llm_source(settings: LlmSettings, folder: RunFolder, *, seed: int) -> QuerySource:
    """The source. Reads prompts and key now, so that what is wrong with them shows before any work.

    Raises:
        InvalidInput: the settings, the prompt files, the URL or the key cannot be used.
    """
    return LlmSource(settings, folder.cache / "llm", seed=seed)


class LlmSource:
    """See ``QuerySource``. One use at a time."""

    def __init__(self, settings: LlmSettings, folder: Path, *, seed: int) -> None:
        """``folder`` keeps the answers and the list of rejections. Raises ``InvalidInput``."""
        check(settings)
        self._files = read_prompts(settings.prompts, settings.types)
        if settings.url:
            checked_url(settings.url)
            read_key(settings)
        elif not Path(settings.model).is_dir():
            raise InvalidInput(f"{settings.model} is not the folder of a model; to ask a server, give its URL too")
        self._settings = settings
        self._folder = folder
        self._seed = seed
        self._counts: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """As in ``TrainingQuery.source``."""
        return SOURCE

    def cost(self, documents: Sequence[CorpusDocument]) -> Cost:
        """See ``QuerySource``. Reads what the cache has already."""
        chosen = sample(documents, self._settings.documents, self._seed)
        limit, each = self._settings.max_document_characters, self._settings.per_document
        answered = asyncio.run(self._answered(chosen))
        calls, tokens = 0, 0.0
        for document, outcome in zip(chosen, answered, strict=True):
            if outcome is not None and not outcome.unanswered:
                continue
            size = len(f"{document.title}{document.text[:limit]}".encode("utf-8", "replace"))
            left = max(1, 2 * each - (outcome.calls if outcome else 0))
            calls += left
            tokens += left / 2 * (estimated_tokens(2 * size + PROMPT_BYTES) + ANSWER_TOKENS)
        if self._settings.budget_tokens:
            spent = sum(outcome.tokens for outcome in answered if outcome)
            affordable = min(1.0, max(0, self._settings.budget_tokens - spent) / tokens) if tokens else 0.0
            calls, tokens = round(calls * affordable), tokens * affordable
        local = not self._settings.url
        seconds = tokens * LOCAL_SECONDS_PER_TOKEN if local else calls * SECONDS_PER_CALL / self._settings.concurrency
        return Cost(seconds=seconds, llm_calls=calls, llm_tokens=round(tokens))

    async def _answered(self, documents: Sequence[CorpusDocument]) -> list[Outcome | None]:
        """What the cache alone makes of the documents; None for all without a cache."""
        path = self._folder / "answers.jsonl"
        if not path.exists():
            return [None for _ in documents]
        name = self._settings.model if self._settings.url else local_name(Path(self._settings.model))
        cache = AnswerCache(path)
        try:
            asking = Asking(Nobody(name), cache, self._files, self._settings, self._seed)
            return [await asking.ask(document) for document in documents]
        finally:
            cache.close()

    def drafts(self, documents: Sequence[CorpusDocument], progress: Progress) -> Iterator[Draft]:
        """See ``QuerySource``.

        All answers are in the cache when the first draft comes, because they are collected by an event loop of
        their own. Must not be called inside another one.

        Raises:
            BudgetSpent: the budget does not suffice for a single document.
            EndpointRefused, EndpointFailed: see there.
            InvalidInput: the model cannot be loaded, or another process uses the cache.
        """
        chosen = sample(documents, self._settings.documents, self._seed)
        if sends_key_in_the_clear(self._settings):
            progress.say(f"warning: the key of the LLM goes to {self._settings.url} without encryption")
        self._counts = Counter()
        # In an order of chance, so that the budget does not end after the oldest documents.
        outcomes = asyncio.run(self._collect(shuffled(chosen, self._seed), progress))
        drafts = {outcome.document_id: outcome.drafts for outcome in outcomes}
        for document in chosen:
            yield from drafts.get(document.id, ())

    def figures(self) -> Mapping[str, int]:
        """See ``QuerySource``."""
        return dict(self._counts)

    async def _collect(self, documents: Sequence[CorpusDocument], progress: Progress) -> list[Outcome]:
        cache = AnswerCache(self._folder / "answers.jsonl")
        try:
            model: ChatModel = Endpoint(self._settings) if self._settings.url else LocalModel(self._settings)
            try:
                return await self._ask_all(documents, model, cache, progress)
            finally:
                await model.close()
        finally:
            cache.close()

    async def _ask_all(
        self, documents: Sequence[CorpusDocument], model: ChatModel, cache: AnswerCache, progress: Progress
    ) -> list[Outcome]:
        progress.begin(f"asking {model.name}", total=len(documents), unit="documents")
        asking = Asking(model, cache, self._files, self._settings, self._seed)
        outcomes: list[Outcome] = []
        patience = Patience()
        async with contextlib.aclosing(self._in_order(documents, model.parallel, asking, progress)) as coming:
            async for outcome in coming:
                outcomes.append(outcome)
                self._count(outcome)
                progress.advance(note=f"{self._counts['tokens']:,} tokens")
                patience.note(outcome)
        patience.end()
        _write_rejections(self._folder / "rejected.jsonl", outcomes)
        return outcomes

    async def _in_order(
        self, documents: Sequence[CorpusDocument], parallel: int, asking: Asking, progress: Progress
    ) -> AsyncGenerator[Outcome, None]:
        """Asks about several documents at a time; gives outcomes in the documents' order."""
        budget = TokenBudget(self._settings.budget_tokens)
        places = asyncio.Semaphore(parallel)

        async def one(document: CorpusDocument, most: int) -> Outcome:
            async with places:
                outcome = await asking.ask(document)
            budget.settle(most, outcome.tokens)
            return outcome

        pending: deque[asyncio.Task[Outcome]] = deque()
        try:
            for place, document in enumerate(documents):
                most = asking.most_tokens(document) if budget.limit else 0
                while pending and (len(pending) >= AHEAD * parallel or not budget.fits(most)):
                    yield await pending.popleft()
                if not budget.fits(most):
                    self._end_of_budget(place, len(documents), most, progress)
                    break
                budget.reserve(most)
                pending.append(asyncio.create_task(one(document, most)))
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _end_of_budget(self, done: int, total: int, most: int, progress: Progress) -> None:
        limit = self._settings.budget_tokens
        if not done:
            raise BudgetSpent(f"the budget of {limit:,} tokens is too small: one document may take {most:,}")
        progress.say(f"the budget of {limit:,} tokens ends after {done:,} of {total:,} documents")
        self._counts["documents beyond the budget"] = total - done

    def _count(self, outcome: Outcome) -> None:
        self._counts["documents"] += 1
        self._counts["queries"] += len(outcome.drafts)
        self._counts["calls"] += outcome.calls
        self._counts["tokens"] += outcome.tokens
        for rejection in outcome.rejections:
            self._counts[f"rejected: {rejection.reason.value}"] += 1


def _write_rejections(path: Path, outcomes: Sequence[Outcome]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors="replace") as file:
        for outcome in outcomes:
            for rejection in outcome.rejections:
                file.write(json.dumps(dataclasses.asdict(rejection), ensure_ascii=False) + "\n")
    partial.replace(path)
