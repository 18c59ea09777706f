"""What a decision went by, computed in a thread that leaves the others their core."""

import asyncio
import os
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from bento.worker.waiting import to_its_end
from toolkit.errors import RequestError, ToolkitError
from toolkit.model.answer import Explanation
from toolkit.runtime.heat_picture import draw
from toolkit.runtime.occlusion import occlusion
from toolkit.runtime.session import Predictor
from toolkit.xray.pictures import encode

if TYPE_CHECKING:
    from toolkit.runtime.occlusion import PicturesModel

_MOST_WAITING = 4
_NICENESS = 5


class Explainer:
    """Explains one X-ray at a time; a few may wait.

    Args:
        opener: opens the proven explainer, or raises a ToolkitError; called when first needed.
            None where the model has no explainer.
    """

    def __init__(self, opener: "Callable[[], PicturesModel] | None") -> None:
        self._opener = opener
        self._classify: PicturesModel | None = None
        self._waiting = 0
        self._threads = ThreadPoolExecutor(1, "explainer", _give_way)

    def check(self) -> None:
        """Check that there is an explainer and that there is room for another request.

        Raises:
            RequestError: 404 or 503.
        """
        if self._opener is None:
            raise RequestError(
                404, "no_explainer", "this model has no explainer: `toolkit export onnx` makes one"
            )
        if self._waiting > _MOST_WAITING:
            message = f"{_MOST_WAITING} explanations wait already: try again in a few seconds"
            raise RequestError(503, "overloaded", message, retry_after="5")

    async def explain(self, predictor: Predictor, content: bytes) -> tuple[Explanation, bytes]:
        """Return what the decision on a file's X-ray went by, and its heat as a PNG.

        Raises:
            ImageError: the file is refused.
            RequestError: as `check` does; or the explainer cannot be opened or failed.
        """
        self.check()
        self._waiting += 1
        loop = asyncio.get_running_loop()
        # Emptied when the client is gone, so that nothing is explained for nobody.
        files = [content]
        try:
            work = loop.run_in_executor(self._threads, self._explanation, predictor, files)
            return await to_its_end(work, files.clear)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """End the thread after what it is at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _explanation(self, predictor: Predictor, files: list[bytes]) -> tuple[Explanation, bytes]:
        xray = predictor.decode(files.pop())
        try:
            classify = self._open()
            index = int(predictor.predict(xray[None]).logits[0].argmax())
            views = predictor.views(xray)
            pictures = {"xray": xray} | views
            heat = occlusion(classify, pictures, index)
        except ToolkitError as error:
            raise RequestError(503, "no_explanation", str(error), retry_after="5") from error
        label = predictor.meaning.classes[index]
        picture = draw(pictures, heat, f"{predictor.name}: what speaks for {label!r}")
        shown = {name: b64encode(encode(view)).decode() for name, view in views.items()}
        heat_text = b64encode(picture).decode()
        return Explanation(index, label, heat_text, shown, shown.get("edge_map")), picture

    def _open(self) -> "PicturesModel":
        if self._classify is None:
            assert self._opener
            self._classify = self._opener()
        return self._classify


def _give_way() -> None:
    """Let the other threads of the worker have the core first, where the system can."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
