"""Strings to encode, and judges to compare with; the same in every run."""

import functools
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]
import tiktoken
from tiktoken.load import load_tiktoken_bpe

from alpage.tokenizer.bytelevel import bytes_of
from alpage.tokenizer.tiktoken import LLAMA3_SPECIALS

SENTENCES = {
    "Amharic": "ሰው ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، ٢٠٢٤.",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে। ১২৩",
    "Burmese": "လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "Cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心！",
    "Czech": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti; příliš žluťoučký kůň.",
    "Danish": "Alle mennesker er født frie; rødgrød med fløde på åen.",
    "English": "All human beings are born free and equal; it's they'll WE'RE I'VE don't O'Neil's.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan.",
    "French": "Tous les êtres humains naissent libres ; l'œuvre « ça » coûte 12,50 €.",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი.",
    "German": "Alle Menschen sind frei; Straße, Größe, Übermut, ẞ und 1.234,56 EUR.",
    "Greek": "Ὅλοι οἱ ἄνθρωποι γεννιοῦνται ἐλεύθεροι καὶ ἴσοι.",
    "Gujarati": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર છે.",
    "Hebrew": "כל בני האדם נולדו בני חורין וְשָׁוִים בערכם.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता है। १२३४",
    "Japanese": "すべての人間は、生まれながらにして自由であり、ｶﾀｶﾅとカタカナ。",
    "Kannada": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "Khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងសមភាព។ ១២៣",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 한글",
    "Lao": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ",
    "Malayalam": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടെ ജനിച്ചവരാണ്.",
    "Mongolian": "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ Хүн бүр төрж мэндлэхдээ эрх чөлөөтэй.",
    "Polish": "Wszyscy ludzie rodzą się wolni; zażółć gęślą jaźń.",
    "Portuguese": "Todos os seres humanos nascem livres; ação, coração, às 10h30.",
    "Russian": "Все люди рождаются свободными и равными; ёжик №5, съешь ещё.",
    "Sinhala": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.",
    "Spanish": "¿Todos los seres humanos nacen libres? ¡Sí, el año que viene!",
    "Swahili": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "Telugu": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును సమానులు.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน ๑๒๓",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས།",
    "Turkish": "Bütün insanlar hür doğarlar; İstanbul'da ılık ığdır.",
    "Ukrainian": "Всі люди народжуються вільними; ґанок, їжак, об'єкт.",
    "Urdu": "تمام انسان آزاد اور برابر پیدا ہوئے ہیں۔",
    "Vietnamese": "Mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm.",
    "Yoruba": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan.",
}

EMOJI = ("😀", "👩‍👩‍👧‍👦", "🧑🏽‍🚀", "🏳️‍🌈", "🇨🇭", "❤️", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "☕", "👍🏿", "🤷‍♀️", "🪿")

CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n}\r\n",
    '<div class="a b">&nbsp;</div>\n\n\n<!-- \' -->',
    "SELECT * FROM t WHERE a='it''s' AND b<>3;",
    "\\frac{a}{b} \\begin{align*} x &= 1 \\\\ \\end{align*}",
    "x=>{return`${y}`}//!=~^|&*()[]{}@#$%_+-?.,:;",
    'fn main() { println!("{:?}", vec![1u8; 0xFF]); }',
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt",
)

SPACES = (" ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u200b",
          "\x0b", "\x0c", "\x85", "\ufeff", "\u1680", "\u180e")  # fmt: skip

LOOKALIKES = (
    "<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<|",
    "<|start_header_id|>", "<|im_", "end|>", "<repo_name>", "|>", "<<|im_end|>>",
)  # fmt: skip

_BLOCKS = (
    (0x00, 0x20), (0x20, 0x7F), (0x7F, 0x100), (0x100, 0x250), (0x2B0, 0x370), (0x391, 0x3CA),
    (0x400, 0x500), (0x5D0, 0x5EB), (0x620, 0x66A), (0x905, 0x93A), (0xE01, 0xE3B),
    (0x1E00, 0x1F00), (0x2000, 0x2065), (0x20A0, 0x20C0), (0x2150, 0x218A), (0x2190, 0x2400),
    (0x2460, 0x2500), (0x3041, 0x3097), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0xE000, 0xE010),
    (0xFF01, 0xFF5F), (0xFFF9, 0xFFFE), (0x10330, 0x1034B), (0x1D400, 0x1D455),
    (0x1D7CE, 0x1D800), (0x1F600, 0x1F650), (0x20000, 0x20100), (0xE0100, 0xE0110),
    (0x10FFFE, 0x110000),
)  # fmt: skip


