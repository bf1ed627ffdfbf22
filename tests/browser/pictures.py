"""The guide's pictures of trust-ratio maps: three real jobs on one `sheepfold up`, seen by a real browser.

    python -m tests.browser.pictures

Trains the demo's LeNet-5 on its packaged images, one worker, three times: much as the demo does, with a
learning rate that is far too high, and with bounds on the ratio that most layers meet. Writes a PNG of each
map into client/guide/pages/pictures, and prints for each job the figures that the guide tells beside it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from playwright.sync_api import FloatRect, Page
from tests.browser.watched import Watched, watched
from tests.integration.test_cli_up import eventually

import sheepfold
from sheepfold.demo.data import Split, load
from sheepfold.demo.lenet import LeNet5, lenet5

PICTURES = Path(__file__).parents[2] / "client" / "guide" / "pages" / "pictures"
STEPS = 200
TENSORS = 10
WIDTH = 1_000
MARGIN = 8.0


@dataclass(frozen=True)
class Sitting:
    """One job to take a picture of: what differs from the demo, and whose lines stand below its map."""

    name: str
    slice: str
    peak: float = 0.02
    optimizer: dict[str, Any] = field(default_factory=dict)


SITTINGS = (
    Sitting("healthy", "fc1.weight"),
    Sitting("rate-too-high", "fc1.weight", peak=1.0),
    Sitting("pinned", "fc2.weight", optimizer={"ratio_bounds": [0.1, 1.0]}),
)


def train(sitting: Sitting, address: str, images: Split) -> LeNet5:
    """The job from beginning to end; the model with its last weights."""
    config = {
        "name": sitting.name,
        "batch": {"samples": 512, "slot_samples": 256},
        "data": {"samples": len(images)},
        "optimizer": {
            "lr": {"peak": sitting.peak, "schedule": "poly", "warmup_steps": STEPS // 10},
            "weight_decay": 0.1,
            **sitting.optimizer,
        },
        "stop": {"steps": STEPS},
    }
    pixels, labels = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    model = lenet5()
    with sheepfold.attach(model, address=address, config=config, threads=1) as run:
        for slot in run.slots():
            chosen = torch.from_numpy(slot.indices)
            slot.backward(F.cross_entropy(model(pixels[chosen]), labels[chosen]))
            run.step()
    return model


def accuracy(model: LeNet5, images: Split) -> float:
    with torch.no_grad():
        guess = model(torch.from_numpy(images.images)).argmax(1)
    return float((guess == torch.from_numpy(images.labels)).float().mean())


def taken(site: Watched, sitting: Sitting) -> Page:
    """The page of layers, once the map holds every step."""
    name = sitting.name
    eventually(lambda: len(site.api_or_nothing(f"/jobs/{name}/slices")) == TENSORS, "its slices")
    eventually(lambda: site.api(f"/jobs/{name}/steps?limit=1")[0]["step"] == STEPS - 1, "its last step")
    page = site.open(f"job={name}&view=layers&slice={sitting.slice}", width=WIDTH)
    page.locator(".heat canvas").wait_for()
    for chart in page.locator("section.card canvas").all():
        chart.wait_for()
    page.wait_for_timeout(1_500)  # the page reads its table every two seconds; nothing tells when it is drawn
    return page


def map_and_lines(page: Page) -> FloatRect:
    """The part of the page with the map and the two charts of one slice."""
    first, last = (page.locator("section.card").nth(place).bounding_box() for place in (0, 2))
    assert first is not None
    assert last is not None
    top, bottom = first["y"] - MARGIN, last["y"] + last["height"] + MARGIN
    return {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}


def main() -> None:
    data = load()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder)) as site:
        for sitting in SITTINGS:
            model = train(sitting, site.up.address, data.train)
            page = taken(site, sitting)
            page.screenshot(path=PICTURES / f"{sitting.name}.png", clip=map_and_lines(page))
            newest = site.api(f"/jobs/{sitting.name}/steps?limit=1")[0]
            print(f"{sitting.name}: loss {newest['loss']:.3f}, accuracy {accuracy(model, data.test):.3f}")
            for row in site.api(f"/jobs/{sitting.name}/slices"):
                ratio, clamped = row["trust_ratio"], row["steps_clamped"]
                print(f"  {row['name']}: ratio {ratio:.4g}, clamped in {clamped} steps")
            for alert in site.api(f"/jobs/{sitting.name}/alerts")["alerts"]:
                print(f"  {alert['name']} of {alert['subject']}: {alert['text']}")
            site.close_pages()


if __name__ == "__main__":
    main()
