"""What is done with a model that opens: its text side, and a step of the native core."""

from pathlib import Path
from random import Random

import numpy as np
from tests.fuzz.gguf_input import TEMPLATE

from alpage.core.errors import AlpageError
from alpage.engine.native import NativeRunner, available_isas
from alpage.engine.protocol import StepBatch
from alpage.llama.text import TextSide, load_text_side
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model

ISAS = available_isas()
TEXTS = ("abc de", " a\u00e9\u4e2d\U0001f600", "<|im_end|><s>", "12345 ab\n\n")


def use_model(path: Path, dice: Random) -> str:
    """Open the model, build its text side, run three tokens natively and read every logit."""
    with open_model(path) as source:
        said = f"{source.name}{source.quantization}{source.licence}{source.lineage}"
        if not said.isprintable():
            raise AssertionError(f"labels with control characters: {said[:200]!r}")
        error: AlpageError | None = None
        try:
            side = load_text_side(source)
            use_text(side)
            if source.chat_template not in (None, TEMPLATE) or dice.random() < 0.05:
                side.encode_chat([{"role": "user", "content": TEXTS[2]}], None, {})
        except AlpageError as refused:  # the weights are looked at all the same
            error = refused
        ran = use_weights(source, dice)
        if error is not None:
            raise error
        return ran


def use_text(side: TextSide) -> None:
    """Encode and decode."""
    tokenizer = side.tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text)
        tokenizer.decode(ids)
        tokenizer.encode(text, special=True)
    tokenizer.decode_bytes(range(min(tokenizer.vocab_size, 300)), skip_special=False)


def use_weights(source: ModelSource, dice: Random) -> str:
    """Load into the core and run; the result may be infinite or NaN, never a crash."""
    next(iter(source.tensors.values())).dequantize()
    isa = dice.choice(ISAS)
    runner = NativeRunner(source, threads=1, context_tokens=16, isa=isa)
    rows = dice.choice((1, 2, 3))
    last = source.config.vocab_size - 1
    batch = StepBatch(
        tokens=np.array([dice.randint(0, last) for _ in range(rows)], np.int32),
        positions=np.arange(rows, dtype=np.int32),
        sequences=np.zeros(rows, np.int32),
        page_tables=np.zeros((1, 1), np.int32),
        outputs=np.arange(rows, dtype=np.int32),
    )
    logits = runner.forward(batch)
    kind = "finite" if np.isfinite(logits).all() else "not finite"
    runner.close()
    return f"{kind} {isa}"
