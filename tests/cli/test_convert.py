"""`alpage convert` as it is typed."""

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Alpage
from tests.convert import models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.hf_model(tmp_path / "in")


def test_it_tells_what_it_wrote(alpage: Alpage, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = alpage("convert", model, out, "--to", "gguf", "--type", "F16", "--name", "new", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["type"], facts["licence"]) == ("new", "F16", "apache-2.0")
    assert facts["files"] == [str(file) for file in sorted(out.iterdir())]
    assert facts["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert "100 %" in done.stderr
    again = alpage("convert", model, out, "--to", "meta", "--shards", "2")
    assert again.returncode == 2 and "--force replaces it" in again.stderr
    forced = alpage("convert", model, out, "--to", "meta", "--shards", "2", "--force")
    assert forced.returncode == 0 and "written" in forced.stdout
    assert (out / "consolidated.01.pth").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard-size", "lots"), "a size is a number and a unit"),
        (("--shard-size", "0MB"), "a size is a number and a unit"),
        (("--shards", "2"), "--shards is for Meta's layout"),
        (("--to", "meta", "--shard-size", "1MB"), "is split with --shards"),
        (("--name", " "), "printable"),
        (("--type", "Q4_K"), "Q4_K"),
    ],
)
def test_wrong_usage_is_explained(
    alpage: Alpage, model: Path, tmp_path: Path, options: tuple[str, str], words: str
) -> None:
    done = alpage("convert", model, tmp_path / "out", "--to", "hf", *options)
    assert done.returncode == 2 and words in done.stderr
    assert not (tmp_path / "out").exists()


def test_sizes_have_units(alpage: Alpage, model: Path, tmp_path: Path) -> None:
    done = alpage("convert", model, tmp_path / "out", "--to", "hf", "--shard-size", "0.05 MB")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2


def test_a_licence_must_be_known(alpage: Alpage, model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    done = alpage("convert", model, tmp_path / "out", "--to", "hf")
    assert done.returncode == 2 and "nothing is exported without licence" in done.stderr
    done = alpage("convert", model, tmp_path / "out", "--to", "hf", "--license", "mit")
    assert done.returncode == 0 and "mit" in done.stdout
