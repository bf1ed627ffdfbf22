"""The demo's data set (reader, packaged subset, order of places, damage told plainly) and its model."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sheepfold.demo import data
from sheepfold.demo.lenet import lenet5

PACKAGED_FINGERPRINT = "7e974b2bcce5bbf4813f03498fcc1759"  # as in client/sheepfold/demo/data/README.md
NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write_data_set(folder: Path, count: int = 3, compress_level: int = 9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8).reshape(count, 28, 28)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for name, array in zip(NAMES, (pixels, labels, pixels[:1], labels[:1]), strict=True):
        (folder / name).write_bytes(gzip.compress(idx(array), compress_level))
    return folder


@pytest.fixture(scope="module")
def packaged() -> data.DataSet:
    return data.load(data.PACKAGED_DIR, environ={})


@pytest.fixture
def no_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DEBIAN_DIR", tmp_path / "not-installed")


def test_packaged_subset_has_the_same_number_of_images_of_every_class(packaged: data.DataSet) -> None:
    assert np.bincount(packaged.train.labels).tolist() == [1000] * 10
    assert np.bincount(packaged.test.labels).tolist() == [200] * 10


def test_packaged_subset_is_the_documented_one(packaged: data.DataSet) -> None:
    """Other images would change the trajectory of every run that the documentation quotes."""
    assert packaged.fingerprint == PACKAGED_FINGERPRINT
    assert PACKAGED_FINGERPRINT in (data.PACKAGED_DIR / "README.md").read_text()


def test_images_are_normalised_fp32_and_labels_int64(packaged: data.DataSet) -> None:
    for split, count in ((packaged.train, 10_000), (packaged.test, 2_000)):
        assert split.images.shape == (count, 1, 28, 28)
        assert split.labels.shape == (count,)
        assert (split.images.dtype.name, split.labels.dtype.name) == ("float32", "int64")
    assert abs(float(packaged.train.images.mean())) < 0.01
    assert abs(float(packaged.train.images.std()) - 1) < 0.01


def test_no_training_image_is_a_test_image(packaged: data.DataSet) -> None:
    trained = {image.tobytes() for image in packaged.train.images}
    assert sum(image.tobytes() in trained for image in packaged.test.images) == 0


def test_pixels_keep_their_place_and_scale(tmp_path: Path) -> None:
    images = data.load(write_data_set(tmp_path)).train.images
    for pixel in (0, 1, 255):
        expected = (pixel / 255 - data.PIXEL_MEAN) / data.PIXEL_STD
        assert images[0, 0].flat[pixel] == pytest.approx(expected, abs=1e-6)


def test_fingerprint_is_of_the_content_not_of_the_packing(tmp_path: Path) -> None:
    first = data.load(write_data_set(tmp_path / "a", compress_level=9))
    again = data.load(write_data_set(tmp_path / "b", compress_level=1))
    other = data.load(write_data_set(tmp_path / "c", count=4))
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.usefixtures("no_debian")
def test_packaged_subset_is_read_where_nothing_else_is_there() -> None:
    assert data.load(environ={}).fingerprint == PACKAGED_FINGERPRINT


def test_named_folder_goes_before_environment_before_debian_before_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = write_data_set(tmp_path / "debian", count=3)
    environ = {"SHEEPFOLD_DATA": str(write_data_set(tmp_path / "environ", count=4))}
    named = write_data_set(tmp_path / "named", count=5)
    monkeypatch.setattr(data, "DEBIAN_DIR", debian)
    assert len(data.load(named, environ).train) == 5
    assert len(data.load(None, environ).train) == 4
    assert len(data.load(None, {}).train) == 3
    monkeypatch.setattr(data, "DEBIAN_DIR", tmp_path / "not-installed")
    assert len(data.load(None, {"SHEEPFOLD_DATA": ""}).train) == 10_000


def test_folder_asked_for_is_never_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(data.DataSetError, match=r"not there; point --data-dir or SHEEPFOLD_DATA"):
        data.load(tmp_path / "mistyped", environ={})


def test_name_tells_where_the_images_come_from_and_how_many(packaged: data.DataSet, tmp_path: Path) -> None:
    assert data.load(write_data_set(tmp_path)).name == f"Fashion-MNIST from {tmp_path} (3 + 1 images)"
    assert packaged.name.endswith("(10,000 + 2,000 images)")


IMAGES = idx(np.zeros((3, 28, 28), np.uint8))
DAMAGED = {
    "empty file": (b"", "starts with nothing"),
    "not gzip": (b"plain text", "not readable as gzip"),
    "gzip with a bad block": (b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 20, "not readable as gzip"),
    "gzip cut short": (gzip.compress(IMAGES)[:-9], "not readable as gzip"),
    "header cut short": (gzip.compress(b"\0\0\x08\x03" + b"\0" * 5), "cut short within its header"),
    "elements of another type": (gzip.compress(b"\0\0\x0d" + IMAGES[3:]), "not with idx"),
    "one byte too few": (gzip.compress(IMAGES[:-1]), "cut short or damaged"),
    "one byte too many": (gzip.compress(IMAGES + b"\0"), "cut short or damaged"),
    "sizes that overflow": (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "cut short or damaged"),
    "fewer images than labels": (
        gzip.compress(idx(np.zeros((2, 28, 28), np.uint8))),
        r"has shape \(2, 28, 28\) and .* \(3,\)",
    ),
    "images of another size": (
        gzip.compress(idx(np.zeros((3, 14, 56), np.uint8))),
        r"expected \(n, 28, 28\)",
    ),
}


# Parametrised by name: the bytes hold a time stamp, and xdist wants the same test ids in every process.
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_images_are_told_with_file_and_reason(tmp_path: Path, damage: str) -> None:
    damaged, complaint = DAMAGED[damage]
    write_data_set(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(damaged)
    with pytest.raises(data.DataSetError, match=complaint) as refusal:
        data.load(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert NAMES[0] in str(refusal.value)


def test_label_outside_the_classes_is_refused(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(gzip.compress(idx(np.array([0, 10, 3], np.uint8))))
    with pytest.raises(data.DataSetError, match=r"label 10, but classes are 0\.\.9"):
        data.load(tmp_path)


def test_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(tmp_path)
    monkeypatch.setattr(data, "_MEGABYTES_MAX", 1)
    (tmp_path / NAMES[0]).write_bytes(gzip.compress(b"\0" * (2 << 20)))
    with pytest.raises(data.DataSetError, match="more than 1 MiB"):
        data.load(tmp_path)


@given(content=st.binary(max_size=64))
def test_any_bytes_are_an_array_or_a_data_set_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("idx") / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08" + content))
    fingerprint = xxhash.xxh3_128()
    try:
        array = data.read_idx(path, fingerprint)
    except data.DataSetError:
        assert fingerprint.digest() == xxhash.xxh3_128().digest()
    else:
        assert idx(array) == b"\0\0\x08" + content


def test_model_is_a_function_of_its_seed_alone() -> None:
    """Workers must agree on w0, whenever they start, and the seed of the script itself must stay in force."""
    before = torch.get_rng_state()
    first, again, other = lenet5(seed=3), lenet5(seed=3), lenet5(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
        assert torch.equal(weights, other.state_dict()[name]) == name.endswith("bias"), name


def test_model_maps_images_to_ten_logits(packaged: data.DataSet) -> None:
    model = lenet5()
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_706
    logits = model(torch.from_numpy(packaged.test.images[:2]))
    assert logits.shape == (2, data.CLASSES)
    assert bool(logits.isfinite().all())
