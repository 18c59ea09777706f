"""The wheel, built once from a clean copy, and clean environments that it is installed in."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bento", "export", "toolkit")
NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "ProxyError")


def pip(*arguments, python=sys.executable):
    """Run pip on the environment of `python`; without a network the test skips."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    if done.returncode and any(each in done.stderr for each in NO_NETWORK):
        pytest.skip("pip reaches no index of packages")
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `folder` that the wheel is installed in."""

    folder: Path

    @property
    def python(self):
        return self.folder / "bin/python"

    def run(self, command, *arguments, cwd, check=True):
        """Run a command of this environment with nothing of the one that runs the tests."""
        kept = {"HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS"}
        environment = {name: value for name, value in os.environ.items() if name in kept}
        environment["PATH"] = f"{self.folder / 'bin'}:/usr/bin:/bin"
        done = subprocess.run(
            [self.folder / "bin" / command, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def packages(self):
        """Names of what is installed."""
        found = pip("list", "--format=freeze", python=self.python).splitlines()
        return {line.partition("==")[0].lower() for line in found}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, from a copy: a `build` folder that lies about would leak into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tests", "docs", "examples", "benchmarks", "deploy", *PACKAGES):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """Return a function of extras that gives a clean environment with the wheel and them."""
    made = {}

    def install(*extras):
        if extras not in made:
            folder = tmp_path_factory.mktemp("-".join(("environment", *extras)))
            venv.create(folder, with_pip=False)
            environment = Environment(folder)
            pip("install", "--no-compile", str(wheel), python=environment.python)
            if extras:
                # What errors tell the user to type: pip takes the toolkit that is there.
                wanted = f"toolkit[{','.join(extras)}]"
                pip("install", "--no-compile", wanted, python=environment.python)
            assert "toolkit" in environment.packages()
            made[extras] = environment
        return made[extras]

    return install


@pytest.fixture
def place(tmp_path):
    """A folder with the shipped model and an X-ray, xray.png, and nothing of the source."""
    from PIL import Image

    from toolkit.xray.synthetic import generate

    shutil.copytree(
        ROOT / "saved_models",
        tmp_path / "saved_models",
        ignore=lambda _, names: [each for each in names if not each.startswith("model_saved.")],
    )
    (xray,) = generate(1, seed=1, grades=(4,))
    Image.fromarray(xray.pixels).save(tmp_path / "xray.png")
    return tmp_path
