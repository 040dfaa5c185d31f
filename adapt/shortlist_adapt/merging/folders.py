"""Merges model folders file by file and tensor by tensor. Importing this module loads torch and safetensors.

A recipe says which folders are merged and how. Memory: the largest weight file once, and a few copies of its largest
tensor.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.training.checkpoints import copy_model

Merge = Callable[[Sequence[Tensor]], Tensor]
"""Merges the tensors of one name, in the order of the folders."""


def merge_folders(folders: Sequence[Path], target: Path, merge: Merge, *, like: Path | None = None) -> None:
    """Writes a model whose tensors are merged from those of several folders; other files come from the last folder.

    Tensors of whole numbers are copied from the last folder.

    Args:
        target: replaced if it exists. A kill leaves the former one, or none.
        like: a folder whose number format each tensor gets where it has the tensor; None to keep the last folder's.

    Raises:
        InvalidInput: the folders do not hold the same tensors.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    copy_model(folders[-1], partial)
    for path in sorted(partial.rglob("*.safetensors")):
        name = path.relative_to(partial)
        _merge_file([folder / name for folder in folders], path, merge, like and like / name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _merge_file(sources: Sequence[Path], target: Path, merge: Merge, like: Path | None) -> None:
    merged = {}
    with contextlib.ExitStack() as stack:
        files = [_open(path, stack) for path in sources]
        formats = _open(like, stack) if like is not None and like.is_file() else None
        names = list(files[-1].keys())
        for path, file in zip(sources, files, strict=True):
            if set(file.keys()) != set(names):
                odd = sorted(set(file.keys()) ^ set(names))[0]
                raise InvalidInput(f"{path} cannot be merged with {sources[-1]}: only one of them has {odd!r}")
        known = set(formats.keys()) if formats is not None else set()
        for name in names:
            tensors = [file.get_tensor(name) for file in files]
            if len({tensor.shape for tensor in tensors}) > 1:
                raise InvalidInput(f"{sources[-1]} cannot be merged: {name!r} has another shape than in {sources[0]}")
            last = tensors[-1]
            dtype = formats.get_tensor(name).dtype if formats is not None and name in known else last.dtype
            merged[name] = merge(tensors).to(dtype).contiguous() if last.is_floating_point() else last
        metadata = files[-1].metadata() or {}
    safetensors.torch.save_file(merged, target, metadata=metadata)


def _open(path: Path, stack: contextlib.ExitStack) -> Any:
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: its model cannot be merged with the others")
    return stack.enter_context(safe_open(path, framework="pt"))
