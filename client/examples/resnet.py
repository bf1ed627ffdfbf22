"""ResNet-18, ResNet-50 or DavidNet on CIFAR-10 or a folder of images, BatchNorm statistics by the server.

    python client/examples/resnet.py --data FOLDER --batch 32 --slot 16 --steps 8    # any folder of images
    python client/examples/resnet.py --model davidnet                                # CIFAR-10, see below
    python client/examples/resnet.py --model resnet50 --data imagenet --size 224 --batch 4096 --device cuda

or, without a server:  SHEEPFOLD=local: python client/examples/resnet.py ...

CIFAR-10 is read from the files of its binary version, which the default of --data expects here:

    curl -O https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz && tar xzf cifar-10-binary.tar.gz

A folder of images is FOLDER/train/CLASS/*.png (or .jpg, .jpeg) and FOLDER/val/CLASS/..., or FOLDER/CLASS/...
without an evaluation; it needs `pip install pillow`. Learning rate and warm-up follow from the batch: see
resnet.toml. Each micro-batch has batch statistics of its own; the running ones are weighted means over the
slots of a step.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sheepfold
from sheepfold.demo.data import DataSetError
from sheepfold.exits import EXIT_NEVER_RETRY

JOB_FILE = Path(__file__).with_suffix(".toml")
CIFAR_FOLDER = Path("cifar-10-batches-bin")
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_COMMAND = f"curl -O {CIFAR_URL} && tar xzf {CIFAR_URL.rpartition('/')[2]}"
CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32
IMAGES = (".jpeg", ".jpg", ".png")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(
    3, 1, 1
)  # of ImageNet, in [0, 1]; as good for other photographs
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
Data = Dataset[tuple[Tensor, Tensor]]


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class Residual(nn.Module):
    """relu(x + branch(x)); where the shape changes, x goes through a 1x1 convolution.

    `narrow`: 1x1, 3x3, 1x1 with four times as many channels at the end, the stride in the 3x3; else two 3x3.
    """

    def __init__(self, inputs: int, width: int, stride: int, narrow: bool) -> None:
        super().__init__()
        outputs = 4 * width if narrow else width
        if narrow:
            layers = [conv_bn(inputs, width, 1), conv_bn(width, width, 3, stride), conv_bn(width, outputs, 1)]
        else:
            layers = [conv_bn(inputs, width, 3, stride), conv_bn(width, width, 3)]
        self.layers = nn.ModuleList(layers)
        is_same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if is_same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.layers
        hidden = x
        for layer in first:
            hidden = F.relu(layer(hidden))
        return F.relu(last(hidden) + self.shortcut(x))


def resnet(blocks: Sequence[int], narrow: bool, classes: int, size: int) -> nn.Sequential:
    """A residual network of four stages; images (n, 3, size, size) to logits (n, classes).

    Below 64 pixels it begins with a 3x3 convolution instead of a 7x7 one with stride and pooling.
    Source: He et al. 2016 (arXiv:1512.03385), table 1; 3x3 beginning as they use for CIFAR-10.
    """
    begin = [conv_bn(3, 64, 3)] if size < 64 else [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    layers, channels = [*begin, nn.ReLU()], 64
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride = 2 if stage > 0 and number == 0 else 1
            layers.append(Residual(channels, 64 << stage, stride, narrow))
            channels = (64 << stage) * (4 if narrow else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Plus(nn.Module):
    """x + two convolutions of x, as DavidNet has it: rectified before they are added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(channels, channels, 3), conv_bn(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.second(F.relu(self.first(x))))


