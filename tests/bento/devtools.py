"""A headless Chromium, spoken to over the pipe of its DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

DEADLINE = 120.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
CHROMIUM = shutil.which("chromium")
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27}


class Browser:
    """A process of its own, with an empty profile in `folder`."""

    def __init__(self, folder):
        ours, theirs = os.pipe(), os.pipe()
        # Chromium reads from 3 and writes to 4, which may be taken here.
        reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1]))

        def move():
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=move,
        )
        for end in (reads, writes, ours[0], theirs[1]):
            os.close(end)
        self._out, self._in = ours[1], theirs[0]
        self._rest = b""
        self._number = 0
        self.events = []

    def close(self):
        with contextlib.suppress(OSError):
            self.call("Browser.close")
        self.process.wait(DEADLINE)
        os.close(self._out)
        os.close(self._in)

    def call(self, method, session=None, **params):
        """Return what the browser answers."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def event(self, method, session):
        """Take and return the first event of this name; wait where none has been."""

        def wanted(each):
            return (each.get("method"), each.get("sessionId")) == (method, session)

        found = next((each for each in self.events if wanted(each)), None) or self._until(wanted)
        self.events.remove(found)
        return found["params"]

    def _until(self, wanted):
        end = time.monotonic() + DEADLINE
        while True:
            message = self._next(end - time.monotonic())
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def _next(self, seconds):
        while b"\0" not in self._rest:
            ready = select.select([self._in], [], [], max(0, seconds))[0]
            assert ready, "the browser does not answer"
            more = os.read(self._in, 1 << 16)
            assert more, "the browser ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)


class Page:
    """A tab, with storage and cache of its own."""

    def __init__(self, browser, width=1200, height=900, dark=False):
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self):
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def events(self, method):
        """Return all events of this name that were not taken."""
        return [
            each["params"]
            for each in self._browser.events
            if (each["method"], each.get("sessionId")) == (method, self._session)
        ]

    def event(self, method):
        """Take and return the first event of this name; wait where none has been."""
        return self._browser.event(method, self._session)

    def size(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.event("Page.loadEventFired")

    def value(self, expression):
        """Return the value of a JavaScript expression, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression):
        """Return the value of an expression once it is true, which is looked at every frame."""
        return self.value(
            "new Promise((done) => { const look = () => { const value = "
            f"({expression}); value ? done(value) : requestAnimationFrame(look); }}; look(); }})"
        )

    def text(self, selector):
        """Return the text of the first such element."""
        return " ".join(
            self.value(f"document.querySelector({json.dumps(selector)}).textContent").split()
        )

    def texts(self, selector):
        """Return the text of each such element that is shown."""
        texts = self.value(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            ".filter((each) => each.checkVisibility()).map((each) => each.textContent)"
        )
        return [" ".join(each.split()) for each in texts]

    def click(self, selector):
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key):
        """Press and release a key, as a keyboard does."""
        code = KEYS[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        typed = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def choose(self, *paths):
        """Give files to the page's file input."""
        node = self.call(
            "DOM.querySelector",
            nodeId=self.call("DOM.getDocument")["root"]["nodeId"],
            selector="input[type=file]",
        )["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(each) for each in paths])

    def drop(self, x, y, *paths):
        """Drag files over the page and drop them there."""
        files = {"items": [], "files": [str(each) for each in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=files)

    def pause(self, route):
        """Hold each request for the route back until it is continued or answered here."""
        self.call("Fetch.enable", patterns=[{"urlPattern": f"*/{route}"}])

    def paused(self):
        """Return the id of the next request held back."""
        return self.event("Fetch.requestPaused")["requestId"]

    def resume(self, request):
        self.call("Fetch.continueRequest", requestId=request)

    def answer(self, request, status, content, **headers):
        """Answer a request held back with JSON, in the service's place."""
        given = {"content-type": "application/json"} | headers
        self.call(
            "Fetch.fulfillRequest",
            requestId=request,
            responseCode=status,
            responseHeaders=[{"name": k, "value": v} for k, v in given.items()],
            body=base64.b64encode(json.dumps(content).encode()).decode(),
        )

    def screenshot(self, path):
        """Write the whole page, as far as it scrolls, as a PNG."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))
