"""Asks the service in this container whether it is ready.

`python -m bento.image.health` exits 0 or 1.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException


def main() -> int:
    """Return 0 where /readyz answers 200, else 1; no proxy is asked, whatever is set."""
    port = int(os.environ.get("BENTOML_PORT", "3000"))
    connection = HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1


if __name__ == "__main__":
    sys.exit(main())
