"""Hugging Face's Trainer: one line, `sheepfold.hf.attach(trainer, ...)`, makes it a worker of a job.

A small BERT learns to fill in the missing number of a row that counts up in steps of one to four.

    pip install 'sheepfold[hf]'
    SHEEPFOLD=local: python client/examples/hf_trainer.py
"""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded here

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

import sheepfold.hf

SAMPLES, LENGTH, NUMBERS, MASK = 2_048, 12, 16, 16
JOB = {
    "name": "hf-trainer",
    "batch": {"samples": 64, "slot_samples": 32, "weight": "tokens"},
    "data": {"samples": SAMPLES, "seed": 1},
    "optimizer": {"lr": {"peak": 0.04, "schedule": "poly", "warmup_steps": 10}, "clip_norm": 1.0},
    "stop": {"steps": 100},
}


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows such as 3 5 7 9, counted modulo 16; one or two places are masked, and only they are labelled."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(index)
        start, stride = torch.randint(1, 5, (2,), generator=draw)
        row = (start + stride * torch.arange(LENGTH)) % NUMBERS
        hidden = torch.zeros(LENGTH, dtype=torch.bool)
        hidden[torch.randint(0, LENGTH, (2,), generator=draw)] = True
        return {"input_ids": row.masked_fill(hidden, MASK), "labels": row.masked_fill(~hidden, -100)}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(2)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=MASK + 1, max_position_embeddings=LENGTH, pad_token_id=None, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=5e-4,
            logging_steps=20,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
        )
        trainer = Trainer(model=BertForMaskedLM(config), args=args, train_dataset=Rows())
        optimizer = sheepfold.hf.attach(trainer, config=JOB)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"version {optimizer.run.version}: loss {losses[-1] if losses else float('nan'):.4f}")


if __name__ == "__main__":
    main()
