"""`helm test`: one step of a throw-away job through every shard, with the line that workers mount."""

import secrets

import numpy as np

import sheepfold

JOB = {
    "name": f"helm-test-{secrets.token_hex(4)}",
    "batch": {"samples": 4, "slot_samples": 4},
    "data": {"samples": 4},
    "optimizer": {"lr": {"peak": 0.1}},
    "stop": {"steps": 1},
}


def main() -> None:
    start = np.ones(8, np.float32)
    with sheepfold.Client(parameters={"w": start}, config=JOB) as client:
        if client.lease() is None:
            raise SystemExit("no slot was leased")
        client.push({"w": np.full(8, 0.5, np.float32)}, loss=1.0)
        while client.lease() is not None:
            raise SystemExit("a second slot was leased in a job of one step")
        weights = client.pull()["w"]
        if client.version != 1 or not (weights < start).all():
            raise SystemExit(f"version {client.version}, weights {weights}: no step was made")
        print(f"{JOB['name']}: one step was made, the weights moved from 1 to {weights[0]:.4f}")


if __name__ == "__main__":
    main()
