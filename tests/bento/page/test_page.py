"""The page in a real Chromium, before a real server."""

import base64
import csv
import json
import os
import re
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from toolkit.batch.rows import FORMULA
from toolkit.model.files import ModelFiles

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    each for each in (ROOT / "bento/page").iterdir() if each.is_file() and each.suffix != ".py"
]
SHOTS = os.environ.get("TOOLKIT_ARTIFACTS")
SHIPPED = ModelFiles(ROOT / "saved_models", "model_saved")
TOKEN = "a-token"
CHROMIUM = shutil.which("chromium")
ANSWER = {"class": 1, "label": "minimal", "probabilities": [0.25, 0.5, 0.25, 0]}

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def guarded_url(serving, tmp_path_factory):
    """The address of a service that wants a token."""
    more = {"TOOLKIT_WORKERS": "1", "TOOLKIT_TOKEN": TOKEN}
    with serving(SHIPPED, tmp_path_factory.mktemp("guarded"), **more) as (_, url, _):
        yield url


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser
        browser.close()


def _opened(browser, **settings):
    """A tab with storage of its own, which lists what it complains of."""
    page = browser.new_context(**settings).new_page()
    page.set_default_timeout(60_000)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(error.message))
    page.on("console", lambda said: page.complaints.append(said.text))
    return page


def _shoot(page, request):
    """Keep what is shown as a screenshot in the folder TOOLKIT_ARTIFACTS, if it is set."""
    if SHOTS:
        name = request.node.name.removeprefix("test_")
        page.screenshot(path=Path(SHOTS, f"{name}.png"), full_page=True)


@pytest.fixture
def tab(browser, request):
    """Return a function that opens a tab with storage of its own."""
    tabs = []

    def new(url, script="", **settings):
        page = _opened(browser, **settings)
        tabs.append(page)
        page.add_init_script(script)
        page.goto(url)
        return page

    yield new
    for page in tabs:
        _shoot(page, request)
        page.context.close()


@pytest.fixture(scope="module")
def kept_tab(browser):
    """One tab for the tests that ask for nothing of their own."""
    page = _opened(browser)
    yield page
    page.context.close()


@pytest.fixture
def page(kept_tab, shipped_service, request):
    """The page, loaded anew."""
    kept_tab.goto(f"{shipped_service}/app")
    kept_tab.complaints.clear()
    yield kept_tab
    _shoot(kept_tab, request)
    kept_tab.unroute_all()


@pytest.fixture
def knees(tmp_path, xrays, encoded):
    """Files of generated X-rays."""
    paths = [tmp_path / f"knee {index}.png" for index in range(6)]
    for path, pixels in zip(paths, xrays, strict=False):
        path.write_bytes(encoded(pixels))
    return paths


@pytest.fixture
def no_knee(tmp_path):
    path = tmp_path / "letter.png"
    path.write_bytes(b"certainly no image")
    return path


@pytest.fixture
def explained(encoded, xrays):
    """What /explain answers, at once."""
    pictures = {"edge_map": xrays[0], "heat": np.full((548, 932), 200, np.uint8)}
    texts = {name: base64.b64encode(encoded(pixels)).decode() for name, pixels in pictures.items()}
    return {"class": 0, "label": "none", "views": {"edge_map": texts["edge_map"]}} | texts


def _predicted(url, path):
    return httpx.post(f"{url}/predict", files={"xray": path.read_bytes()}).json()


def _choose(page, *paths):
    page.set_input_files("input[type=file]", paths)


def _settle(page, cards=1):
    """Wait until so many cards are there, and none is waiting or being read."""
    expect(page.locator(".card")).to_have_count(cards)
    expect(page.locator(".state").filter(visible=True)).to_have_count(0)


def _texts(page, selector):
    """Return the text of each such element that is shown."""
    return [" ".join(text.split()) for text in _shown(page, selector).all_text_contents()]


def _shown(page, selector):
    return page.locator(selector).filter(visible=True)


