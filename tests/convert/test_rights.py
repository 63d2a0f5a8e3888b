"""Nothing is exported without licence and lineage, and Llama's own rules are kept."""

from pathlib import Path

import pytest
from tests.convert import models

from alpage import __version__
from alpage.convert.convert import convert
from alpage.convert.quantize import quantize
from alpage.convert.rights import Identity, exported, llama_terms
from alpage.core.errors import UsageError
from alpage.weights.contents import Lineage
from alpage.weights.source import open_model

LLAMA31_TEXT = (
    "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024\n"
)
NOTICE31 = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. "
    "All Rights Reserved."
)


@pytest.mark.parametrize(
    ("licence", "bases", "wanted"),
    [
        ("llama3.1", (), "3.1"),
        ("llama3.2", (), "3.2"),
        ("llama3", (), "3"),
        ("Llama-2", (), "2"),
        ("Llama 3.1 Community License", (), "3.1"),
        ("apache-2.0", ("meta-llama/Llama-3.1-8B",), "3.1"),
        ("mit", ("meta-llama/Meta-Llama-3-8B-Instruct",), "3"),
        ("apache-2.0", ("TinyLlama/TinyLlama-1.1B",), None),
        ("apache-2.0", ("openlm/open_llama_3b_v2",), None),
        ("apache-2.0", ("llama-3.15-x",), None),
        (None, (), None),
    ],
)
def test_the_family_is_found_by_licence_or_base(
    licence: str | None, bases: tuple[str, ...], wanted: str | None
) -> None:
    terms = llama_terms(licence, Lineage(base_models=bases))
    assert (terms and terms.family) == (wanted and f"Llama {wanted}")


@pytest.mark.parametrize("licence", [None, "", "unknown", "Other"])
def test_an_unknown_licence_is_refused(licence: str | None) -> None:
    known = Identity("m", licence, Lineage())
    with pytest.raises(UsageError, match=r"nothing is exported without licence and lineage.*--lic"):
        exported(known, "converted")
    assert exported(known, "converted", licence="mit").licence == "mit"


@pytest.mark.parametrize(
    ("licence", "bases", "name", "good"),
    [
        ("llama3.1", (), "Alpaca-8B", False),
        ("llama3.1", (), "Llama-Alpaca-8B", True),
        ("llama3.1", (), "My-Llama", False),
        ("apache-2.0", ("meta-llama/Llama-3.1-8B",), "Alpaca", False),
        ("llama3", (), "Llama-Alpaca", False),
        ("llama3", (), "Llama-3-Alpaca", True),
        ("llama2", (), "Alpaca", True),
        ("apache-2.0", (), "Alpaca", True),
    ],
)
def test_names_of_derived_models(
    licence: str, bases: tuple[str, ...], name: str, good: bool
) -> None:
    known = Identity(name, licence, Lineage(base_models=bases))
    if good:
        assert exported(known, "converted").name == name
        return
    with pytest.raises(UsageError, match="must begin with 'Llama") as caught:
        exported(known, "converted")
    assert "Community License asks" in str(caught.value) and "--name" in str(caught.value)


def test_lineage_grows_by_one_step() -> None:
    known = Identity("m", "mit", Lineage("me", ("a/b",), ("d",), ("tuned",)))
    lineage = exported(known, "converted to X").lineage
    assert lineage.contributions == ("tuned", f"converted to X with Alpage {__version__}")
    assert (lineage.authors, lineage.base_models, lineage.datasets) == ("me", ("a/b",), ("d",))


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "x" * 300])
def test_strange_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="printable"):
        exported(Identity("m", "mit", Lineage()), "converted", name=name)


@pytest.fixture
def llama31(tmp_path: Path) -> Path:
    folder = models.hf_model(tmp_path / "Llama-3.1-Tiny")
    (folder / "README.md").write_text(
        "---\nbase_model:\n- meta-llama/Llama-3.1-8B\n---\nOld card\n"
    )
    (folder / "LICENSE").write_text(LLAMA31_TEXT)
    (folder / "USE_POLICY.md").write_text("# Use policy\n")
    return folder


