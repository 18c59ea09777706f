"""The token, over every route, spelling and method."""

from http.client import HTTPConnection
from urllib.parse import unquote

import pytest

from bento import page
from bento.http.routes import ROUTES

TOKEN = "a-token.of~the/service+1="
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"),
    *("get", "Post"),
)
WRONG = (
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN.upper()}",
    f"Bearer {TOKEN},{TOKEN}",
    f"Bearer\t{TOKEN}",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN[:-1]}\u00bd",
)
SPELLINGS = {
    "a slash behind": lambda path: f"{path}/",
    "two slashes": lambda path: f"/{path}",
    "a point": lambda path: f"/.{path}",
    "by way of the page": lambda path: f"/app/..{path}",
    "by way of the page, escaped": lambda path: f"/app/%2e%2e{path}",
    "a slash escaped": lambda path: f"/app%2f..{path}",
    "a letter escaped": lambda path: f"/%{ord(path[1:2] or 'x'):02x}{path[2:]}",
    "escaped twice": lambda path: f"/%25{ord(path[1:2] or 'x'):02x}{path[2:]}",
    "capitals": str.upper,
    "a parameter": lambda path: f"{path};a=b",
    "a query": lambda path: f"{path}?token=x",
    "a query as the path": lambda path: f"/livez?{path}",
    "an end of text": lambda path: f"{path}%00",
    "a line": lambda path: f"{path}%0a",
    "a suffix": lambda path: f"{path}.css",
    "a whole address": lambda path: f"http://a{path}",
    "another's address": lambda path: f"http://a@b{path}",
}
OPEN = {"/", "/app", "/app/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
OPEN |= {f"/app/{name}" for name in page.FILES}
PATHS = [
    route.path.replace("{name}", "small").replace("{version}", "000000000000") for route in ROUTES
]


@pytest.fixture(scope="module")
def ask(small_files, serving, tmp_path_factory):
    """Return a function from a method, a path and headers to status and body."""
    home = tmp_path_factory.mktemp("home")
    with serving(small_files, home, TOOLKIT_WORKERS="1", TOOLKIT_TOKEN=TOKEN) as (_, url, log):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=30)

        def asked(method, path, *authorization):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for each in authorization:
                connection.putheader("Authorization", each.encode())
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            content = answer.read()
            if answer.will_close:
                connection.close()
            return answer.status, content

        yield asked
        assert "Traceback" not in log.read_text()


def is_open(target):
    """Whether a target, as it is spelt, is of a route that needs no token."""
    path = target.removeprefix("http://a@b").removeprefix("http://a").partition("?")[0]
    return unquote(path, "latin-1") in OPEN


@pytest.mark.parametrize("method", METHODS)
def test_no_spelling_of_any_route_is_answered_without_the_token(ask, method):
    for path in PATHS:
        for name, spell in ({"as it is": str} | SPELLINGS).items():
            target = spell(path)
            status, content = ask(method, target)
            if not is_open(target):
                assert status in (400, 401), (method, target, name, status, content[:200])
                assert method == "HEAD" or b'"code"' in content


@pytest.mark.parametrize("given", WRONG)
def test_no_other_token_opens_any_route(ask, given):
    for path in PATHS:
        if not is_open(path):
            for method in ("GET", "POST"):
                assert ask(method, path, given)[0] == 401, (method, path)
                assert ask(method, path, given, given)[0] == 401, (method, path)


def test_the_token_opens_every_route(ask):
    for path in PATHS:
        for method in ("GET", "POST"):
            assert ask(method, path, f"Bearer {TOKEN}")[0] != 401, (method, path)
