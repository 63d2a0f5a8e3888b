"""Licence and lineage of what is exported: nothing leaves without them, and Llama's rules hold.

Sources: Meta's community licences of Llama 2, 3, 3.1, 3.2 and 3.3, section 1.b (redistribution).
"""

import re
from dataclasses import dataclass, replace

from alpage import __version__
from alpage.core.errors import UsageError
from alpage.weights.contents import Lineage, ModelSource
from alpage.weights.fields import is_plain


@dataclass(frozen=True, slots=True)
class LlamaTerms:
    """What Meta's licence of one Llama family asks of whoever passes on a derived model."""

    family: str
    licence: str
    """The licence's identifier on model hubs."""
    title: str
    prefix: str | None
    """What the name of a derived model must begin with."""
    badge: str | None
    """What must be shown with it."""
    notice: str
    """The line of attribution that the NOTICE file must have."""


def _terms(version: str, prefix: str | None, badge: str | None) -> LlamaTerms:
    family = f"Llama {version}"
    title = f"{'Meta Llama 3' if version == '3' else family} Community License"
    sign = "(c)" if version == "2" else "©"
    owner = f"Copyright {sign} Meta Platforms, Inc. All Rights Reserved."
    who = "Meta Llama 3" if version == "3" else family
    licence = f"llama{version}"
    agreement = "LLAMA 2 Community License" if version == "2" else title
    return LlamaTerms(
        family, licence, title, prefix, badge, f"{who} is licensed under the {agreement}, {owner}"
    )


LLAMA_TERMS = (
    _terms("2", None, None),
    _terms("3", "Llama 3", "Built with Meta Llama 3"),
    _terms("3.1", "Llama", "Built with Llama"),
    _terms("3.2", "Llama", "Built with Llama"),
    _terms("3.3", "Llama", "Built with Llama"),
)
_MENTION = re.compile(r"(?<![a-z])llama[-_ ]?(2|3(?:\.\d)?)(?![.\db])", re.IGNORECASE)
_NO_LICENCE = {"", "unknown", "other", "none", "unlicensed"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a written model is called, under which licence, and where it comes from."""

    name: str
    licence: str | None
    lineage: Lineage

    @staticmethod
    def of(source: ModelSource) -> "Identity":
        """As the source says it."""
        return Identity(source.name, source.licence, source.lineage)

    @property
    def terms(self) -> LlamaTerms | None:
        """Meta's terms, where the licence or a base model says that they hold."""
        return llama_terms(self.licence, self.lineage)


def llama_terms(licence: str | None, lineage: Lineage) -> LlamaTerms | None:
    """The terms of the Llama family that a model is or comes from; None for all other models.

    A base model counts whatever licence the model itself states: its terms come along.
    """
    mentions = [licence or "", *lineage.base_models]
    for text in mentions:
        match = _MENTION.search(text.rpartition("/")[2])
        if match is not None:
            for terms in LLAMA_TERMS:
                if terms.licence == f"llama{match[1]}":
                    return terms
    return None


def exported(
    known: Identity,
    step: str,
    *,
    name: str | None = None,
    licence: str | None = None,
) -> Identity:
    """The identity of an export of `known`: its lineage grows by `step`.

    `name` and `licence` are the user's; `UsageError` where the licence is unknown, or where the
    name is not what Llama's licence asks for.
    """
    licence = licence or known.licence
    if licence is None or licence.strip().lower() in _NO_LICENCE:
        raise UsageError(
            "the model does not state its licence, and nothing is exported without licence and "
            "lineage: find out from whoever made it, and give it with --licence, by its "
            "identifier (apache-2.0, mit, llama3.1, ...)"
        )
    name = known.name if name is None else name
    for what, text in (("name", name), ("licence", licence)):
        if not text.strip() or not is_plain(text, 200):
            raise UsageError(f"a {what} has 1 to 200 printable characters, not {text[:80]!r}")
    lineage = replace(
        known.lineage,
        contributions=(*known.lineage.contributions, f"{step} with Alpage {__version__}"),
    )
    result = Identity(name, licence, lineage)
    terms = result.terms
    own = name == known.name and _begins(name, "Meta Llama")  # Meta's own name, kept
    if terms and terms.prefix and not own and not _begins(name, terms.prefix):
        raise UsageError(
            f"the name {name!r} must begin with {terms.prefix!r}: the {terms.title} asks that of "
            f"every model that comes from {terms.family}; give one with --name, for example "
            f"{terms.prefix.replace(' ', '-')}-{name}"
        )
    return result


def _begins(name: str, prefix: str) -> bool:
    return name.replace("-", " ").replace("_", " ").startswith(prefix)


def notice(terms: LlamaTerms) -> str:
    """The text of the NOTICE file."""
    return terms.notice + "\n"
