"""The trainer of rerankers: that of transformers, with the pairs, losses and checkpoints of this package.

Importing this module loads torch and transformers. One process, one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from shortlist_adapt.errors import AdaptError
from shortlist_adapt.training.adapters import save_merged, trained_weights
from shortlist_adapt.training.losses import listwise_cross_entropy, yes_no_likelihood
from shortlist_adapt.training.reranker_batches import Collate, Groups, LengthBatches
from shortlist_adapt.training.reranker_scorer import Scorer

_TRAINED = "trained.safetensors"


class RerankerLoss:
    """The loss of a batch of queries.

    Args:
        listwise: weight of the listwise cross-entropy.
        yes_no: weight of the likelihood of the right answer.
    """

    def __init__(self, *, listwise: float, yes_no: float) -> None:
        self._listwise = listwise
        self._yes_no = yes_no

    def __call__(self, scores: Tensor, present: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            scores: shape (pairs,): raw scores, group by group, the positive of each group first.
            present: shape (groups, passages), bool: which passages each group has.
        """
        loss = torch.zeros((), device=scores.device)
        if self._listwise:
            table = torch.zeros(present.shape, device=scores.device).masked_scatter(present, scores)
            loss = loss + self._listwise * listwise_cross_entropy(table, present)
        if self._yes_no:
            labels = torch.zeros(present.shape, device=scores.device)
            labels[:, 0] = 1.0
            loss = loss + self._yes_no * yes_no_likelihood(scores, labels[present])
        return loss


class RerankerTrainer(Trainer):
    """Trains a ``Scorer``; each checkpoint is a complete model folder.

    Args:
        scorer: what is trained.
        adapted: the ``PeftModel`` around its model; None where all weights are trained.
        base: the folder whose tokenizer files go into every checkpoint.
        arguments: transformers' ``TrainingArguments``.
    """

    def __init__(
        self,
        scorer: Scorer,
        arguments: Any,
        *,
        adapted: Any | None,
        base: Path,
        groups: Groups,
        batches: LengthBatches,
        collate: Collate,
        loss: RerankerLoss,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(
            model=scorer,
            args=arguments,
            train_dataset=groups,
            data_collator=collate,
            callbacks=[_SetsEpoch(batches), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self._adapted = adapted
        self._base = base
        self._batches = batches
        self._loss = loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See ``Trainer``."""
        return DataLoader(self.train_dataset, batch_sampler=self._batches, collate_fn=self.data_collator)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See ``Trainer``."""
        scores = torch.cat([model(**part) for part in inputs["parts"]])[inputs["order"]]
        loss = self._loss(scores, inputs["present"])
        if not loss.isfinite():
            raise AdaptError(
                f"the loss is no longer a number at step {self.state.global_step}: train with a lower learning rate"
            )
        return (loss, {}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes the model's folder; adapters are merged into it, and also kept as they are to go on from."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self._adapted is None:
            self.model.model.save_pretrained(folder)
        else:
            save_merged(self._adapted, folder)
            safetensors.torch.save_file(trained_weights(self.model), folder / _TRAINED)
        for path in self._base.iterdir():
            if path.suffix in {".json", ".jinja", ".txt"} and not (folder / path.name).exists():
                (folder / path.name).write_bytes(path.read_bytes())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Loads what a checkpoint trained."""
        folder = Path(resume_from_checkpoint)
        scorer = model or self.model
        if self._adapted is not None:
            scorer.load_state_dict(safetensors.torch.load_file(folder / _TRAINED), strict=False)
            return
        saved = type(scorer.model).from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        scorer.model.load_state_dict(saved.state_dict())


class _SetsEpoch(TrainerCallback):
    """Tells the batches which epoch begins, also where a training goes on within one."""

    def __init__(self, batches: LengthBatches) -> None:
        self._batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        self._batches.epoch = int(state.epoch or 0)
