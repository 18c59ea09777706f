"""The whole path on generated X-rays: train, export, prove, serve, ask. `make demo` runs it."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NAME = "demo"
TRAINING = ["--layer-size", "16", "--dropout", "0.1", "--epochs", "12", "--batch-size", "16"]
STARTING_S = 90


def run(*command: str) -> None:
    """Print a command as the user would type it, and run it."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, check=True)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Return once the service answers /readyz, or exit with why it does not."""
    for _ in range(STARTING_S * 4):
        if server.poll() is not None:
            sys.exit(f"the service ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    sys.exit(f"the service was not ready after {STARTING_S} s")


def post(url: str, xray: Path) -> dict[str, object]:
    """Send an X-ray as the multipart field `xray`, and return the answer."""
    boundary = uuid.uuid4().hex
    body = b"".join(
        [
            f'--{boundary}\r\nContent-Disposition: form-data; name="xray"; '.encode(),
            f'filename="{xray.name}"\r\nContent-Type: image/png\r\n\r\n'.encode(),
            xray.read_bytes(),
            f"\r\n--{boundary}--\r\n".encode(),
        ]
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{url}/predict", body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def serve_and_ask(xray: Path, home: str) -> dict[str, object]:
    """Start the service on a free port, send it one X-ray, and stop it."""
    port = free_port()
    environment = os.environ | {"TOOLKIT_MODEL": NAME, "BENTOML_HOME": home}
    command = ["bentoml", "serve", "--host", "127.0.0.1", "-p", str(port)]
    print(f"\n$ TOOLKIT_MODEL={NAME} {shlex.join(command)}", flush=True)
    server = subprocess.Popen(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(server, url)
        shown = xray.relative_to(ROOT) if xray.is_relative_to(ROOT) else xray
        print(f"\n$ curl -F xray=@{shown} {url}/predict")
        return post(url, xray)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def main() -> None:
    """Run the demo from start to end."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run("toolkit", "train", "--name", NAME, *TRAINING)
        run("toolkit", "export", "onnx", NAME)
        run("toolkit", "data", "generate", f"{folder}/xrays", "--count", "40", "--seed", "1")
        xray = sorted(Path(folder).glob("xrays/*/4/*.png"))[0]
        answer = serve_and_ask(xray, f"{folder}/bentoml")
    print(json.dumps(answer, indent=2))
    manifest = json.loads((ROOT / f"saved_models/{NAME}.json").read_text())
    print(f"\nAn X-ray drawn as severe was classed as {answer['label']}:")
    for label, share in zip(manifest["labels"]["classes"], answer["probabilities"], strict=True):  # type: ignore[call-overload]
        print(f"  {label:10}{share:7.1%}")
    held_out = manifest["training"]["metrics"]["test"]
    print(f"Right on {held_out['accuracy']:.1%} of {held_out['n']} X-rays of patients held out.")
    print("Equal to PyTorch:", "yes" if manifest["equivalence"]["passed"] else "no")
    for what, where in (
        ("weights", f"saved_models/{NAME}.pt"),
        ("manifest", f"saved_models/{NAME}.json"),
        ("network", f"saved_models/{NAME}.onnx"),
        ("what is served", f"saved_models/{NAME}.pipeline.onnx"),
        ("curves", f"tensorboard --logdir logs/hyperparameters_tunned/{NAME}"),
        ("serve it", f"TOOLKIT_MODEL={NAME} {BIN.relative_to(ROOT)}/bentoml serve")
        if BIN.is_relative_to(ROOT)
        else ("serve it", f"TOOLKIT_MODEL={NAME} bentoml serve"),
    ):
        print(f"  {what:15} {where}")
    print(f"The service is stopped. All took {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
