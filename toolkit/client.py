"""Asks a running service about X-rays: Python's side of `toolkit predict http://HOST:PORT`."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import msgspec

from toolkit.errors import ImageError, ServiceError
from toolkit.model.answer import Prediction, Served
from toolkit.transport import BUSY, Transport, is_address, plain
from toolkit.xray.reading import MAX_BYTES, file_content

__all__ = ["Client", "Prediction", "is_address"]
_OF_THE_FILE = (400, 413, 415, 422)


class Client:
    """A service, asked over connections that are kept open. Threads may share it.

    A prediction changes nothing there, so it is asked for again after 429, 502, 503 and 504,
    not before the seconds of `Retry-After`, and where a connection is refused, lost or silent:
    at growing, random intervals, until the deadline.

    Args:
        url: http://HOST:PORT or https://HOST:PORT, with a path where the service lies below one.
        token: sent as `Authorization: Bearer`; without it, TOOLKIT_TOKEN of the environment.
        timeout_s: of one attempt, seconds.
        deadline_s: of one answer with all attempts, seconds.

    Raises:
        UsageError: an address or a token that cannot be used.

    Examples:
        >>> from pathlib import Path
        >>> from toolkit import Client
        >>> with Client("http://localhost:3000") as client:
        ...     client.predict(Path("knee.png")).label
        'severe'
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 20.0,
        deadline_s: float = 60.0,
    ) -> None:
        self._transport = Transport(url, token, timeout_s, deadline_s)
        self.url = self._transport.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; requests of other threads fail at once."""
        self._transport.close()

    def info(self) -> dict[str, Any]:
        """Return what the service says of itself: `model`, `model_sha256`, `classes` and more.

        Raises:
            ServiceError: it cannot be reached or does not answer as the service does.
        """
        content = self._ask("GET", "/info")
        self._decode(content, Served)
        answer: dict[str, Any] = self._decode(content, dict[str, Any])
        return answer

    def predict(self, xray: bytes | Path) -> Prediction:
        """Return what the service says of an X-ray, given as a file's bytes or its path.

        Raises:
            ImageError: the file cannot be read or is refused; for a path, the message begins
                with it.
            ServiceError: the service cannot be reached or does not answer as the service does.
        """
        if isinstance(xray, Path):
            try:
                return self.predict(file_content(xray))
            except ImageError as error:
                raise ImageError(error.code, f"{xray}: {error}", error.status) from error
        if len(xray) > MAX_BYTES:
            message = f"larger than {MAX_BYTES:,} bytes; send a smaller file"
            raise ImageError("too_large", message, 413)
        answer: Prediction = self._decode(self._ask("POST", "/predict", xray), Prediction)
        if answer.class_index >= len(answer.probabilities):
            raise self._strange("it names a class without a probability")
        return answer

    def predict_many(
        self, paths: Iterable[Path], in_flight: int = 8
    ) -> Iterator[Prediction | ImageError]:
        """Yield what the service says of each file, in their order; a refused one is its error.

        Args:
            paths: of the files, each read when its turn comes.
            in_flight: requests at the same time.

        Raises:
            ServiceError: the service cannot be reached or does not answer as the service does.
        """
        asked: deque[Future[Prediction | ImageError]] = deque()
        pool = ThreadPoolExecutor(in_flight)
        try:
            for path in paths:
                asked.append(pool.submit(self._predict_or_error, path))
                if len(asked) >= 2 * in_flight:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()
        finally:
            # If the caller stops early, nobody needs the requests that are under way.
            pool.shutdown(wait=False, cancel_futures=True)

    def _predict_or_error(self, path: Path) -> Prediction | ImageError:
        try:
            return self.predict(path)
        except ImageError as error:
            return error

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, content = self._transport.ask(method, path, body)
        if status != 200:
            self._refuse(status, content)
        return content

    def _refuse(self, status: int, content: bytes) -> NoReturn:
        try:
            problem = msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            problem = {}
        detail = plain(problem.get("detail") or "it gives no reason")
        if status in _OF_THE_FILE:
            raise ImageError(plain(problem.get("code") or "refused"), detail, status)
        if status == 401:
            asks = (
                "refuses the token that it was given"
                if self._transport.sends_token
                else ("asks for its token")
            )
            raise ServiceError(f"{self.url} {asks}: set TOOLKIT_TOKEN", status)
        if status in BUSY:
            raise ServiceError(f"{self.url} is busy ({status}): {detail}", status)
        if 300 <= status < 400 or status == 404:
            raise self._strange(f"status {status}; check the address", status)
        raise ServiceError(f"{self.url} refuses with status {status}: {detail}", status)

    def _decode(self, content: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._strange(plain(error)) from error

    def _strange(self, reason: str, status: int | None = None) -> ServiceError:
        return ServiceError(f"{self.url} does not answer as the service does: {reason}", status)