def _piece(rng: random.Random) -> str:
    """One random ingredient of a string."""
    kind = rng.randrange(12)
    if kind < 2:
        sentence = rng.choice(list(SENTENCES.values()))
        at = rng.randrange(len(sentence))
        return sentence[at : at + rng.randrange(1, 30)]
    if kind == 2:
        return "".join(rng.choices(EMOJI, k=rng.randrange(1, 4)))
    if kind == 3:
        code = rng.choice(CODE)
        at = rng.randrange(len(code))
        return code[at : at + rng.randrange(1, 40)]
    if kind == 4:
        return "".join(
            rng.choices(SPACES, weights=[9, 3, 5, 2, 2, *[1] * 11], k=rng.randrange(1, 9))
        )
    if kind == 5:
        return rng.choice(SPACES[:5]) * rng.randrange(1, 70)
    if kind == 6:
        number = str(rng.randrange(10 ** rng.randrange(1, 20)))
        return rng.choice(("", " ", "-", "$", "0x")) + number + rng.choice(("", "%", ".5", "e-7"))
    if kind == 7:
        return "e" + "".join(chr(rng.randrange(0x300, 0x36F)) for _ in range(rng.randrange(1, 6)))
    if kind == 8:
        return rng.choice(("'s", "'T", "'re", "'VE", "'m", "'Ll", "'d", "'ſ", "’s", "' s", "''"))
    if kind == 9:
        return rng.choice(LOOKALIKES)
    low, high = rng.choice(_BLOCKS)
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 8)))


@functools.cache
def strings() -> tuple[str, ...]:
    """10,000 mixtures, every sentence and program, and one string per character of many blocks."""
    rng = random.Random(20240723)
    mixed = ["".join(_piece(rng) for _ in range(rng.randrange(1, 12))) for _ in range(10_000)]
    runs = [char * n for char in ("a", " ", "\n", "1", "!", "é", "中", "\t ", "\r\n", "-=")
            for n in (*range(1, 20), 63, 64, 65, 127, 128, 129, 511, 1025)]  # fmt: skip
    singles = [f"a{chr(code)}b{chr(code)} {chr(code)}" for code in range(0x3000)
               if unicodedata.category(chr(code)) not in ("Cn", "Cs")]  # fmt: skip
    return ("", *SENTENCES.values(), *CODE, *LOOKALIKES, *runs, *mixed, *singles)


@functools.cache
def byte_strings() -> tuple[bytes, ...]:
    """2,000 byte strings, most of them broken UTF-8."""
    rng = random.Random(310)
    found = [b"", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe4\xb8", b"\xe4"]
    for text in rng.choices([s for s in strings() if s], k=1_500):
        data = bytearray(text.encode())
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 4))
        found.append(bytes(data))
    return (*found, *(rng.randbytes(rng.randrange(1, 40)) for _ in range(500)))


@functools.cache
def smollm2_metadata(path: Path) -> dict[str, Any]:
    """Tokenizer metadata of a GGUF file, read by the `gguf` package."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}


@functools.cache
def llama3_judge(path: Path) -> tiktoken.Encoding:
    """tiktoken with Llama 3's ranks, pattern and special tokens."""
    return tiktoken.Encoding(
        "llama3",
        pat_str=LLAMA3,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens={text: 128_000 + i for i, text in enumerate(LLAMA3_SPECIALS)},
    )


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
RULES = {
    "llama-bpe": (LLAMA3,),
    "smollm": (r"\p{N}", GPT2),
    "gpt-2": (GPT2,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""llama.cpp's expressions for each rule: every one cuts what the ones before it left."""


def _cut(pattern: str, parts: list[str]) -> list[str]:
    """Isolate every match of `pattern`, keeping what lies between."""
    found: list[str] = []
    for part in parts:
        end = 0
        for match in regex.finditer(pattern, part):
            found += [part[end : match.start()], match[0]]
            end = match.end()
        found.append(part[end:])
    return [part for part in found if part]


def gguf_judge(metadata: dict[str, Any], rule: str) -> Callable[[str], list[int]]:
    """An encoder made of the `regex` module and tiktoken's merging, from GGUF metadata.

    tiktoken wants all 256 bytes and merges numbered by result, so pieces get new numbers: bytes
    first, then the results of the merges in order. Bytes that the vocabulary lacks have no id.
    """
    ids = {piece: i for i, piece in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {bytes([byte]): byte for byte in range(256)}
    back = {ranks[data]: ids[piece] for piece in ids if len(data := bytes_of(piece)) == 1}
    for line in metadata["tokenizer.ggml.merges"]:
        piece = line.replace(" ", "")
        rank = ranks.setdefault(bytes_of(piece), len(ranks))
        back[rank] = ids[piece]
    merger = tiktoken.Encoding("judge", pat_str=".", mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        parts = [text] if text else []
        for pattern in RULES[rule]:
            parts = _cut(pattern, parts)
        found = [r for part in parts for r in merger._encode_single_piece(part)]
        return [back[rank] for rank in found if rank in back]

    return encode
