"""`alpage quantize`: a smaller model of the same weights."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alpage.cli.convert import Force, Licence, Name, known_identity
from alpage.cli.loading import ready
from alpage.cli.options import Json, Model, Threads
from alpage.cli.output import megabytes, note, print_facts, print_json
from alpage.cli.perplexity import read_text
from alpage.cli.progress import byte_progress, count_progress
from alpage.convert.mixes import MIXES
from alpage.core.errors import UsageError
from alpage.core.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alpage.convert.quantize import Quantized
    from alpage.weights.contents import ModelSource

Type = Annotated[
    str,
    typer.Argument(
        metavar="TYPE", help=f"One of {', '.join(MIXES)}. Q4_K_M is the usual choice.",
        show_default=False,
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="The GGUF file to write. Default: NAME.TYPE.gguf here."
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A text like those that the model will read: weights that matter for it keep more.",
    ),
]
CalibrateTokens = Annotated[
    int,
    typer.Option("--calibrate-tokens", metavar="N", help="At most so many tokens of that text."),
]


def command(
    model: Model,
    type_: Type,
    out: Out = None,
    calibrate: Calibrate = None,
    calibrate_tokens: CalibrateTokens = 20_480,
    name: Name = None,
    licence: Licence = None,
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write a model with smaller weights: less memory, more speed, a little less exact.

    Start from the most exact weights there are: what an earlier quantisation lost stays lost.
    """
    # Help needs none of these.
    from alpage.convert.place import check_target
    from alpage.convert.quantize import mix_name, quantize
    from alpage.convert.rights import Identity, exported
    from alpage.weights.source import open_model

    settings = Settings.from_environment()
    threads = settings.threads if threads is None else threads
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"threads must be between 1 and 1024, not {threads}")
    mix = mix_name(type_)
    calibration = None if calibrate is None else read_text(calibrate)
    with open_model(ready(model, settings)) as source:
        target = out or Path(f"{_stem(source)}.{mix}.gguf")
        check_target(source, target, force=force, folder=False)
        known = known_identity(model, settings) or Identity.of(source)
        exported(known, "quantised", name=name, licence=licence)  # refuses before the long work
        _warn(source)
        importance = None
        if calibration is not None:
            importance = _importance(source, calibration, calibrate_tokens, threads)
        with byte_progress(mix) as progress:
            made = quantize(
                source, target, mix,
                importance=importance,
                calibrated_on=calibrate.name if calibrate else "",
                identity=known,
                name=name,
                licence=licence,
                threads=threads,
                progress=progress,
            )  # fmt: skip
    facts = {**asdict(made), "path": str(made.path), "calibrated": importance is not None}
    if json:
        print_json(facts)
        return
    _tell(made, calibrate)


def _tell(made: "Quantized", calibrate: Path | None) -> None:
    for text in made.notes:
        note(text)
    print_facts([
        ("file", str(made.path)),
        ("type", f"{made.mix}, {made.bits_per_weight:.2f} bits a weight"),
        ("weights", f"{megabytes(made.bytes_before)} -> {megabytes(made.bytes_after)}"),
        ("tensors", ", ".join(f"{count} {kind}" for kind, count in made.tensors.items())),
        ("calibrated", str(calibrate) if calibrate else "no"),
    ])  # fmt: skip


def _stem(source: "ModelSource") -> str:
    """The source's name without its own type: what the new file's name begins with."""
    stem = source.path.stem if source.path.is_file() else source.path.resolve().name
    head, _, last = stem.rpartition(".")
    return head if head and last.upper() in {*MIXES, source.quantization.upper()} else stem


def _warn(source: "ModelSource") -> None:
    if any(t.type.block_size > 1 for t in source.tensors.values()):
        note(
            f"note: {source.path.name} is quantised already ({source.quantization}); what that "
            "lost stays lost, so start from F16, BF16 or F32 weights where you can"
        )


def _importance(
    source: "ModelSource", text: str, limit: int, threads: int | None
) -> "dict[str, NDArray[np.float32]]":
    from alpage.convert.calibrate import LEAST_TOKENS, importance, text_ids

    if limit < LEAST_TOKENS:
        raise UsageError(f"--calibrate-tokens must be at least {LEAST_TOKENS}, not {limit}")
    ids = text_ids(source, text, limit)
    with count_progress("calibrating", "tokens") as progress:
        return importance(source, ids, threads=threads, progress=progress)
