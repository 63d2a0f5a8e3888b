"""A tiny model that reads and writes single letters, and expects a begin-of-text token."""

from tests.weights.gguf_files import ARRAY, BOOL, STRING, GgufFile, tiny_model

CONTROL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
BEGIN = 1


def letters_model() -> GgufFile:
    """28 letters and digits beside four control tokens; weights are random."""
    model = tiny_model().set("tokenizer.ggml.add_bos_token", BOOL, True)
    model.set("tokenizer.ggml.tokens", ARRAY, (STRING, [*CONTROL, *"abcdefghijklmnopqrstuvwxyz01"]))
    return model.set("tokenizer.ggml.merges", ARRAY, (STRING, []))
