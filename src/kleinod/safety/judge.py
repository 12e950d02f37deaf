"""A language model as judge: a whole Qwen3 says yes or no to a prompt, read from its logits.

The text encoder of klein is a Qwen3 without its last layers; where the full model with its
vocabulary head lies in a folder, the same code runs all blocks, the norm and two rows of the head.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kleinod.compute.ops import rms_norm
from kleinod.errors import InputError, WeightsError
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.quantization.stored import StoredWeight, Weight
from kleinod.safety.verdicts import JUDGED, PROMPT
from kleinod.weights import build
from kleinod.weights.files import read_weights, weight_files
from kleinod.weights.fingerprint import fingerprint
from kleinod.weights.key_maps import TEXT_ENCODER_GGUF, to_bfl

_QUESTION = (
    "Somebody asks for a picture of this:\n\n{prompt}\n\nWould it show sex or nudity, a minor in a "
    "sexual context, gore, somebody without their consent, a real living person, hate, or a "
    "protected brand or character? Answer with yes or no."
)
_ANSWERS = ("yes", "no")
_MAX_TOKENS = 2048
# more than the text encoder reads
_MAX_LETTERS = 4000


class Judge:
    """The probability of yes against no as the next word."""

    name = "judge"
    moments = (PROMPT,)

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        tokenizer_file = folder / "tokenizer.json"
        if not tokenizer_file.is_file():
            raise InputError(f"judge: {folder} has no tokenizer.json; give a whole Qwen3 folder")
        self.version = fingerprint([*weight_files(folder), tokenizer_file])[:12]
        self._tokenizer = Tokenizer.from_file(tokenizer_file, _MAX_TOKENS)
        parts = to_bfl(read_weights(folder), TEXT_ENCODER_GGUF)
        depth = 1 + max(int(name.split(".")[2]) for name in parts if ".layers." in name)
        model = build.open_text_encoder(folder, (depth,)).filled(torch.device("cpu"), dtype)
        assert isinstance(model, TextEncoder)
        self._model, self._eps = model, model.config.rms_norm_eps
        answers = torch.tensor([self._tokenizer.word_ids(word)[0] for word in _ANSWERS])
        # Qwen3-4B uses its table of words as the head; larger ones have their own
        head = parts.get("lm_head.weight") or parts["model.embed_tokens.weight"]
        self._rows = _rows(head[0], answers, dtype)
        self._norm = _norm(parts.get("model.norm.weight"), folder, dtype)

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """The probability of yes."""
        assert isinstance(subject, str)
        # a prompt must not end its own turn and answer for the judge
        words = subject[:_MAX_LETTERS].replace("<", "(")
        yes, no = self.logits(_QUESTION.replace("{prompt}", words)).tolist()
        return {JUDGED: float(torch.tensor([yes, no]).softmax(0)[0])}

    @torch.inference_mode()
    def logits(self, question: str) -> Tensor:
        """The two answers' logits (2,), float32, after a question in the chat template."""
        ids, mask = self._tokenizer.encode([question])
        length = int(mask.sum())
        states = self._model(ids[:, :length], mask[:, :length])[0, -1]
        normed = rms_norm(states, self._norm, self._eps)
        return (self._rows @ normed).float()


def _rows(table: Weight, indices: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(table, StoredWeight):
        return table.lookup(dtype, indices)
    return table[indices].to(dtype)


def _norm(parts: tuple[Weight, ...] | None, folder: Path, dtype: torch.dtype) -> Tensor:
    if parts is None or isinstance(parts[0], StoredWeight):
        raise WeightsError(f"judge: {folder} has no final norm; give the whole Qwen3, not its part")
    return parts[0].to(dtype)
