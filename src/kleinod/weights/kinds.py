"""Is a file the component it is given as? If not, what it is and how it is used. No torch in here.

Reads headers only, so that a wrong file is refused before anything expensive.
"""

from collections.abc import Mapping
from pathlib import Path

from kleinod.errors import WeightsError
from kleinod.weights import identify
from kleinod.weights.headers import TensorEntry, read_header
from kleinod.weights.identify import Finding
from kleinod.weights.listing import weight_files
from kleinod.weights.prefixes import AUTOENCODER, TEXT_ENCODER, TRANSFORMER

# as geometry.py names them
WANTED = {
    TRANSFORMER: "klein transformer",
    TEXT_ENCODER: "Qwen3 text encoder",
    AUTOENCODER: "FLUX.2 autoencoder",
}
_OPTIONS = {
    TRANSFORMER: "--model",
    TEXT_ENCODER: "--text-encoder",
    AUTOENCODER: "--autoencoder",
    identify.CHECKPOINT: "--model",
}
_LORA = "LoRA files are not loaded; give a model into which it is merged"


def read_entries(path: Path) -> dict[str, TensorEntry]:
    """The headers' tensors of a component's files. Raises WeightsError."""
    headers = [read_header(file) for file in weight_files(path)]
    return {name: entry for header in headers for name, entry in header.tensors.items()}


def check_kind(path: Path, component: str) -> Mapping[str, Mapping[str, TensorEntry]]:
    """Raise WeightsError if a path is known to hold something else than this component.

    Gives the components of a checkpoint, nothing for a file of one. What is not recognized passes:
    loading says what it lacks.
    """
    entries = read_entries(path)
    parts = identify.checkpoint_parts(entries)
    finding = identify.recognise(parts.get(component, entries))
    if parts and component not in parts:
        raise WeightsError(f"{path}: {finding.notes[0]}, no {component.replace('_', ' ')}")
    is_right = finding.component == component and finding.is_klein
    if not is_right and finding.component != identify.UNKNOWN:
        title = finding.title
        article = "" if title.startswith(("an ", "another ")) else "a "
        raise WeightsError(
            f"{path}: is not a {WANTED[component]} but {article}{title}; {_use(finding, component)}"
        )
    return parts


def _use(finding: Finding, component: str) -> str:
    """How to use what was given as something else."""
    if finding.component == identify.LORA:
        return _LORA
    option = _OPTIONS.get(finding.component)
    if finding.is_klein and option:
        return f"give it as {option}"
    return f"it is not used here, give a {WANTED[component]}"
