"""Texts on which tokenizers differ, the same ones each time."""

import random

SNIPPETS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\n \n\t\n", "\n\n\n\n\n", "\t\t\t", " \t \t ",
    "Hello", " Hello", "Hello ", "Hello  world", "   leading", "trailing   ", "Hello, world!", "  two  gaps  ",
    "I'm you're he'll we've they'd it's can't", "I'M YOU'RE HE'LL WE'VE", "''''", "don’t", "O'Neill's 'quoted'",
    "0", "42", "007", "123", "1234", "12345", "123456789", "3.14159", "1,000,000", "a1b2c3", "²³¹ ½ Ⅷ", "٣٤٥", "१२३", "1e-9",
    "camelCaseWord snake_case_word SCREAMING_CASE kebab-case", "http://example.org/a?b=c&d=e#f", "user@example.org",
    "def f(x):\n    return x ** 2\n", "if (a != b) { c++; } // why", "\t\tindented\n\t\tagain", "for(;;){}\n\n\n}",
    "#include <stdio.h>\nint main(void) { return 0; }\n", "SELECT * FROM t WHERE a >= 1;", "<div class=\"x\">y</div>",
    "fn main() {\n    println!(\"{}\", 1);\n}\n", "{\"key\": [1, 2.5, null, true]}", "$ ls -la | grep '^d'", "a->b::c[d]==e&&!f",
    "café naïve Übermut", "cafe\u0301 nai\u0308ve", "ﬁ ligature", "Привет, мир", "нещо на Български", "你好，世界。", "こんにちは世界",
    "한국어 조선말", "שלום עולם", "مرحبا بالعالم", "สวัสดีชาวโลก", "नमस्ते दुनिया", "Γειά σου Κόσμε", "Xin chào thế giới", "कि", "க்ஷ", "កាន់តែពិសេស",
    "🙂", "👩‍👩‍👧‍👦 🇫🇷 👍🏽", "🚀 (normal) 😶\u200d🌫️ ✅ 🦙🦙", "\u200b\u200d\ufeff", "a\u00a0b\u3000c", "\u0001\u007f", "e\u0301\u0323\u0302",
    "!!!!!!!! ???? .... ----", "------=======", "''''''```````\"\"\"\"......!!!!!!??????", "a" * 100, " " * 40 + "x", "=" * 70,
    "ſ ẞ İ ı", "\U0001d54f\U0001d54f", "…—–“”", "x\u2028y\u0085z", "3 33 333 3333 33333 333333", "( ) [ ] { } < >", "\\n \\t \\\\",
    "The quick brown fox jumps over the lazy dog.", "Les naïfs ægithales hâtifs pondant à Noël", "Zwölf Boxkämpfer jagen Viktor",
    "async fn f<'a>(x: &'a str) -> Result<(), Box<dyn Error>> { x?.y().await }", "public static void main(String[] args) {",
    "for i in range(10):\n\tif i % 2 == 0:\n\t\tprint(f\"{i:>4}\")\n", "let x = y ?? z?.w ?? `t${n}`;\r\n", "// TODO: fix\n/* a */",
    "SELECT COUNT(*), name FROM users GROUP BY name HAVING COUNT(*) > 1;", "$x = @$y['z'] ?: 0;", "#!/bin/sh\nset -eu\n",
    "git commit -m 'x' && git push --force-with-lease", "\\begin{align}\na &= b^2 \\\\\n\\end{align}", "| a | b |\n|---|---|\n| 1 | 2 |",
    "# Title\n\n- one\n- two\n  - three\n\n```rust\nlet x = 1;\n```", "0xDEADBEEF 0b1010 1_000_000 6.02e23", "2024-02-29T23:59:59.999Z",
    "+1 (555) 010-0199", "192.168.0.1:8080", "50% of $1,234.56 is £617.28", "１２３ ৪৫৬ ௭௮", "12 345 678,9", "v1.2.3-rc.4+build.5",
    "😀😃😄😁", "👨🏿‍🚒👩🏻‍⚕️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿 ☕️ ❤️‍🔥", "a🙂b🙂 🙂c", "①②③ ㊗️ ™ © ®", "♠♥♦♣ →←↑↓ ∑∫√∞ ≤≥≠", "█▓▒░ ┌─┐│└┘",
    "漢字とカタカナとひらがな", "中文 English 混排 123", "繁體中文與简体中文", "ｶﾀｶﾅ ＦＵＬＬ　ＷＩＤＴＨ", "안녕하세요 여러분", "「こんにちは」、『世界』！", "𠮷野家 𩸽",
    "ế ệ ữ ợ", "a\u0308\u0301 o\u0328 s\u0323\u0307", "\u0301 alone", "ॐ क्षत्रिय श्री", "ไม่มีที่สิ้นสุด", "تَشْكِيل", "שָׁלוֹם", "Ａ\u030a Å Å", "n\u0303 ñ",
    "ὈΔΥΣΣΕΎΣ Ὀδυσσεύς", "Ελλάδα ΕΛΛΆΔΑ", "ŽLUŤOUČKÝ kůň", "İstanbul ISPARTA ısı", "ЗДРАВСТВУЙ, Мир! ёжик", "ქართული Հայերեն አማርኛ", "ǅungla ǈ",
    "\u2003em\u2009thin\u202fnarrow\u00a0no-break", "\x0b\x0c", "a \t b\t c", "\n \n  \n   \n", "word\n\n\nword", "  \t\n  x", "tail \n", "\u200e\u200f\u2060",
    "mixedCASEWords HTTPServer iPhone eBay McDonald's", "it'S IT'LL we'd've y'all 'tis", "well-known state-of-the-art", "e.g. i.e. etc. U.S.A.",
    "¿Qué? ¡Sí!", "« Bonjour »", "„Hallo“ ‚ja‘", "100°C ±5µm Ω", "x² + y³ = z⁴", "H₂O CO₂", "½ ⅓ ¾", "Ⅳ ⅳ", "№ 5 § 7 ¶",
    "<s>", "</s>", "<unk>", "<0x0A>", "[INST] hi [/INST]", "<|unknown|>", "<|im_start", "▁", "▁▁", " ▁a▁ ", "[PAD5]", "Ġ", "Ċ",
]
LETTERS = ["a", "B", "ß", "é", "Ж", "ж", "字", "か", "한", "א", "ع", "अ", "ไ", "Ω", "ﬀ", "Ǆ"]
MARKS = ["\u0301", "\u0308", "\u093f", "\u0e31", "\u05b7", "\u0650"]
GLUE = ["", " ", "  ", "\n", "\t", "'", ".", "-", "_", "/", "\u00a0"]


