"""Follows the demo's job as a reader and measures its accuracy.

One JSON line per evaluated version, {"version", "accuracy"}; that of the final version also has the "digest"
of the whole state on the server.
"""

from __future__ import annotations

import json
import threading
from argparse import Namespace

import torch

import sheepfold
from sheepfold.address import BadAddress
from sheepfold.demo.data import DataSetError, Split, load
from sheepfold.demo.lenet import LeNet5
from sheepfold.demo.options import add_job_options, parser, run
from sheepfold.errors import Refused, ServerUnavailable

POLL_SECONDS = 0.2
BATCH = 500


def main() -> int:
    found = parser("Print the accuracy of a job's newest version now and then, and of its final one.")
    add_job_options(found)
    found.add_argument("--every", type=int, default=25, help="versions between two evaluations")
    found.add_argument("--until", type=int, required=True, help="the final version")
    found.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = found.parse_args()
    return run(lambda: follow(options), (DataSetError, Refused, ServerUnavailable, BadAddress))


def follow(options: Namespace) -> None:
    """Evaluate until the final version has been."""
    torch.set_num_threads(options.threads)
    test = load(options.data_dir).test
    pause = threading.Event()
    with sheepfold.Client(options.job, address=options.address) as client:
        due = min(options.every, options.until)
        while True:
            client.pull()
            if client.version < due:
                pause.wait(POLL_SECONDS)
                continue
            facts = {"version": client.version, "accuracy": accuracy(client, test)}
            if client.version >= options.until:
                print(json.dumps({**facts, "digest": client.digest()[1]}), flush=True)
                return
            print(json.dumps(facts), flush=True)
            due = min(client.version - client.version % options.every + options.every, options.until)


def accuracy(client: sheepfold.Client, test: Split) -> float:
    """Share of the test images that the weights pulled last classify correctly."""
    model = LeNet5()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in client.weights.items()})
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    with torch.inference_mode():
        correct = sum(
            int((model(images[i : i + BATCH]).argmax(1) == labels[i : i + BATCH]).sum())
            for i in range(0, len(labels), BATCH)
        )
    return correct / len(labels)


if __name__ == "__main__":
    raise SystemExit(main())
