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
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from shortlist_adapt.errors import AdaptError
from shortlist_adapt.training.adapters import save_merged, trained_weights, with_adapters
from shortlist_adapt.training.attention import stop_attention_dropout
from shortlist_adapt.training.losses import listwise_cross_entropy, yes_no_likelihood
from shortlist_adapt.training.reranker_batches import Collate, Groups, LengthBatches
from shortlist_adapt.training.reranker_inputs import YesNoPairs
from shortlist_adapt.training.reranker_scorer import Scorer
from shortlist_adapt.training.reranker_setup import RerankerSetup
from shortlist_adapt.training.reranker_start import Family
from shortlist_server.inference import torch_backend

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
            table = scores.new_zeros(present.shape).masked_scatter(present, scores)
            loss = loss + self._listwise * listwise_cross_entropy(table, present)
        if self._yes_no:
            labels = scores.new_zeros(present.shape)
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


def open_trainer(setup: RerankerSetup, target: Path, callbacks: Sequence[TrainerCallback]) -> RerankerTrainer:
    """The trainer of a training, with its model loaded.

    Args:
        target: where checkpoints go.

    Raises:
        ModelNotFound: the weights are damaged.
    """
    settings, family = setup.settings, setup.family
    auto_class = torch_backend.DECODER if family is Family.YES_NO else torch_backend.CLASSIFIER
    model = torch_backend.load_checkpoint(auto_class, setup.folder, device="cpu", dtype="float32")
    stop_attention_dropout(model)
    adapted = None
    if settings.lora.enabled:
        heads = [name for name in ("classifier", "score") if hasattr(model, name)]
        adapted = with_adapters(model, settings.lora, seed=setup.seed, trained=heads)
    if settings.save_memory:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    pad_id = model.config.get_text_config().pad_token_id if family is Family.DECODER else None
    listwise = settings.loss == "listwise" or (settings.loss == "auto" and family is not Family.YES_NO)
    pairs = setup.tokenizer
    return RerankerTrainer(
        Scorer(model, family, (pairs.yes, pairs.no) if isinstance(pairs, YesNoPairs) else None),
        _arguments(setup, target),
        adapted=adapted,
        base=setup.folder,
        groups=setup.groups,
        batches=LengthBatches(
            setup.groups, size=setup.batch_queries, step_size=settings.batch_queries, seed=setup.seed
        ),
        collate=Collate(pairs, pad_id=pad_id, batch_tokens=setup.part_tokens),
        loss=RerankerLoss(listwise=1.0, yes_no=settings.calibration)
        if listwise
        else RerankerLoss(listwise=0.0, yes_no=1.0),
        callbacks=callbacks,
    )


def _arguments(setup: RerankerSetup, target: Path) -> Any:
    """Transformers' ``TrainingArguments``."""
    settings = setup.settings
    save_steps = max(setup.steps_per_epoch // settings.checkpoints_per_epoch, 1)
    arguments = TrainingArguments(
        output_dir=str(target),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=setup.batch_queries,
        gradient_accumulation_steps=settings.batch_queries // setup.batch_queries,
        learning_rate=setup.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * setup.steps),
        lr_scheduler_type="linear",
        # Every loss is the mean since the one before, so none may reach across a checkpoint.
        logging_steps=max(steps for steps in range(1, 11) if save_steps % steps == 0),
        save_strategy="steps",
        save_steps=save_steps,
        seed=setup.seed,
        use_cpu=setup.device == "cpu",
        bf16=setup.device.startswith("cuda") and torch_backend.has_bfloat16(setup.device),
        disable_tqdm=True,
        report_to="none",
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs would split a batch whose parts belong together
    return arguments
