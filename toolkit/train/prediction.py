"""What a network says of X-rays, batch by batch."""

import torch
from torch import Tensor

from toolkit.networks.folding import logits_of
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel

EVALUATION_BATCH = 128


@torch.no_grad()
def predict(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, pixels: Tensor
) -> Tensor:
    """Return the logits, float32 (N, C) on the CPU, of X-rays, uint8 (N, 224, 224)."""
    network.eval()
    batches = torch.split(pixels, EVALUATION_BATCH)
    return torch.cat([logits_of(network, preprocessing, xray) for xray in batches]).cpu()