def texts(specials: list[str], count: int = 1000) -> list[str]:
    """Returns at least `count` texts and those of special tokens: the snippets, runs, each
    special token, alone and among others, and chance combinations of all these."""
    chance = random.Random(20240607)
    found = list(SNIPPETS)
    found += [" " * n + "x" for n in range(1, 33)] + ["x" + "\n" * n for n in range(1, 9)]
    found += [character * n for n in (2, 3, 5, 17) for character in " \n\t.-=#*/_0aé字🙂"]
    found += [letter + mark for letter in LETTERS for mark in MARKS]
    found += [str(chance.randrange(10**n)) for n in range(1, 16)]
    # a GPT-like vocabulary has a handful; Gemma has thousands, most of them in rows only
    shown = specials if len(specials) <= 300 else chance.sample(specials, 300)
    for special in shown:
        found += [special, f"a{special}b", f"Hi {special} there\n{special}{special}"]
    rest = [special for special in specials if special not in shown]
    found += ["a".join(rest[at : at + 16]) for at in range(0, len(rest), 16)]
    pieces = [text for text in SNIPPETS if text] + LETTERS + shown[:40]
    while len(found) < count + 3 * len(shown):
        parts = chance.choices(pieces, k=chance.randrange(2, 6))
        found.append("".join(part + chance.choice(GLUE) for part in parts))
    unique = list(dict.fromkeys(found))
    return unique
