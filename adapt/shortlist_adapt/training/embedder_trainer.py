"""The trainer of embedders: that of sentence-transformers, with the batches, loss and checkpoints of this package.

Importing this module loads torch, transformers and sentence-transformers. One process, one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from shortlist_adapt.errors import AdaptError
from shortlist_adapt.training.adapters import trained_weights
from shortlist_adapt.training.contrastive import Collator, ContrastiveLoss
from shortlist_adapt.training.machine import Machine
from shortlist_adapt.training.settings import EmbedderTraining

_TRAINED = "trained.safetensors"
_ENCODER_RATE, _DECODER_RATE, _ADAPTER_RATE = 5e-5, 1e-5, 2e-4


class EpochBatches:
    """Numbers of the batches of an epoch; the batch sampler of the loader.

    The trainer tells it the epoch, also where it goes on within one.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        first = self._epoch * self._steps
        return iter([[number] for number in range(first, first + self._steps)])

    def __len__(self) -> int:
        return self._steps


class SavesAt(TrainerCallback):
    """Asks for a checkpoint after certain steps, and refuses a loss that is not a number.

    Args:
        steps: counted from 1.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        control.should_save |= state.global_step in self._steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        logged = logs or {}
        if not all(math.isfinite(logged[name]) for name in ("loss", "grad_norm") if name in logged):
            raise AdaptError(
                f"the loss is no longer a number at step {state.global_step}: train with a lower learning rate"
            )


class EmbedderTrainer(SentenceTransformerTrainer):
    """Trains an embedder; each checkpoint is a complete model folder.

    Args:
        arguments: ``SentenceTransformerTrainingArguments``.
        batches: all batches of the training.
        steps: batches of an epoch.
        write: writes the model into a folder.
        adapted: whether only adapters are trained; they are kept beside the model that they are merged into.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        arguments: Any,
        *,
        loss: ContrastiveLoss,
        collate: Collator,
        batches: int,
        steps: int,
        write: Callable[[Path], None],
        adapted: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=range(batches),
            loss=loss,
            data_collator=collate,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        self.processing_class = None  # or the trainer would change special tokens in the model's configuration
        self._steps = steps
        self._write = write
        self._adapted = adapted

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leaves out sentence-transformers' own model card: what is published has one about the whole run."""

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Takes the numbers of the batches as they are; texts are the collator's."""
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See ``Trainer``."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_sampler=EpochBatches(self._steps), collate_fn=self.data_collator
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes the model's folder; adapters also as they are, to go on from."""
        folder = Path(output_dir or self.args.output_dir)
        self._write(folder)
        if self._adapted:
            safetensors.torch.save_file(trained_weights(self.model), folder / _TRAINED)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        """Loads what a checkpoint trained."""
        if self._adapted:
            self.model.load_state_dict(safetensors.torch.load_file(Path(checkpoint_path) / _TRAINED), strict=False)
            return
        arguments = {"dtype": torch.float32}
        saved = SentenceTransformer(checkpoint_path, device="cpu", local_files_only=True, model_kwargs=arguments)
        self.model.load_state_dict(saved.state_dict())


def training_arguments(
    target: Path, settings: EmbedderTraining, machine: Machine, *, decoder: bool, steps: int, seed: int
) -> Any:
    """The arguments of an ``EmbedderTrainer``.

    Args:
        target: the folder of the checkpoints.
        decoder: whether a language model is trained.
        steps: those of the whole training.
    """
    rate = settings.learning_rate
    if rate is None:
        rate = _ADAPTER_RATE if settings.lora.enabled else _DECODER_RATE if decoder else _ENCODER_RATE
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(target),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=1,  # the dataset's items are batches
        learning_rate=rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        seed=seed,
        save_strategy="no",  # ``SavesAt`` asks for checkpoints
        logging_steps=1,  # a mean over several steps would not be the same after a kill between them
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=machine.device == "cpu",
        bf16=machine.precision == "bfloat16",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one batch is not split over several GPUs
    return arguments