@pytest.mark.parametrize("layout", ["hf", "meta", "gguf"])
def test_a_llama_travels_with_its_papers(llama31: Path, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    with open_model(llama31) as source:
        assert source.licence == "llama3.1"
        convert(source, out, layout)  # type: ignore[arg-type]
    assert (out / "NOTICE").read_text("utf-8").strip() == NOTICE31
    assert (out / "LICENSE").read_text() == LLAMA31_TEXT
    assert (out / "USE_POLICY.md").read_text() == "# Use policy\n"
    assert "Old card" in (out / "README.source.md").read_text()
    card = (out / "README.md").read_text("utf-8")
    assert "# Llama-3.1-Tiny" in card and "**Built with Llama**" in card and NOTICE31 in card
    with open_model(out) as result:
        assert result.name == "Llama-3.1-Tiny"  # the folder is called otherwise
        assert result.licence == "llama3.1"
        assert result.lineage.base_models == ("meta-llama/Llama-3.1-8B",)
        (step,) = result.lineage.contributions
        assert step.startswith("converted from BF16 in Hugging Face's layout to ")
        assert step.endswith(f"with Alpage {__version__}")


def test_the_card_has_the_licence_as_hubs_spell_it(llama31: Path, tmp_path: Path) -> None:
    for licence, spelled in (
        ("Llama3.1", "llama3.1"),
        ("Our own terms, v2", '"Our own terms, v2"'),
    ):
        with open_model(llama31) as source:
            convert(source, tmp_path / spelled[:3], "hf", licence=licence)
        card = (tmp_path / spelled[:3] / "README.md").read_text("utf-8")
        assert f"\nlicense: {spelled}\n" in card


def test_a_missing_agreement_is_asked_for(llama31: Path, tmp_path: Path) -> None:
    with open_model(llama31) as source:
        assert convert(source, tmp_path / "whole", "gguf").notes == ()
    (llama31 / "LICENSE").unlink()
    with open_model(llama31) as source:
        (said,) = convert(source, tmp_path / "out", "gguf", licence="llama3.1").notes
        made = quantize(source, tmp_path / "one.gguf", "Q8_0", licence="llama3.1")
    assert "the Llama 3.1 Community License asks that its text travels with the model" in said
    (said,) = made.notes
    assert NOTICE31 in said and 'show "Built with Llama"' in said and "one.gguf" in said
    with open_model(models.hf_model(tmp_path / "other")) as source:
        assert quantize(source, tmp_path / "other.gguf", "Q8_0", licence="mit").notes == ()


def test_metas_own_names_may_stay(llama31: Path, tmp_path: Path) -> None:
    """Its models up to 3.1 are called Meta-Llama; a new name must begin as the licence says."""
    lineage = Lineage(base_models=("meta-llama/Llama-3.1-8B",))
    known = Identity("Meta Llama 3.1 8B Instruct", "llama3.1", lineage)
    assert exported(known, "converted").name == known.name
    with pytest.raises(UsageError, match="must begin with 'Llama'"):
        exported(known, "converted", name="Meta-Llama-Mine")


def test_papers_of_the_source_win(llama31: Path, tmp_path: Path) -> None:
    (llama31 / "Notice.txt").write_text("Our own notice\n")
    with open_model(llama31) as source:
        convert(source, tmp_path / "out", "hf")
    assert (tmp_path / "out" / "Notice.txt").read_text() == "Our own notice\n"
    assert not (tmp_path / "out" / "NOTICE").exists()


def test_one_file_has_no_room_for_a_notice(llama31: Path, tmp_path: Path) -> None:
    with open_model(llama31) as source, pytest.raises(UsageError, match="give a folder"):
        convert(source, tmp_path / "x.gguf", "gguf")


def test_licence_and_lineage_of_a_gguf_file(tmp_path: Path) -> None:
    path = models.gguf_model(tmp_path / "in.gguf")
    known = Identity("m", "mit", Lineage("me", ("a/b", "c"), ("d/e",), ('tuned "well"',)))
    with open_model(path) as source:
        convert(source, tmp_path / "one.gguf", "gguf", identity=known)
    with open_model(tmp_path / "one.gguf") as one:
        assert (one.licence, one.name, one.lineage.authors) == ("mit", "m", "me")
        assert one.lineage.base_models == ("a/b", "c")
        assert one.lineage.datasets == ("d/e",)
        assert len(one.lineage.contributions) == 2
        convert(one, tmp_path / "hf", "hf")
        convert(one, tmp_path / "two.gguf", "gguf")
    for target in ("hf", "two.gguf"):
        with open_model(tmp_path / target) as two:
            assert two.licence == "mit"
            assert two.lineage.contributions[:2] == one.lineage.contributions
            assert len(two.lineage.contributions) == 3
            assert two.lineage.base_models == ("a/b", "c")
            assert two.lineage.authors == "me"
