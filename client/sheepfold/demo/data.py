"""Fashion-MNIST from a folder, from the Debian package, or from the subset inside this package."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
PACKAGED_DIR = Path(__file__).parent / "data"
CLASSES = 10
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530  # of the 60,000 training images, scaled to [0, 1]

_TRAIN_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
_IDX_UNSIGNED_BYTE = 0x08
_MEGABYTES_MAX = 512  # of one unpacked file: a damaged or hostile .gz must not fill the memory


class DataSetError(ValueError):
    """The data set's files are missing or damaged; the message names the file and the remedy."""


@dataclass(frozen=True)
class Split:
    """Images with their labels, in file order.

    Shapes: images (n, 1, 28, 28) fp32, mean 0 and deviation 1 over the full training set; labels (n,) int64,
    0..9.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A training and a test split, with a name for people and a fingerprint for CreateJob.

    The fingerprint is XXH3-128 over the four unpacked files, so that packing them again does not change it.
    """

    name: str
    fingerprint: str
    train: Split
    test: Split


def load(data_dir: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> DataSet:
    """The data set of `data_dir`, else $SHEEPFOLD_DATA, else Debian's if installed, else the packaged subset.

    A folder that was asked for is never silently replaced by another: DataSetError if it cannot be read.
    """
    folder, name = locate(data_dir, environ)
    fingerprint = xxhash.xxh3_128()
    train = _read_split(folder, _TRAIN_FILES, fingerprint)
    test = _read_split(folder, _TEST_FILES, fingerprint)
    return DataSet(f"{name} ({len(train):,} + {len(test):,} images)", fingerprint.hexdigest(), train, test)


def locate(data_dir: str | Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    """The folder that `load` reads, and the name under which it is announced."""
    if data_dir is not None:
        return Path(data_dir), f"Fashion-MNIST from {data_dir}"
    if environ.get("SHEEPFOLD_DATA"):
        return Path(environ["SHEEPFOLD_DATA"]), f"Fashion-MNIST from {environ['SHEEPFOLD_DATA']}"
    if DEBIAN_DIR.is_dir():
        return DEBIAN_DIR, "Fashion-MNIST, full"
    return PACKAGED_DIR, "Fashion-MNIST, packaged subset"


def _read_split(folder: Path, files: tuple[str, str], fingerprint: xxhash.xxh3_128) -> Split:
    pixels, labels = (read_idx(folder / name, fingerprint) for name in files)
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1] or not len(labels):
        raise DataSetError(
            f"{folder}: {files[0]} has shape {pixels.shape} and {files[1]} {labels.shape};"
            " expected (n, 28, 28) and (n,) with n > 0: are these the files of one data set?"
        )
    if labels.max() >= CLASSES:
        raise DataSetError(f"{folder / files[1]}: label {labels.max()}, but classes are 0..{CLASSES - 1}")
    images = (pixels[:, None].astype(np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    return Split(images.astype(np.float32, copy=False), labels.astype(np.int64))


def read_idx(path: Path, fingerprint: xxhash.xxh3_128 | None = None) -> NDArray[np.uint8]:
    """The array of unsigned bytes in a gzipped idx file; its unpacked bytes are added to `fingerprint`.

    Format: two zero bytes, type code, number of dimensions, each dimension as big-endian uint32, elements.
    """
    content = _unpack(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UNSIGNED_BYTE:
        raise DataSetError(f"{path}: starts with {content[:4].hex() or 'nothing'}, not with idx's 000008xx")
    header_bytes = 4 + 4 * content[3]
    if len(content) < header_bytes:
        raise DataSetError(f"{path}: cut short within its header of {header_bytes} bytes; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header_bytes], dtype=">u4"))
    expected_bytes = header_bytes + int(np.prod(shape, dtype=object))
    if len(content) != expected_bytes:
        raise DataSetError(
            f"{path}: {len(content):,} bytes, but its header (shape {shape}) announces {expected_bytes:,};"
            " the file is cut short or damaged, fetch it again"
        )
    if fingerprint is not None:
        fingerprint.update(content)
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _unpack(path: Path) -> bytes:
    limit_bytes = _MEGABYTES_MAX << 20
    try:
        with gzip.open(path) as file:
            content = file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise DataSetError(
            f"{path}: not there; point --data-dir or SHEEPFOLD_DATA at a folder with"
            f" {', '.join(_TRAIN_FILES + _TEST_FILES)}, or leave both out for the packaged subset. Whole:"
            f" `sudo apt-get install dataset-fashion-mnist`, which puts them into {DEBIAN_DIR}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataSetError(f"{path}: not readable as gzip ({error}); fetch it again") from error
    if len(content) > limit_bytes:
        raise DataSetError(f"{path}: unpacks to more than {_MEGABYTES_MAX} MiB; this is not Fashion-MNIST")
    return content
