"""Random histories of writes, failing models, reindexes, switches, drops and restarts, against what must be there."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from shortlist_server.domain import Chunking, Deletion, Document, GenerationState, OverflowPolicy
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, ShortlistError
from shortlist_server.pipeline.operations import AckStatus

from .conftest import Bench, Engine

STEPS = 60
IDS = [f"d{i}" for i in range(25)]


class History:
    """What a collection should hold, and random steps that change it."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.texts: dict[str, str] = {}
        self.engines = {"old": bench.old, "new": bench.new}
        bench.create()

    async def write(self) -> None:
        chosen = self.random.sample(IDS, self.random.randint(1, 6))
        documents = [
            Document(id=id, text=" ".join(self.random.choices(["owl", "lynx", "krill", "snow"], k=20)) + f" {id}")
            for id in chosen
        ]
        serving = self.engines[self.bench.collection.config.embedder]
        acks = await self.bench.ingest(*documents)
        for document, ack in zip(documents, acks, strict=True):
            if ack.status is AckStatus.FAILED:
                assert serving.down
            else:
                self.texts[document.id] = document.text

    async def delete(self) -> None:
        id = self.random.choice(IDS)
        await asyncio.wrap_future(self.bench.collection.commit([Deletion(id=id)]))
        self.texts.pop(id, None)

    async def fail(self) -> None:
        engine = self.random.choice(list(self.engines.values()))
        engine.down = not engine.down

    async def begin(self) -> None:
        try:
            number = (
                await self.bench.begin_generation(self.random.choice([16, 128]), self.random.choice(list(self.engines)))
            ).number
        except GenerationNotReady:
            return
        self.bench.reindexer.look("docs")
        assert self.bench.generation(number).state is GenerationState.BUILDING

    async def switch(self) -> None:
        number = self.random.choice([one.number for one in self.bench.collection.generations()])
        try:
            await asyncio.wrap_future(self.bench.collection.switch_generation(number))
        except (GenerationNotFound, GenerationNotReady):
            return
        self.bench.reindexer.look("docs")

    async def drop(self) -> None:
        number = self.random.choice([one.number for one in self.bench.collection.generations()])
        try:
            await self.bench.reindexer.cancel("docs", number)
        except (GenerationNotFound, GenerationNotReady):
            return

    async def restart(self) -> None:
        await self.bench.close()
        self.bench.open()
        await self.bench.reindexer.begin()

    async def pause(self) -> None:
        await asyncio.sleep(self.random.random() * 0.05)

    async def step(self) -> None:
        steps = [self.write] * 8 + [self.pause] * 4 + [self.delete, self.fail, self.begin, self.switch, self.drop]
        if self.random.random() < 0.05:
            steps = [self.restart]
        await self.random.choice(steps)()

    async def settle(self) -> None:
        """Lets every model work and every build end."""
        for engine in self.engines.values():
            engine.down = False
        await self.restart()  # Retries begin anew.
        await self.bench.until(
            lambda: all(
                one.progress.complete
                for one in self.bench.collection.generations()
                if one.state is not GenerationState.DROPPING
            )
        )

    def check(self) -> None:
        """Every live generation has the passages of each document, made by its own model, and nothing else."""
        assert self.bench.collection.count(None) == len(self.texts)
        for generation in self.bench.collection.generations():
            if generation.state is GenerationState.DROPPING:
                continue
            assert generation.problem == ""
            assert generation.progress.failed_documents == 0
            engine = self.engines[generation.config.embedder]
            count = 0
            for id, text in self.texts.items():
                expected = cut_and_embedded(engine, text, generation.config.chunking)
                stored = self.bench.passages(generation.number, id)
                count += len(stored)
                np.testing.assert_allclose(
                    [one.vector for one in stored if one.vector is not None], expected, atol=1e-6
                )
            assert generation.passage_count == count


def cut_and_embedded(engine: Engine, text: str, chunking: Chunking) -> list[np.ndarray]:
    passages = engine.cut("", text, chunking, OverflowPolicy.CHUNK).passages
    return [one.vector for one in engine.embed_passages([one.content for one in passages], token_vectors=False)]


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_history_each_generation_has_every_document(bench: Bench, seed: int) -> None:
    history = History(bench, seed)
    for _ in range(STEPS):
        try:
            await history.step()
        except ShortlistError as error:
            raise AssertionError(f"{type(error).__name__}: {error.message}") from error
    await history.settle()
    history.check()
