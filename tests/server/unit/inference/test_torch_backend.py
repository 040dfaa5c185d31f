"""Number formats and batches on a GPU, as far as that can be told without one: torch's answers are set by the tests."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from shortlist_server.errors import InvalidArgument
from shortlist_server.inference import torch_backend


@pytest.fixture(params=[True, False], ids=["ampere", "turing"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A GPU that computes in bfloat16, or one that emulates it."""
    supported = bool(request.param)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported or including_emulation
    )
    return supported


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_a_gpu_computes_in_bfloat16_where_it_can_and_else_in_float32(bfloat16: bool, dtype: str, device: str) -> None:
    assert torch_backend.choose_dtype(dtype, device) == ("bfloat16" if bfloat16 else "float32")


def test_the_reason_for_float32_is_told(bfloat16: bool) -> None:
    expected = "" if bfloat16 else "this GPU does not compute in bfloat16"
    assert torch_backend.dtype_note("auto", "cuda") == expected
    assert torch_backend.dtype_note("float32", "cuda") == torch_backend.dtype_note("auto", "cpu") == ""


def test_bfloat16_that_a_gpu_only_emulates_is_refused(bfloat16: bool) -> None:
    with contextlib.nullcontext() if bfloat16 else pytest.raises(InvalidArgument, match="give float32 or auto"):
        assert torch_backend.choose_dtype("bfloat16", "cuda") == "bfloat16"


def test_on_a_cpu_auto_is_float32_and_bfloat16_may_be_asked_for() -> None:
    assert torch_backend.choose_dtype("auto", "cpu") == "float32"
    assert torch_backend.choose_dtype("bfloat16", "cpu") == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "half", ""])
def test_float16_is_never_taken(dtype: str) -> None:
    with pytest.raises(InvalidArgument, match="float32 or bfloat16"):
        torch_backend.choose_dtype(dtype, "cuda")


def test_batches_grow_with_the_memory_of_the_card_within_bounds() -> None:
    sizes = {"width": 4096, "inner": 12288, "item_bytes": 2}
    found = [torch_backend.tokens_in(gib * 2**30, **sizes) for gib in (0, 1, 2, 4, 8, 16, 80)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (2048, 32_768)
    assert 2048 < found[3] < found[4] < 32_768
    token_bytes = (8 * 4096 + 3 * 12288) * 2 + 4 * 4096
    assert found[4] * token_bytes <= 2**31, "more than a quarter of 8 GiB"


def test_the_cards_free_memory_and_the_models_sizes_are_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 80 * 2**30))
    text = SimpleNamespace(hidden_size=4096, intermediate_size=12288)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text), dtype=torch.bfloat16)
    expected = torch_backend.tokens_in(4 * 2**30, width=4096, inner=12288, item_bytes=2)
    assert torch_backend.batch_tokens(model, "cuda") == expected
    assert torch_backend.batch_tokens(model, "cpu") == 0