class Scaled(nn.Linear):
    """A classifier without bias whose logits are divided by eight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 8


def davidnet(classes: int) -> nn.Sequential:
    """Four convolutions, residuals around two more each behind the second and the fourth; 32x32 images.

    Source: D. Page 2018, How to train your ResNet; the paper trains it on CIFAR-10 for 24 epochs.
    """
    layers: list[nn.Module] = [conv_bn(3, 64, 3), nn.ReLU()]
    for inputs, outputs, is_residual in ((64, 128, True), (128, 256, False), (256, 512, True)):
        layers += [conv_bn(inputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [Plus(outputs)] if is_residual else []
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled(512, classes, bias=False))


def build_model(name: str, classes: int, size: int, seed: int = 0) -> nn.Sequential:
    """resnet18, resnet50 or davidnet with random weights by the seed."""
    torch.manual_seed(seed)
    if name == "davidnet":
        return davidnet(classes)
    blocks, narrow = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}[name]
    return resnet(blocks, narrow, classes, size)


class ImageFolder(Data):
    """CLASS/*.png, *.jpg, *.jpeg, each as ((3, size, size) uint8, label): the middle square of a picture."""

    def __init__(self, folder: Path, size: int, classes: Sequence[str] = ()) -> None:
        self.size = size
        self.classes = list(classes) or sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in IMAGES
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            from PIL import Image, ImageOps
        except ModuleNotFoundError:
            raise DataSetError("images of a folder are read by Pillow: pip install pillow") from None
        path, label = self.files[index]
        try:
            with Image.open(path) as picture:
                square = ImageOps.fit(picture.convert("RGB"), (self.size, self.size))
        except OSError as error:
            raise DataSetError(f"{path}: not readable as an image ({error}); mend or remove it") from error
        return torch.from_numpy(np.array(square)).permute(2, 0, 1), torch.tensor(label)


def cifar10(folder: Path, names: Sequence[str]) -> TensorDataset:
    """Images (n, 3, 32, 32) uint8 with labels, of CIFAR-10's binary files: a label, then red, green, blue."""
    parts = []
    for path in (folder / name for name in names):
        if not path.is_file():
            raise DataSetError(
                f"{path.absolute()}: not there; get CIFAR-10 by `{CIFAR_COMMAND}`, then --data "
                f"{CIFAR_FOLDER}; or give --data a folder of images. CIFAR-10's version for Python is not "
                "read: pickles may run anything"
            )
        part = np.fromfile(path, np.uint8)
        if not len(part) or len(part) % CIFAR_RECORD_BYTES:
            raise DataSetError(
                f"{path}: {len(part):,} bytes are not whole records of {CIFAR_RECORD_BYTES:,}; get it again "
                f"by `{CIFAR_COMMAND}`"
            )
        parts.append(part.reshape(-1, CIFAR_RECORD_BYTES))
    records = torch.from_numpy(np.concatenate(parts))
    return TensorDataset(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())


def load(folder: Path, size: int) -> tuple[Data, Data | None, int]:
    """(images to train with, images to evaluate with or None, number of classes); raises DataSetError."""
    if any(folder.glob("data_batch_*")) or folder.name == CIFAR_FOLDER.name:
        train = cifar10(folder, [f"data_batch_{number}.bin" for number in range(1, 6)])
        return train, cifar10(folder, ["test_batch.bin"]), 10
    has_parts = (folder / "train").is_dir()
    images = ImageFolder(folder / "train" if has_parts else folder, size) if folder.is_dir() else None
    if images is None or not len(images):
        raise DataSetError(
            f"looked in {folder.absolute()}{'' if folder.is_dir() else ' (no such folder)'} for "
            f"{'train/' if has_parts else ''}CLASS/*{', *'.join(IMAGES)}, and for data_batch_1.bin to _5.bin "
            f"of CIFAR-10: none is there. For CIFAR-10: `{CIFAR_COMMAND}`, then --data {CIFAR_FOLDER}"
        )
    evaluated = ImageFolder(folder / "val", size, images.classes) if (folder / "val").is_dir() else None
    return images, evaluated, len(images.classes)


def scaled(images: Tensor) -> Tensor:
    """uint8 to fp32 with mean 0 and deviation 1, about; shapes (n, 3, size, size)."""
    return (images.float() / 255 - MEAN.to(images.device)) / DEVIATION.to(images.device)


def augmented(images: Tensor) -> Tensor:
    """Each image mirrored or not, and moved by up to an eighth, by torch's generator, seeded for each slot.

    Shapes: (n, 3, size, size), the same. The draw is on the CPU, so it is the same on every device.
    """
    count, size = len(images), images.shape[-1]
    reach = size // 8
    down, right = torch.randint(0, 2 * reach + 1, (2, count, 1), device="cpu")
    rows, columns = (start + torch.arange(size) for start in (down, right))
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    image, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(3).view(-1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def job_for(
    samples: int, batch: int | None = None, steps: int | None = None, slot: int | None = None
) -> dict[str, Any]:
    """The job of resnet.toml for so many images: as many passes over them, at any batch, but for `steps`."""
    values = tomllib.loads(JOB_FILE.read_text("utf-8"))
    plan, stop, lr = values["batch"], values["stop"], values["optimizer"]["lr"]
    images = stop["steps"] * plan["samples"] * samples / values["data"]["samples"]
    plan["samples"] = batch or plan["samples"]
    plan["slot_samples"] = slot or min(plan["slot_samples"], plan["samples"])
    usual = max(1, round(images / plan["samples"]))
    stop["steps"] = steps or usual
    lr["warmup_epochs"] *= stop["steps"] / usual
    values["data"]["samples"] = samples
    return values


def train(run: sheepfold.Run, model: nn.Module, loader: DataLoader[Any]) -> None:
    """Slots until the job ends."""
    device = next(model.parameters()).device
    for slot in run.slots(loader):
        for images, labels in slot:
            logits = model(augmented(scaled(images.to(device))))
            loss = F.cross_entropy(logits, labels.to(device), label_smoothing=0.1)
            slot.backward(loss, weight=len(labels))
        result = run.step()
        if slot.lease.slot == 0 and result.step % 10 == 0 and result.loss is not None:
            print(f"step {result.step}: loss {result.loss:.3f}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the images that the model, with the running statistics, classifies correctly."""
    device, right, count = next(model.parameters()).device, 0, 0
    model.eval()
    for images, labels in DataLoader(data, batch_size=256):
        right += int((model(scaled(images.to(device))).argmax(1) == labels.to(device)).sum())
        count += len(labels)
    model.train()
    return right / count


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("resnet18", "resnet50", "davidnet"), default="resnet18")
    parser.add_argument("--data", type=Path, default=CIFAR_FOLDER, help="CIFAR-10, or a folder of images")
    parser.add_argument("--size", type=int, default=32, help="pixels on a side, of a folder's images")
    parser.add_argument("--batch", type=int, help="images of a step")
    parser.add_argument("--slot", type=int, help="images of a slot")
    parser.add_argument("--micro-batch", type=int, help="images computed at once; left out: a slot's")
    parser.add_argument("--steps", type=int, help="left out: as many passes as in resnet.toml")
    parser.add_argument("--loaders", type=int, default=0, help="processes that read images")
    parser.add_argument("--name", default="resnet", help="of the job")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="equal on all workers, for equal bits")
    given = parser.parse_args(arguments)
    torch.use_deterministic_algorithms(given.device == "cpu")
    data, evaluated, classes = load(given.data, given.size)
    digest = sheepfold.data_fingerprint(data)
    job = {**job_for(len(data), given.batch, given.steps, given.slot), "name": given.name}
    job["data"]["fingerprint"] = digest
    model = build_model(given.model, classes, given.size).to(given.device)
    with sheepfold.attach(model, config=job, data_fingerprint=digest, threads=given.threads) as run:
        sampler = run.batch_sampler(given.micro_batch or job["batch"]["slot_samples"])
        train(run, model, DataLoader(data, batch_sampler=sampler, num_workers=given.loaders))
        told = "" if evaluated is None else f": accuracy {accuracy(model, evaluated):.3f}"
        print(f"version {run.version}{told}")


if __name__ == "__main__":
    try:
        main()
    except DataSetError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(EXIT_NEVER_RETRY)
