"""A causal language model that runs on this machine, through transformers.

Requests are answered one by one, each under its own seed, so that an answer never depends on what else is asked.
For many documents, serve the model instead (vLLM, llama.cpp, ``transformers serve``) and give its URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.synthesis.llm.chat import Answer, NotTaken, Request, Unanswered
from shortlist_adapt.synthesis.llm.settings import LlmSettings, extra_fields

IDENTITY_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
MAX_MESSAGE = 300


class LocalModel:
    """Asks a checkpoint."""

    def __init__(self, settings: LlmSettings) -> None:
        """Loads the model: on a GPU in bfloat16 where there is one, else on the CPU in float32.

        Raises:
            InvalidInput: the folder is no causal language model in safetensors, or its tokenizer has no chat template.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        folder = Path(settings.model)
        if not (folder / "config.json").is_file():
            raise InvalidInput(f"{folder} is not the folder of a model; to ask a server, give its URL too")
        self._name = local_name(folder)
        logging.disable_progress_bar()  # it would break the step's own progress
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.bfloat16 if device == "cuda" else torch.float32,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise InvalidInput(f"{folder} is not a causal language model: {_line(error)}") from error
        if not self._tokenizer.chat_template:
            raise InvalidInput(f"{folder} has no chat template; take a model that is tuned to follow instructions")
        self._model.to(device).eval()
        self._template = dict(extra_fields(settings).get("chat_template_kwargs") or {})
        self._special = _special_tokens(self._tokenizer)
        self._one_at_a_time = asyncio.Lock()

    @property
    def name(self) -> str:
        """The folder's name, and digits that change with its files."""
        return self._name

    @property
    def parallel(self) -> int:
        """One."""
        return 1

    async def answer(self, request: Request) -> Answer:
        """See ``ChatModel``."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._answer, request)

    async def close(self) -> None:
        """Nothing to end."""

    def _answer(self, request: Request) -> Answer:
        import torch

        rendered = self._rendered(request)
        inputs = self._tokenizer(rendered, return_tensors="pt", add_special_tokens=False).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        window = getattr(self._model.config, "max_position_embeddings", None)
        if window and length + request.max_tokens > window:
            raise NotTaken(f"the prompt of {length} tokens and the answer exceed the model's {window}")
        # None takes out what the checkpoint presets for sampling, which is not wanted without it.
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": request.temperature}
            if request.temperature
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(request.seed)
                output = self._model.generate(
                    **inputs, max_new_tokens=request.max_tokens, pad_token_id=self._padding(), **sampling
                )
        except RuntimeError as error:
            raise Unanswered(f"the model failed: {_line(error)}") from error
        written = output[0, length:]
        return Answer(
            text=self._tokenizer.decode(written, skip_special_tokens=True),
            prompt_tokens=length,
            answer_tokens=len(written),
            complete=len(written) < request.max_tokens,
        )

    def _rendered(self, request: Request) -> str:
        """The chat as one text. Special tokens inside the messages are broken up: only the template may set them."""
        from jinja2 import TemplateError

        system, user = (
            self._special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)
            for text in (request.system, request.user)
        )
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return self._render(messages)
        except TemplateError:
            # Some templates know no system message.
            return self._render([{"role": "user", "content": f"{system}\n\n{user}"}])

    def _render(self, messages: Sequence[dict[str, str]]) -> str:
        rendered = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._template
        )
        return str(rendered)

    def _padding(self) -> int | None:
        padding: int | None = self._tokenizer.pad_token_id
        ending: int | None = self._tokenizer.eos_token_id
        return ending if padding is None else padding


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds the tokenizer's special tokens in a text; those of one character cannot be broken up."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    longest_first = sorted((re.escape(token) for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(longest_first) or r"(?!)")


def local_name(folder: Path) -> str:
    """The folder's name and eight digits of a hash of its files: answers of other weights are never taken for its.

    Reads all of the weights.
    """
    digest = hashlib.sha256()
    for path in [*(folder / name for name in IDENTITY_FILES), *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{folder.resolve().name}@{digest.hexdigest()[:8]}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__
