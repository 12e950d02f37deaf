"""The published models that have a name, and what is known of each without its files."""

from dataclasses import dataclass

APACHE = "Apache-2.0"
NON_COMMERCIAL = "FLUX Non-Commercial License"
UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True)
class KnownModel:
    """A published model; variant is "distilled", "base" or "kv", size "4B" or "9B".

    format: "bf16" is a folder with every component; "fp8" and "nvfp4" are the transformer alone,
    one file. num_bytes: of the transformer.
    """

    name: str
    repository: str | None
    license: str
    variant: str = "distilled"
    size: str | None = None
    format: str = "bf16"
    num_bytes: int | None = None
    file: str | None = None

    @property
    def is_transformer_only(self) -> bool:
        """Whether text encoder and autoencoder are those of another model of its size."""
        return self.format != "bf16"


_HUB = "black-forest-labs/FLUX.2-"
_LICENSES = {"4B": APACHE, "9B": NON_COMMERCIAL}
# tensor bytes of the transformers in bfloat16, from their shapes
_BF16_BYTES = {"4B": 7_751_089_152, "9B": 18_157_162_496}


def _klein(title: str, variant: str = "distilled", *, num_bytes: int | None = None) -> KnownModel:
    """A model of Black Forest Labs by its repository's name without "FLUX.2-"."""
    size = "4B" if "4b" in title.lower() else "9B"
    number = title.lower().rpartition("-")[2]
    is_whole = number not in ("fp8", "nvfp4")
    return KnownModel(
        name=title.lower(),
        repository=_HUB + title,
        license=_LICENSES[size],
        variant=variant,
        size=size,
        format="bf16" if is_whole else number,
        num_bytes=_BF16_BYTES[size] if is_whole else num_bytes,
        file=None if is_whole else f"flux-2-{title}.safetensors",
    )


KNOWN = {
    model.name: model
    for model in (
        KnownModel("mini", None, APACHE),
        _klein("klein-4B"),
        _klein("klein-base-4B", "base"),
        _klein("klein-9B"),
        _klein("klein-base-9B", "base"),
        _klein("klein-9b-kv", "kv"),
        _klein("klein-4b-fp8", num_bytes=4_070_588_032),
        _klein("klein-9b-fp8", num_bytes=9_433_061_528),
        _klein("klein-base-9b-fp8", "base", num_bytes=9_567_278_472),
        _klein("klein-9b-kv-fp8", "kv", num_bytes=9_818_935_984),
        _klein("klein-9b-nvfp4", num_bytes=5_760_960_048),
        _klein("klein-base-9b-nvfp4", "base", num_bytes=5_809_193_808),
    )
}
