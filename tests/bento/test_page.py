"""The page in a real Chromium, before a real server."""

import base64
import csv
import json
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import httpx
import numpy as np
import pytest
from devtools import CHROMIUM, Browser, Page

from toolkit.model.files import ModelFiles

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    each for each in (ROOT / "bento/page").iterdir() if each.is_file() and each.suffix != ".py"
]
SHOTS = Path(os.environ.get("TOOLKIT_ARTIFACTS", ROOT / "build/screenshots"))
SHIPPED = ModelFiles(ROOT / "saved_models", "model_saved")
TOKEN = "a-token"

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
SETTLED = "[...document.querySelectorAll('.state')].every((each) => each.hidden)"
HEAT = "!document.querySelector('.heat').hidden"


@pytest.fixture(scope="module")
def service_url(serving, tmp_path_factory):
    with serving(SHIPPED, tmp_path_factory.mktemp("service"), TOOLKIT_WORKERS="1") as (_, url, _):
        yield url


@pytest.fixture(scope="module")
def guarded_url(serving, tmp_path_factory):
    """The address of a service that wants a token."""
    more = {"TOOLKIT_WORKERS": "1", "TOOLKIT_TOKEN": TOKEN}
    with serving(SHIPPED, tmp_path_factory.mktemp("guarded"), **more) as (_, url, _):
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser, request):
    """Return a function that opens a tab; what it shows at the end is kept as a screenshot."""
    tabs = []

    def new(**settings):
        tabs.append(Page(browser, **settings))
        return tabs[-1]

    yield new
    SHOTS.mkdir(parents=True, exist_ok=True)
    for each in tabs:
        each.screenshot(SHOTS / f"{request.node.name.removeprefix('test_')}.png")
        each.close()


@pytest.fixture
def page(tab, service_url):
    page = tab()
    page.open(f"{service_url}/app")
    return page


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
    return {"class": 0, "label": "none"} | {
        name: base64.b64encode(encoded(pixels)).decode() for name, pixels in pictures.items()
    }


def _predicted(url, path):
    return httpx.post(f"{url}/predict", files={"xray": path.read_bytes()}).json()


def _meters(page):
    meters = page.value(
        "[...document.querySelectorAll('[role=meter]')].map((each) => "
        "[each.ariaLabel, each.ariaValueNow, each.firstChild.offsetWidth / each.offsetWidth])"
    )
    return {label: (float(value), width) for label, value, width in meters}


def _complaints(page):
    """What the console says, apart from refusals of the service."""
    logged = [each["entry"] for each in page.events("Log.entryAdded")]
    spoken = page.events("Runtime.exceptionThrown") + page.events("Runtime.consoleAPICalled")
    return [each for each in logged if each["source"] != "network"] + spoken


