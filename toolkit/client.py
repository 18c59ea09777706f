"""Asks a running service about X-rays: Python's side of `toolkit predict http://HOST:PORT`."""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import msgspec

from toolkit.errors import ImageError, ServiceError
from toolkit.transport import BUSY, Transport, plain
from toolkit.xray.reading import MAX_BYTES, file_content

_OF_THE_FILE = (400, 413, 415, 422)


@dataclass(frozen=True)
class Prediction:
    """What a service says of one X-ray.

    Attributes:
        class_index: the class decided on, 0 or more.
        label: of that class.
        probabilities: of each class.
        model: the model's name.
        model_sha256: of the pipeline file that is served.
        provider: the execution provider that runs it.
        expected_grade: on the Kellgren-Lawrence scale; None where the service does not say.
        abstain: whether the largest probability is too small to go by; None likewise.
        in_scope: whether the X-ray is like those that the model knows; None likewise.
    """

    class_index: int
    label: str
    probabilities: tuple[float, ...]
    model: str
    model_sha256: str
    provider: str
    expected_grade: float | None = None
    abstain: bool | None = None
    in_scope: bool | None = None


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
        answer = self._asked("GET", "/info")
        classes = answer.get("classes")
        known = (answer.get("model"), answer.get("model_sha256"), *(classes or [None]))
        if not isinstance(classes, list) or not all(isinstance(each, str) for each in known):
            raise self._strange("it does not name its model and classes")
        return answer

    def predict(self, xray: bytes | Path) -> Prediction:
        """Return what the service says of an X-ray, given as a file's bytes or its path.

        Raises:
            ImageError: the file cannot be read or is refused; for a path, the message begins
                with it.
            ServiceError: the service cannot be reached or does not answer as the service does.
        """
        if isinstance(xray, Path):
            content = file_content(xray)
            try:
                return self.predict(content)
            except ImageError as error:
                raise ImageError(error.code, f"{xray}: {error}", error.status) from error
        if len(xray) > MAX_BYTES:
            message = f"larger than {MAX_BYTES:,} bytes; send a smaller file"
            raise ImageError("too_large", message, 413)
        return self._prediction(self._asked("POST", "/predict", xray))

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
                asked.append(pool.submit(self._outcome, path))
                if len(asked) >= 2 * in_flight:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()
        finally:
            # Where it ends early, nobody waits for what is under way.
            pool.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, path: Path) -> Prediction | ImageError:
        try:
            return self.predict(path)
        except ImageError as error:
            return error

    def _asked(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        status, content = self._transport.ask(method, path, body)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if status != 200:
            self._refuse(status, answer if isinstance(answer, dict) else {})
        if not isinstance(answer, dict):
            raise self._strange("no JSON object")
        return answer

    def _refuse(self, status: int, problem: dict[str, Any]) -> NoReturn:
        detail = plain(problem.get("detail") or "it gives no reason")
        if status in _OF_THE_FILE:
            raise ImageError(plain(problem.get("code") or "refused"), detail, status)
        if status == 401:
            raise ServiceError(f"{self.url} asks for its token: set TOOLKIT_TOKEN", status)
        if status in BUSY:
            raise ServiceError(f"{self.url} is busy ({status}): {detail}", status)
        if 300 <= status < 400 or status == 404:
            raise self._strange(f"status {status}; check the address", status)
        raise ServiceError(f"{self.url} refuses with status {status}: {detail}", status)

    def _prediction(self, answer: dict[str, Any]) -> Prediction:
        answer["class_index"] = answer.get("class")
        known = {each.name: answer[each.name] for each in fields(Prediction) if each.name in answer}
        try:
            result = msgspec.convert(known, Prediction)
        except msgspec.ValidationError as error:
            raise self._strange(str(error)) from error
        numbers = (*result.probabilities, result.expected_grade or 0.0)
        if not 0 <= result.class_index < len(result.probabilities) or not all(
            math.isfinite(each) for each in numbers
        ):
            raise self._strange("its numbers are none of a prediction")
        return result

    def _strange(self, reason: str, status: int | None = None) -> ServiceError:
        return ServiceError(f"{self.url} does not answer as the service does: {reason}", status)