def _hold(page, route):
    """Hold each request for the route back; return a function that waits for the next of them."""
    held = []
    page.route(f"**/{route}", lambda request: held.append(request))

    def following():
        while not held:
            page.wait_for_timeout(10)
        return held.pop(0)

    return following


def _meters(page):
    meters = page.evaluate(
        "[...document.querySelectorAll('[role=meter]')].map((each) => "
        "[each.ariaLabel, each.ariaValueNow, each.firstChild.offsetWidth / each.offsetWidth])"
    )
    return {label: (float(value), width) for label, value, width in meters}


def _complaints(page):
    """What the console says, apart from refusals of the service."""
    return [each for each in page.complaints if "Failed to load resource" not in str(each)]


def test_files_are_in_the_wheel_and_in_the_bento():
    """The patterns of both take every file; tests/release looks into a real wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["setuptools"]["package-data"]["bento.page"]
    lines = (ROOT / "bentofile.yaml").read_text().splitlines()
    bento = [line.strip('- "') for line in lines if line.startswith('  - "bento/page')]
    assert len(FILES) == 7
    for path in FILES:
        assert any(fnmatch(path.name, each) for each in wheel), path
        assert any(fnmatch(path.relative_to(ROOT).as_posix(), each) for each in bento), path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/app", "text/html"),
        ("/app/style.css", "text/css"),
        ("/app/script.js", "text/javascript"),
        ("/app/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_served_with_its_kind_its_policy_and_a_strong_etag(shipped_service, path, kind):
    answer = httpx.get(shipped_service + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "camera=()" in answer.headers["permissions-policy"]
    tag = answer.headers["etag"]
    assert tag.startswith('"')
    head = httpx.head(shipped_service + path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    again = httpx.get(shipped_service + path, headers={"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")


def test_the_root_leads_to_the_page(shipped_service):
    answer = httpx.get(shipped_service)
    assert answer.status_code == 307
    assert httpx.get(shipped_service, follow_redirects=True).url == f"{shipped_service}/app"


def test_nothing_is_inline_or_from_elsewhere():
    text = (ROOT / "bento/page/index.html").read_text()
    assert "<style" not in text and " style=" not in text and " onclick=" not in text
    assert "://" not in "".join(
        each.read_text().replace("http://www.w3.org/2000/svg", "") for each in FILES
    )


def test_a_dropped_xray_shows_what_predict_says_and_nothing_else_is_asked(
    tab, shipped_service, knees
):
    urls = []
    page = tab("about:blank")
    page.on("request", lambda request: urls.append(request.url))
    page.goto(f"{shipped_service}/app")
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(knees[0])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 600, "y": 500, "data": data}
        devtools.send("Input.dispatchDragEvent", event)
    _settle(page)
    expected = _predicted(shipped_service, knees[0])
    assert _texts(page, ".label") == [expected["label"]]
    assert _texts(page, ".name") == [knees[0].name]
    classes = httpx.get(f"{shipped_service}/info").json()["classes"]
    meters = _meters(page)
    assert list(meters) == classes
    for label, share in zip(classes, expected["probabilities"], strict=True):
        value, width = meters[label]
        assert value == pytest.approx(share, abs=1e-6) and width == pytest.approx(share, abs=0.01)
    numbers = [f"{100 * share:.1f} %" for share in expected["probabilities"]]
    assert _texts(page, ".number") == numbers
    assert expected["label"] in page.locator("#said").text_content()

    expect(page.locator(".xray img")).to_be_visible()
    assert f"{shipped_service}/predict" in urls
    allowed = (shipped_service, f"blob:{shipped_service}", "data:")
    assert all(each.startswith(allowed) for each in urls)
    assert not any(each.endswith("/explain") for each in urls), "it is slow, and nobody asked"
    assert not _complaints(page)


def test_the_policy_stops_what_would_go_elsewhere(page):
    with page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        page.evaluate("new Image().src = 'http://127.0.0.2:9/elsewhere.png'")


def test_one_bad_file_of_several_is_refused_in_the_services_words(
    page, shipped_service, knees, no_knee
):
    _choose(page, knees[0], no_knee, knees[1])
    _settle(page, 3)
    refusal = _predicted(shipped_service, no_knee)["detail"]
    assert _texts(page, ".problem p") == [refusal]
    assert _texts(page, ".card .name") == [knees[0].name, no_knee.name, knees[1].name]
    labels = [_predicted(shipped_service, each)["label"] for each in knees[:2]]
    assert _texts(page, ".label") == labels
    assert _texts(page, "#count") == ["3 X-rays"]


def test_a_few_are_asked_at_once_and_the_others_wait(page, knees):
    following = _hold(page, "predict")
    _choose(page, *knees)
    held = [following() for _ in range(3)]
    assert _texts(page, ".state") == ["Reading"] * 3 + ["Waiting"] * 3
    held[0].continue_()
    following()
    assert _texts(page, ".state").count("Reading") == 3


# With a heat that is there at once, the ways by keyboard and on a phone lead to it too.
@pytest.mark.full
def test_heat_and_edge_map_come_on_demand(page, knees):
    _choose(page, knees[0])
    _settle(page)
    page.click(".explain")
    expect(page.locator(".heat")).to_be_visible()
    assert page.locator(".view img").evaluate("(each) => each.naturalWidth") == 224
    assert page.locator(".heat img").evaluate("(each) => each.naturalWidth") > 448
    assert "Red regions speak for" in page.locator(".heat figcaption").text_content()
    assert not _complaints(page)


def test_a_picture_is_kept_no_longer_than_it_takes_to_show_it(tab, shipped_service, knees, no_knee):
    script = (
        "window.open_ = new Set(); const { createObjectURL: make, revokeObjectURL: end } = URL;"
        "URL.createObjectURL = (x) => { const url = make(x); open_.add(url); return url; };"
        "URL.revokeObjectURL = (url) => { open_.delete(url); end(url); if (!open_.size)"
        " document.body.classList.add('none-kept'); };"
    )
    page = tab(f"{shipped_service}/app", script)
    _choose(page, knees[0], no_knee)
    expect(page.locator("body")).to_have_class(re.compile("none-kept"))
    _settle(page, 2)
    assert page.evaluate("open_.size") == 0


def test_the_keyboard_alone_is_enough(tab, shipped_service, knees, explained):
    page = tab(f"{shipped_service}/app")

    def tab_to(name):
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText") == name:
                return page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        return pytest.fail(f"no way to {name!r}")

    # Keys overtake what tells the page that its choosers are listened to: that is told first.
    page.on("filechooser", lambda _: None)
    assert tab_to("Choose files") == "solid", "the focus can be seen"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files(knees[0])
    _settle(page)
    assert tab_to("Show what it looked at") == "solid"
    page.route("**/explain", lambda route: route.fulfill(json=explained))
    page.keyboard.press("Enter")
    expect(page.locator(".heat")).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    tab_to("Clear")
    page.keyboard.press("Enter")
    assert _texts(page, ".card") == []
    assert page.evaluate("document.activeElement.id") == "choose"


def test_a_phone_of_360_pixels_never_scrolls_sideways(
    tab, shipped_service, tmp_path, knees, no_knee, explained
):
    size = {"width": 360, "height": 740}
    page = tab(f"{shipped_service}/app", viewport=size, is_mobile=True)
    long = knees[0].rename(tmp_path / f"{'kneeofaverylongname' * 8}.png")
    _choose(page, long, no_knee)
    _settle(page, 2)
    page.route("**/explain", lambda route: route.fulfill(json=explained))
    page.locator(".explain").first.click()
    expect(page.locator(".heat").first).to_be_visible()
    expect(page.locator("dd").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_of_at_least_4_5(tab, shipped_service, knees, no_knee, scheme):
    page = tab(f"{shipped_service}/app", color_scheme=scheme)
    _choose(page, knees[0], no_knee)
    _settle(page, 2)
    expect(page.locator("dd").first).to_be_visible()
    weak, count = page.evaluate(
        """(() => {
          const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
          const ground = (each) => {
            const colour = getComputedStyle(each).backgroundColor;
            return colour.endsWith(", 0)") ? ground(each.parentElement) : colour;
          };
          const shown = [...document.querySelectorAll("body *")].filter((each) =>
            each.checkVisibility() && !each.closest(".unseen, :disabled")
            && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
          const weak = shown.filter((each) => {
            const pair = [getComputedStyle(each).color, ground(each)].map(light);
            return Math.max(...pair) / Math.min(...pair) < 4.5;
          });
          return [weak.map((each) => each.outerHTML), shown.length];
        })()"""
    )
    assert count > 30 and weak == []


@pytest.mark.parametrize(
    ("found", "notes"),
    [
        pytest.param({}, [], marks=pytest.mark.full),
        ({"abstain": False, "in_scope": True}, []),
        ({"abstain": True, "in_scope": True}, ["Not sure enough to go by."]),
        ({"abstain": True, "in_scope": False}, ["This does not look like the X-rays that this"]),
    ],
    ids=["unknown", "sure", "unsure", "unlike"],
)
def test_doubt_is_said_in_plain_words(page, knees, found, notes):
    answer = ANSWER | {"expected_grade": 1.75} | found
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    _choose(page, knees[0])
    _settle(page)
    shown = _texts(page, ".answer .notice")
    assert [text[: len(note)] for text, note in zip(shown, notes, strict=True)] == notes
    meaningless = found.get("in_scope") is False
    assert _texts(page, ".grade strong") == ([] if meaningless else ["1.8"])


@pytest.mark.parametrize("in_scope", [True, False])
def test_a_decision_and_its_rule_are_shown_and_kept_unless_the_answer_means_nothing(
    page, shipped_service, knees, in_scope
):
    point = {"positive": "worn", "threshold": 0.3, "sensitivity": 0.9, "specificity": 0.75}
    info = httpx.get(f"{shipped_service}/info").json()
    info |= {"classes": ["sound", "worn"], "grades": [], "operating_point": point}
    answer = {"class": 0, "label": "sound", "probabilities": [0.6, 0.4], "decision": "worn"}
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.route("**/predict", lambda route: route.fulfill(json=answer | {"in_scope": in_scope}))
    page.reload()
    _choose(page, knees[0])
    _settle(page)
    assert _texts(page, ".decision strong") == (["worn"] if in_scope else [])
    rule = "“worn” from 30.0 % on: sensitivity 90.0 %, specificity 75.0 %"
    expect(page.locator("#facts")).to_contain_text(rule)
    with page.expect_download() as download:
        page.click("#download")
    with download.value.path().open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["decision"] == "worn" and row["label"] == "sound"


@pytest.mark.parametrize(
    ("found", "said", "ticks", "place"),
    [
        ({"grades": [[1], [5]], "scale": "BI-RADS"}, "on the BI-RADS scale", "12345", "25%"),
        ({"grades": [[0.5], [3.5]], "scale": ""}, "between 0.5 and 3.5", "0.53.5", "50%"),
    ],
    ids=["named", "not counted"],
)
def test_the_scale_is_that_of_the_models_own_grades(
    page, shipped_service, knees, found, said, ticks, place
):
    info = httpx.get(f"{shipped_service}/info").json() | {"classes": ["low", "high"]} | found
    page.route("**/info", lambda route: route.fulfill(json=info))
    answer = {"class": 0, "label": "low", "probabilities": [0.75, 0.25], "expected_grade": 2}
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    page.goto(f"{shipped_service}/app")
    _choose(page, knees[0])
    _settle(page)
    assert _texts(page, ".grade") and _texts(page, ".of") == [said]
    assert "".join(page.locator("#cards .scale span").all_text_contents()) == ticks
    assert page.evaluate("document.querySelector('#cards .scale i').style.left") == place
    assert page.title() == "Classify an X-ray" and "knee" not in page.inner_text("header")


def test_classes_that_are_no_grades_have_no_scale(page, shipped_service, knees):
    info = httpx.get(f"{shipped_service}/info").json()
    info |= {"classes": ["cat", "dog"], "grades": [], "scale": ""}
    page.route("**/info", lambda route: route.fulfill(json=info))
    answer = {"class": 0, "label": "cat", "probabilities": [0.75, 0.25]}
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    page.goto(f"{shipped_service}/app")
    _choose(page, knees[0])
    _settle(page)
    assert _texts(page, ".label") == ["cat"] and _texts(page, ".grade") == []
    with page.expect_download() as download:
        page.click("#download")
    assert "expected_grade" not in Path(download.value.path()).read_text()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says_so(page, knees, status):
    following = _hold(page, "predict")
    _choose(page, knees[0])
    busy = {"title": "Busy", "status": status, "code": "busy", "detail": "too many at once"}
    following().fulfill(status=status, json=busy, headers={"retry-after": "1"})
    expect(page.locator(".state")).to_have_text("The service is busy: asking again in 1 s")
    following().continue_()
    _settle(page)
    assert len(_texts(page, ".label")) == 1 and _texts(page, ".problem") == []


def test_a_service_that_is_gone_is_said_and_can_be_asked_again(page, knees):
    following = _hold(page, "predict")
    _choose(page, knees[0])
    following().abort("connectionrefused")
    _settle(page)
    assert _texts(page, ".problem p")[0].startswith("No answer:")
    page.click(".again")
    following().continue_()
    _settle(page)
    assert len(_texts(page, ".label")) == 1 and _texts(page, ".problem") == []


def _give(page, token):
    expect(page.locator("#ask")).to_be_visible()
    page.keyboard.insert_text(token)
    page.keyboard.press("Enter")


def test_a_token_is_asked_for_once_and_kept_in_memory_only(tab, guarded_url, knees):
    page = tab(f"{guarded_url}/app")
    _give(page, "not-this-one")
    expect(page.locator("#ask")).to_contain_text("refused")
    _give(page, TOKEN)
    expect(page.locator("dd").first).to_be_visible()
    _choose(page, *knees[:4])
    _settle(page, 4)
    assert len(_texts(page, ".label")) == 4
    expect(page.locator("#ask")).to_be_hidden()
    kept = "localStorage.length + sessionStorage.length + document.cookie.length"
    assert page.evaluate(kept) == 0
    assert page.locator("#token").input_value() == ""
    assert not _complaints(page)


@pytest.mark.parametrize("given_before", [True, False])
def test_the_link_to_the_interface_leads_there_where_a_token_is_asked_for(
    tab, guarded_url, given_before
):
    page = tab(f"{guarded_url}/app")
    expect(page.locator("#ask")).to_be_visible()
    with page.expect_download() as download:
        if given_before:
            _give(page, TOKEN)
            expect(page.locator("dd").first).to_be_visible()
            page.click("#interface")
        else:
            page.keyboard.press("Escape")
            expect(page.locator("#model-problem")).to_be_visible()
            page.click("#interface")
            _give(page, TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    expected = httpx.get(f"{guarded_url}/docs.json", headers=headers).json()
    assert download.value.suggested_filename == "docs.json"
    assert json.loads(download.value.path().read_text()) == expected


@pytest.mark.parametrize("name", ["knee.dcm", "knee"])
def test_a_dicom_file_is_judged_as_its_pixels_are_and_said_to_have_no_preview(
    page, shipped_service, tmp_path, xrays, as_dicom, name
):
    knee = tmp_path / name
    knee.write_bytes(as_dicom(xrays[1]))
    _choose(page, knee)
    _settle(page)
    assert _texts(page, ".label") == [_predicted(shipped_service, knee)["label"]]
    assert "Browsers cannot show DICOM" in page.locator(".xray").text_content()


def test_without_a_token_the_services_own_words_are_shown(tab, guarded_url, knees):
    page = tab(f"{guarded_url}/app")
    expect(page.locator("#ask")).to_be_visible()
    page.keyboard.press("Escape")
    refusal = httpx.get(f"{guarded_url}/info").json()["detail"]
    expect(page.locator("#model-problem")).to_have_text(refusal)
    _choose(page, knees[0])
    page.click("#ask-not")
    _settle(page)
    assert _texts(page, ".problem p") == [refusal]


def test_the_model_and_its_proof_are_shown(page, shipped_service):
    info = httpx.get(f"{shipped_service}/info").json()
    for fact in (
        info["model"],
        info["model_sha256"][:12],
        f"Equal to PyTorch on {info['equivalence']['samples']} samples",
        info["provider"]["active"].removesuffix("ExecutionProvider"),
    ):
        expect(page.locator("#facts")).to_contain_text(fact)
    assert "Not a medical device." in page.locator("header").text_content()


def test_a_model_that_was_not_ready_yet_is_told_of_anew(page, shipped_service, knees):
    info = httpx.get(f"{shipped_service}/info").json()
    answers = [info | {"ready": False, "reason": "it is being opened"}]
    page.route("**/info", lambda route: route.fulfill(json=answers.pop() if answers else info))
    page.goto(f"{shipped_service}/app")
    expect(page.locator("#model-problem")).to_have_text("Not ready: it is being opened")
    _choose(page, knees[0])
    _settle(page)
    expect(page.locator("#model-problem")).to_be_hidden()
    assert page.locator("#facts dt").all_text_contents().count("Name") == 1


def test_the_csv_holds_what_is_shown_and_no_formula(
    page, shipped_service, tmp_path, knees, no_knee
):
    content, sneaky = knees[0].read_bytes(), knees[0].rename(tmp_path / '=1+1,"x".png')
    others = [
        tmp_path / f"{each}1.png" for each in (" =", "\u00a0@", "\uff1d", "(\u2212", "\u200b+")
    ]
    for path in others:
        path.write_bytes(content)
    _choose(page, sneaky, no_knee, *others)
    _settle(page, 2 + len(others))
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "knees.csv"
    with download.value.path().open(newline="") as file:
        good, bad, *rest = csv.DictReader(file)
    assert [each["file"] for each in rest] == [f"'{path.name}" for path in others]
    lines = download.value.path().read_text().splitlines()
    assert all(re.fullmatch('"[^\n]*"(,"[^\n]*")*', line) for line in lines)
    expected = _predicted(shipped_service, sneaky)
    assert good["file"] == f"'{sneaky.name}" and good["label"] == expected["label"]
    assert float(good[f"p_{expected['label']}"]) == pytest.approx(
        max(expected["probabilities"]), abs=1e-6
    )
    assert good["in_scope"] == json.dumps(expected["in_scope"])
    assert bad["label"] == "" and bad["problem"] == _predicted(shipped_service, no_knee)["detail"]


def test_the_csv_of_the_page_and_of_predict_tell_formulas_alike():
    assert f"/{FORMULA}/u" in (ROOT / "bento/page/script.js").read_text()


def test_a_pasted_picture_is_taken(page):
    page.evaluate(
        """new Promise((done) => new OffscreenCanvas(224, 224).getContext("2d").canvas
          .convertToBlob().then((blob) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
            done();
          }))"""
    )
    _settle(page)
    assert _texts(page, ".name") == ["image.png"] and len(_texts(page, ".label")) == 1


def test_without_javascript_it_says_so(tab, shipped_service):
    page = tab(f"{shipped_service}/app", java_script_enabled=False)
    assert _texts(page, "noscript p")[0].startswith("This page needs JavaScript")
    assert _texts(page, "#drop") == []
