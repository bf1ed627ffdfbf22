"""LeNet-5 for 28x28 grey images, with rectified units and max pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two convolutions and three linear layers, 61,706 parameters; images (n, 1, 28, 28) to logits (n, 10).

    Source: LeCun et al. 1998, Gradient-based learning applied to document recognition, figure 2; the 28x28
    images are padded to the paper's 32x32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv1(images)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2)
        hidden = F.relu(self.fc1(hidden.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(hidden)))
        return logits


def lenet5(seed: int = 0) -> LeNet5:
    """A LeNet-5 whose weights are a function of the seed alone; torch's global generator is left as it is."""
    with torch.device("meta"):  # no default initialisation: it would draw from the global generator
        model = LeNet5()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        _initialise(parameter, generator)
    return model


def _initialise(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Zero for a bias; else uniform with variance 2 / fan-in (He et al. 2015, arXiv:1502.01852)."""
    with torch.no_grad():
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            fan_in = parameter[0].numel()
            bound = (6.0 / fan_in) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
