"""The model card and the licence's files: what a person must know travels with the model."""

from pathlib import Path

from alpage.convert.rights import Identity, notice
from alpage.core.config import LlamaConfig
from alpage.core.errors import UserError
from alpage.weights.mapped import read_text

CARD, SOURCE_CARD, NOTICE = "README.md", "README.source.md", "NOTICE"
_MAX_TEXT = 1 << 20
_LEGAL = ("license", "licence", "notice", "use_policy", "copying")


def write_papers(
    folder: Path, source: Path, identity: Identity, config: LlamaConfig, stored: str
) -> list[str]:
    """Write the model card into `folder`, and copy licence, notice and use policy from `source`.

    `source` is the folder or file that the model was read from; `stored` says how its weights are
    stored now. The source's own card comes along as README.source.md. Returns what a person must
    still do before passing the model on.
    """
    (folder / CARD).write_text(_card(identity, config, stored), "utf-8")
    if source.is_dir():
        for file in sorted(source.iterdir()):
            if file.stem.lower() in _LEGAL and file.suffix.lower() in ("", ".md", ".txt"):
                _copy(file, folder / file.name)
        old = source / SOURCE_CARD
        _copy(old if old.is_file() else source / CARD, folder / SOURCE_CARD)
    terms = identity.terms
    present = {file.stem.lower() for file in folder.iterdir()}
    if terms is None:
        return []
    if "notice" not in present:
        (folder / NOTICE).write_text(notice(terms), "utf-8")
    if present & {"license", "licence"}:
        return []
    return [
        f"the {terms.title} asks that its text travels with the model, and {source.name} has no "
        "copy: put it beside the weights as LICENSE before you pass them on"
    ]


def _copy(file: Path, target: Path) -> None:
    """Copy a text of reasonable size; anything else of that name is no paper."""
    if not file.is_file():
        return
    try:
        target.write_text(read_text(file, _MAX_TEXT), "utf-8")
    except UserError:
        return


def _card(identity: Identity, config: LlamaConfig, stored: str) -> str:
    lineage = identity.lineage
    assert identity.licence is not None
    # Model hubs know licences by identifiers in lower case; a licence in words stays as it is.
    known = identity.licence if " " in identity.licence else identity.licence.lower()
    lines = ["---", f"license: {_quoted(known)}"]
    lines.append(f"model_name: {_quoted(identity.name)}")
    if lineage.authors:
        lines.append(f"author: {_quoted(lineage.authors)}")
    for key, values in (
        ("base_model", lineage.base_models),
        ("datasets", lineage.datasets),
        ("contributions", lineage.contributions),
    ):
        if values:
            lines += [f"{key}:", *(f"- {_quoted(value)}" for value in values)]
    lines += ["pipeline_tag: text-generation", "---", "", f"# {identity.name}", ""]
    terms = identity.terms
    if terms is not None and terms.badge is not None:
        lines += [f"**{terms.badge}**", ""]
    lines += [
        f"A Llama model of {config.parameter_count:,} parameters and {config.context_length:,} "
        f"tokens of context, stored as {stored}.",
        "",
        "## Licence",
        "",
        identity.licence,
    ]
    if terms is not None:
        lines += ["", terms.notice]
    lines += ["", "## Lineage", ""]
    lines += [f"- made by {lineage.authors}"] if lineage.authors else []
    lines += [f"- based on {value}" for value in lineage.base_models]
    lines += [f"- trained on {value}" for value in lineage.datasets]
    lines += [f"- {value}" for value in lineage.contributions]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A plain YAML scalar where that is safe, else one in double quotes."""
    plain = all(letter.isalnum() or letter in " ._/-" for letter in value)
    special = value.lower() in ("yes", "no", "true", "false", "null") or value[:1] in "-. "
    if plain and not special and not value.replace(".", "").isdigit():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
