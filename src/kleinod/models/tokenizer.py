"""Prompt to token ids: chat template, cut and padded on the right. Source: klein-facts D."""

from pathlib import Path

import torch
from tokenizers import Tokenizer as _Tokenizer
from torch import Tensor

from kleinod.errors import WeightsError

_TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Tokenizer:
    """A tokenizer.json of Qwen3's family."""

    def __init__(self, backend: _Tokenizer, max_length: int = 512) -> None:
        self._backend, self.max_length = backend, max_length
        backend.no_padding()
        backend.no_truncation()
        self.pad_id = backend.token_to_id("<|endoftext|>")

    @classmethod
    def from_file(cls, path: str | Path, max_length: int = 512) -> "Tokenizer":
        """Read tokenizer.json. Raises WeightsError."""
        try:
            backend = _Tokenizer.from_file(str(path))
        # the library raises nothing narrower
        except Exception as error:
            raise WeightsError(f"{path}: is no tokenizer.json ({error}); fetch it again") from error
        if backend.token_to_id("<|endoftext|>") is None:
            raise WeightsError(f"{path}: has no <|endoftext|>; take a Qwen3 tokenizer")
        return cls(backend, max_length)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (b, max_length), int64, and their mask (1 word, 0 padding)."""
        ids = torch.full((len(prompts), self.max_length), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            text = _TEMPLATE.format(prompt="{}").replace("{}", prompt)
            words = self._backend.encode(text, add_special_tokens=False).ids[: self.max_length]
            ids[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return ids, mask
