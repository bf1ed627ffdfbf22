"""`--tracker`, of `sheepfold dashboard` and `sheepfold up`."""

from __future__ import annotations

from typing import Annotated

import typer

Trackers = Annotated[
    list[str],
    typer.Option(
        "--tracker",
        metavar="KIND:PLACE",
        help="Mirror step reports there: tensorboard:DIR, wandb:PROJECT or mlflow:URI. May be repeated.",
    ),
]
