"""Text to ids with the vocabulary of Qwen2.5: ours against Hugging Face's tokenizers.

usage: tokenizer.py TEXT...      needs tokenizers, build/bench/tokenizer (make bench) and build/vocab
                                 (scripts/fetch-vocabularies)

A text is cut at empty lines; each paragraph is encoded by itself, as a message is.
"""

import os
import pathlib
import re
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for both; read when tokenizers is imported

from tokenizers import Tokenizer  # noqa: E402
from turns import ROOT, Program, compare, print_header  # noqa: E402

VOCABULARY = ROOT / "build" / "vocab" / "qwen" / "tokenizer.json"
LENGTH = 300_000  # characters


def paragraphs_of(path: pathlib.Path) -> list[str]:
    text = path.read_text()
    return [p for p in re.split(r"\n\s*\n", text * (LENGTH // len(text) + 1)) if p]


def main():
    tokenizer = Tokenizer.from_file(str(VOCABULARY))
    print_header()
    with tempfile.TemporaryDirectory() as folder:
        for path in map(pathlib.Path, sys.argv[1:]):
            paragraphs = paragraphs_of(path)
            text = pathlib.Path(folder) / "text"
            text.write_text("\0".join(paragraphs))
            compare(f"qwen_{path.stem}", Program("tokenizer", VOCABULARY, text),
                    lambda some=paragraphs: sum(len(e.ids) for e in tokenizer.encode_batch_fast(some)))


main()
