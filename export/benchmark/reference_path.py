"""What the benchmark is measured against: the study's float preprocessing, then the network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.extras import require
from toolkit.model.manifest import PreprocessingConstants

_SHAPE = (224, 224)
_FILTER = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]], dtype=np.float32)


def preprocessed(
    content: bytes, constants: PreprocessingConstants
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a network's inputs, image (3, 256, 256) and edges (1, 224, 224), with OpenCV.

    Args:
        content: a PNG or JPEG file.
        constants: as the network was trained with.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    cv2: Any = require("cv2", "dev")
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture.shape[:2] != _SHAPE:
        picture = cv2.resize(picture, _SHAPE, interpolation=cv2.INTER_AREA)
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    grey = cv2.cvtColor(rgb * 255, cv2.COLOR_RGB2GRAY)
    both = np.zeros_like(grey)
    for kernel in (_FILTER, -_FILTER):
        edges = cv2.filter2D(grey, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        both += cv2.threshold(edges, constants.edge_threshold, 0, cv2.THRESH_TOZERO)[1]
    scaled = np.rint(both * (255 / max(float(both.max()), 1.0)))
    edges = (scaled - np.float32(constants.edge_mean)) / np.float32(constants.edge_std)
    resized = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_LINEAR)
    mean, std = (np.array(each, np.float32) for each in (constants.image_mean, constants.image_std))
    image = np.ascontiguousarray(((resized - mean) / std).transpose(2, 0, 1))
    return image, edges[None]