def test_files_are_in_the_wheel(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "bento", "toolkit", "export"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", tmp_path]
    subprocess.run([*command, source], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert {f"bento/page/{each.name}" for each in FILES} <= set(zipfile.ZipFile(wheel).namelist())


def test_files_are_in_the_bento():
    lines = (ROOT / "bentofile.yaml").read_text().splitlines()
    patterns = [line.strip('- "') for line in lines if line.startswith('  - "')]
    assert len(FILES) == 7
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        assert any(fnmatch(name, each) for each in patterns if each.startswith("bento/page")), name


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/app", "text/html"),
        ("/app/style.css", "text/css"),
        ("/app/script.js", "text/javascript"),
        ("/app/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_served_with_its_kind_its_policy_and_a_strong_etag(service_url, path, kind):
    answer = httpx.get(service_url + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "camera=()" in answer.headers["permissions-policy"]
    tag = answer.headers["etag"]
    assert tag.startswith('"')
    head = httpx.head(service_url + path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    again = httpx.get(service_url + path, headers={"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")


def test_the_root_leads_to_the_page(service_url):
    answer = httpx.get(service_url)
    assert answer.status_code == 307
    assert httpx.get(service_url, follow_redirects=True).url == f"{service_url}/app"


def test_nothing_is_inline_or_from_elsewhere():
    text = (ROOT / "bento/page/index.html").read_text()
    assert "<style" not in text and " style=" not in text and " onclick=" not in text
    assert "://" not in "".join(
        each.read_text().replace("http://www.w3.org/2000/svg", "") for each in FILES
    )


@in_chromium
def test_a_dropped_xray_shows_what_predict_says_and_nothing_else_is_asked(page, service_url, knees):
    page.drop(600, 500, knees[0])
    page.wait(f"document.querySelector('.card') && {SETTLED}")
    expected = _predicted(service_url, knees[0])
    assert page.text(".label") == expected["label"]
    assert page.text(".name") == knees[0].name
    classes = httpx.get(f"{service_url}/info").json()["classes"]
    meters = _meters(page)
    assert list(meters) == classes
    for label, share in zip(classes, expected["probabilities"], strict=True):
        value, width = meters[label]
        assert value == pytest.approx(share, abs=1e-6) and width == pytest.approx(share, abs=0.01)
    numbers = [f"{100 * share:.1f} %" for share in expected["probabilities"]]
    assert page.texts(".number") == numbers
    assert expected["label"] in page.text("#said")

    page.wait("!document.querySelector('.xray img').hidden")
    urls = [each["request"]["url"] for each in page.events("Network.requestWillBeSent")]
    assert f"{service_url}/predict" in urls
    assert all(each.startswith((service_url, f"blob:{service_url}", "data:")) for each in urls)
    assert not any(each.endswith("/explain") for each in urls), "it is slow, and nobody asked"
    assert not _complaints(page)


@in_chromium
def test_the_policy_stops_what_would_go_elsewhere(page):
    page.value("new Image().src = 'http://127.0.0.2:9/elsewhere.png'")
    page.wait("true")
    assert any("Content Security Policy" in str(each) for each in _complaints(page))


@in_chromium
def test_one_bad_file_of_several_is_refused_in_the_services_words(
    page, service_url, knees, no_knee
):
    page.choose(knees[0], no_knee, knees[1])
    page.wait(f"document.querySelectorAll('.card').length === 3 && {SETTLED}")
    refusal = _predicted(service_url, no_knee)["detail"]
    assert page.texts(".problem p") == [refusal]
    assert page.texts(".card .name") == [knees[0].name, no_knee.name, knees[1].name]
    labels = [_predicted(service_url, each)["label"] for each in knees[:2]]
    assert page.texts(".label") == labels
    assert page.text("#count") == "3 X-rays"


@in_chromium
def test_a_few_are_asked_at_once_and_the_others_wait(page, knees):
    page.pause("predict")
    page.choose(*knees)
    held = [page.paused() for _ in range(3)]
    assert page.texts(".state") == ["Reading"] * 3 + ["Waiting"] * 3
    page.resume(held[0])
    page.paused()
    assert page.texts(".state").count("Reading") == 3


@in_chromium
def test_heat_and_edge_map_come_on_demand(page, knees):
    page.choose(knees[0])
    page.wait(f"document.querySelector('.card') && {SETTLED}")
    page.click(".explain")
    page.wait(HEAT)
    assert page.value("document.querySelector('.edges img').naturalWidth") == 224
    assert page.value("document.querySelector('.heat img').naturalWidth") > 448
    assert "Red regions speak for" in page.text(".heat figcaption")
    assert not _complaints(page)


@in_chromium
def test_a_picture_is_kept_no_longer_than_it_takes_to_show_it(tab, service_url, knees, no_knee):
    page = tab()
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.open_ = new Set(); const { createObjectURL: make, revokeObjectURL: end } ="
        "URL; URL.createObjectURL = (x) => { const url = make(x); open_.add(url); return url; };"
        "URL.revokeObjectURL = (url) => { open_.delete(url); window.ended = true; end(url); };",
    )
    page.open(f"{service_url}/app")
    page.choose(knees[0], no_knee)
    page.wait("window.ended && open_.size === 0")


@in_chromium
def test_the_keyboard_alone_is_enough(page, knees, explained):
    def tab_to(name):
        for _ in range(12):
            page.press("Tab")
            if page.value("document.activeElement.innerText") == name:
                return page.value("getComputedStyle(document.activeElement).outlineStyle")
        return pytest.fail(f"no way to {name!r}")

    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    assert tab_to("Choose files") == "solid", "the focus can be seen"
    page.press("Enter")
    chooser = page.event("Page.fileChooserOpened")
    assert chooser["mode"] == "selectMultiple"
    node = chooser["backendNodeId"]
    page.call("DOM.setFileInputFiles", backendNodeId=node, files=[str(knees[0])])
    page.wait(f"document.querySelector('.card') && {SETTLED}")
    assert tab_to("Show what it looked at") == "solid"
    page.pause("explain")
    page.press("Enter")
    page.answer(page.paused(), 200, explained)
    page.wait(HEAT)
    assert page.value("document.activeElement.className") == "heat"
    page.value("document.activeElement.blur()")
    tab_to("Clear")
    page.press("Enter")
    assert page.texts(".card") == []
    assert page.value("document.activeElement.id") == "choose"


@in_chromium
def test_a_phone_of_360_pixels_never_scrolls_sideways(
    tab, service_url, tmp_path, knees, no_knee, explained
):
    page = tab(width=360, height=740)
    page.open(f"{service_url}/app")
    long = knees[0].rename(tmp_path / f"{'kneeofaverylongname' * 8}.png")
    page.choose(long, no_knee)
    page.wait(f"document.querySelectorAll('.card').length === 2 && {SETTLED}")
    page.pause("explain")
    page.click(".explain")
    page.answer(page.paused(), 200, explained)
    page.wait(HEAT)
    page.wait("document.querySelector('dd')")
    assert page.value("document.documentElement.scrollWidth") == 360


@in_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast_of_at_least_4_5(tab, service_url, knees, no_knee, dark):
    page = tab(dark=dark)
    page.open(f"{service_url}/app")
    page.choose(knees[0], no_knee)
    page.wait(f"document.querySelectorAll('.card').length === 2 && {SETTLED}")
    page.wait("document.querySelector('dd')")
    weak, count = page.value(
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


@in_chromium
@pytest.mark.parametrize(
    ("found", "notes"),
    [
        ({}, []),
        ({"abstain": False, "in_scope": True}, []),
        ({"abstain": True, "in_scope": True}, ["Not sure enough to go by."]),
        ({"abstain": True, "in_scope": False}, ["This does not look like the X-rays that this"]),
    ],
    ids=["unknown", "sure", "unsure", "unlike"],
)
def test_doubt_is_said_in_plain_words(page, knees, found, notes):
    answer = {"class": 1, "label": "minimal", "probabilities": [0.25, 0.5, 0.25, 0]}
    page.pause("predict")
    page.choose(knees[0])
    page.answer(page.paused(), 200, answer | {"expected_grade": 1.75} | found)
    page.wait(f"document.querySelector('.card') && {SETTLED}")
    shown = page.texts(".answer .notice")
    assert [each.startswith(note) for each, note in zip(shown, notes, strict=True)] == [True] * len(
        notes
    )
    meaningless = found.get("in_scope") is False
    assert page.texts(".grade strong") == ([] if meaningless else ["1.8"])


@in_chromium
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says_so(page, knees, status):
    page.pause("predict")
    page.choose(knees[0])
    busy = {"title": "Busy", "status": status, "code": "busy", "detail": "too many at once"}
    page.answer(page.paused(), status, busy, **{"retry-after": "1"})
    page.wait(
        "document.querySelector('.state').innerText === 'The service is busy: asking again in 1 s'"
    )
    page.resume(page.paused())
    page.wait(SETTLED)
    assert len(page.texts(".label")) == 1 and page.texts(".problem") == []


@in_chromium
def test_a_service_that_is_gone_is_said_and_can_be_asked_again(page, knees):
    page.pause("predict")
    page.choose(knees[0])
    page.call("Fetch.failRequest", requestId=page.paused(), errorReason="ConnectionRefused")
    page.wait(SETTLED)
    assert page.texts(".problem p")[0].startswith("No answer:")
    page.click(".again")
    page.resume(page.paused())
    page.wait(SETTLED)
    assert len(page.texts(".label")) == 1 and page.texts(".problem") == []


@in_chromium
def test_a_token_is_asked_for_once_and_kept_in_memory_only(tab, guarded_url, knees):
    page = tab()
    page.open(f"{guarded_url}/app")
    page.wait("document.querySelector('#ask').open")
    page.type("not-this-one")
    page.press("Enter")
    page.wait("document.querySelector('#ask').open && /refused/.test(ask.innerText)")
    page.screenshot(SHOTS / "token.png")
    page.type(TOKEN)
    page.press("Enter")
    page.wait("document.querySelector('dd')")
    page.choose(*knees[:4])
    page.wait(f"document.querySelectorAll('.card').length === 4 && {SETTLED}")
    assert len(page.texts(".label")) == 4
    assert not page.value("document.querySelector('#ask').open")
    assert page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert page.value("document.querySelector('#token').value") == ""
    assert not _complaints(page)


@in_chromium
@pytest.mark.parametrize("given_before", [True, False])
def test_the_link_to_the_interface_leads_there_where_a_token_is_asked_for(
    tab, guarded_url, tmp_path, given_before
):
    page = tab()
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(f"{guarded_url}/app")
    page.wait("document.querySelector('#ask').open")
    if not given_before:
        page.press("Escape")
        page.wait("!document.querySelector('#model-problem').hidden")
        page.click("#interface")
        page.wait("document.querySelector('#ask').open")
    page.type(TOKEN)
    page.press("Enter")
    if given_before:
        page.wait("document.querySelector('dd')")
        page.click("#interface")
    while page.event("Page.downloadProgress")["state"] != "completed":
        pass
    headers = {"authorization": f"Bearer {TOKEN}"}
    expected = httpx.get(f"{guarded_url}/docs.json", headers=headers).json()
    assert json.loads((tmp_path / "docs.json").read_text()) == expected


@in_chromium
def test_a_dicom_file_is_judged_as_its_pixels_are(page, service_url, tmp_path, xrays, as_dicom):
    knee = tmp_path / "knee.dcm"
    knee.write_bytes(as_dicom(xrays[1]))
    page.choose(knee)
    page.wait(f"document.querySelectorAll('.card').length === 1 && {SETTLED}")
    assert page.texts(".label") == [_predicted(service_url, knee)["label"]]
    assert "Browsers cannot show DICOM" in page.text(".xray")


@in_chromium
def test_without_a_token_the_services_own_words_are_shown(tab, guarded_url, knees):
    page = tab()
    page.open(f"{guarded_url}/app")
    page.wait("document.querySelector('#ask').open")
    page.press("Escape")
    refusal = httpx.get(f"{guarded_url}/info").json()["detail"]
    page.wait("!document.querySelector('#model-problem').hidden")
    assert page.text("#model-problem") == refusal
    page.choose(knees[0])
    page.wait("document.querySelector('#ask').open")
    page.click("#ask-not")
    page.wait(SETTLED)
    assert page.texts(".problem p") == [refusal]


@in_chromium
def test_the_model_and_its_proof_are_shown(page, service_url):
    page.wait("document.querySelector('dd')")
    info = httpx.get(f"{service_url}/info").json()
    shown = page.text("#facts")
    assert info["model"] in shown and info["model_sha256"][:12] in shown
    assert f"Equal to PyTorch on {info['equivalence']['samples']} samples" in shown
    assert info["provider"]["active"].removesuffix("ExecutionProvider") in shown
    assert "Not a medical device." in page.text("header")


@in_chromium
def test_the_csv_holds_what_is_shown_and_no_formula(page, service_url, tmp_path, knees, no_knee):
    sneaky = knees[0].rename(tmp_path / '=1+1,"x".png')
    page.choose(sneaky, no_knee)
    page.wait(f"document.querySelectorAll('.card').length === 2 && {SETTLED}")
    folder = tmp_path / "downloads"
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.click("#download")
    while page.event("Page.downloadProgress")["state"] != "completed":
        pass
    with (folder / "knees.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    expected = _predicted(service_url, sneaky)
    assert good["file"] == f"'{sneaky.name}" and good["label"] == expected["label"]
    assert float(good[f"p_{expected['label']}"]) == pytest.approx(
        max(expected["probabilities"]), abs=1e-6
    )
    assert good["in_scope"] == json.dumps(expected["in_scope"])
    assert bad["label"] == "" and bad["problem"] == _predicted(service_url, no_knee)["detail"]


@in_chromium
def test_a_pasted_picture_is_taken(page):
    page.value(
        """new Promise((done) => new OffscreenCanvas(224, 224).getContext("2d").canvas
          .convertToBlob().then((blob) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
            done();
          }))"""
    )
    page.wait(f"document.querySelector('.card') && {SETTLED}")
    assert page.texts(".name") == ["image.png"] and len(page.texts(".label")) == 1


@in_chromium
def test_a_dicom_file_is_said_to_have_no_preview(page, tmp_path):
    path = tmp_path / "knee"
    path.write_bytes(bytes(128) + b"DICM")
    page.pause("predict")
    page.choose(path)
    answer = {"class": 1, "label": "minimal", "probabilities": [0.25, 0.5, 0.25, 0]}
    page.answer(page.paused(), 200, answer)
    page.wait(SETTLED)
    assert page.text(".xray p").startswith("Browsers cannot show DICOM.")


@in_chromium
def test_without_javascript_it_says_so(tab, service_url):
    page = tab()
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(f"{service_url}/app")
    (notice,) = page.texts("noscript p")
    assert notice.startswith("This page needs JavaScript") and page.texts("#drop") == []
