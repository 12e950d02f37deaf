"""Curves and sheets for TensorBoard, where it is installed; the JSON lines are written anyway."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kleinod.extras import install_remedy

_log = logging.getLogger(__name__)


class Curves:
    """One run's event files, opened at the first value."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._is_off = False

    def add(self, step: int, values: dict[str, float]) -> None:
        """A point of each curve."""
        writer = self._opened()
        if writer is not None:
            try:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.flush()
            except OSError as error:  # a full disk: curves must not end a run
                self._is_off, self._writer = True, None
                _log.warning("TensorBoard's curves cannot be written (%s); JSON lines only", error)

    def add_sheet(self, step: int, path: Path) -> None:
        """A sheet of pictures that was just painted."""
        writer = self._opened()
        if writer is not None:
            picture = np.asarray(Image.open(path).convert("RGB"))
            writer.add_image(path.stem, picture, step, dataformats="HWC")
            writer.flush()

    def _opened(self) -> Any:  # noqa: ANN401
        if self._writer is None and not self._is_off:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._is_off = True
                _log.info("no TensorBoard, only JSON lines: %s", install_remedy("train"))
                return None
            self._writer = SummaryWriter(str(self.folder))
        return self._writer
