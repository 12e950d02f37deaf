"""What to say to a name that is unknown: which known name was probably meant. Knows no torch.

A table of names that other programs have for the same thing comes first, then spelling. Names are
compared without case, dashes and underscores, so that `--num-images`, `numImages` and `num_images`
are one.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

# a name with as many letters or fewer is too short to be compared by its spelling
_SHORT = 2
_MIN_LIKENESS, _MIN_ALIAS_LIKENESS = 0.6, 0.85
_MAX_LISTED = 12

# by our name, or several that together say the same: diffusers' names, BFL's, OpenAI's, those of
# ComfyUI and of other programs' command lines
_FOREIGN: dict[tuple[str, ...], tuple[str, ...]] = {
    ("prompt",): ("text", "caption", "instruction", "prompts", "positive", "p"),
    ("negative_prompt",): ("negative", "negative_text", "uncond", "n_prompt"),
    ("reference_images",): (
        *("image", "images", "input_image", "input_images", "init_image", "init_img"),
        *("reference", "references", "reference_image", "ref_image", "ref_images", "control_image"),
    ),
    ("num_inference_steps",): (
        *("steps", "num_steps", "n_steps", "sampling_steps", "sample_steps", "inference_steps"),
        *("num_sampling_steps",),
    ),
    ("guidance_scale",): ("guidance", "cfg", "cfg_scale", "true_cfg_scale", "guidance_strength"),
    ("num_images",): (
        *("num_images_per_prompt", "n", "batch_size", "batch_count", "num_samples", "num_outputs"),
        *("n_samples", "count"),
    ),
    ("seed",): ("generator", "manual_seed", "random_seed", "noise_seed"),
    ("width",): ("w",),
    ("height",): ("h",),
    ("width", "height"): ("size", "resolution", "image_size", "dimensions", "aspect_ratio"),
    ("dtype",): ("torch_dtype", "precision", "weight_dtype", "variant"),
    ("device",): ("device_map", "gpu", "cuda"),
    ("quantize",): ("quantization", "quantization_config", "load_in_8bit", "bits"),
    ("offload",): ("residency", "cpu_offload", "lowvram", "medvram", "enable_model_cpu_offload"),
    ("compile",): ("torch_compile",),
    ("autoencoder",): ("vae", "ae"),
    ("text_encoder",): ("clip", "llm"),
    ("model",): (
        *("model_id", "model_path", "checkpoint", "ckpt", "repo_id", "pretrained_model"),
        *("pretrained_model_name_or_path",),
    ),
    ("output",): (
        *("out", "outfile", "output_file", "output_path", "output_dir", "outdir", "save"),
        *("save_path", "filename"),
    ),
    ("safety",): ("safety_checker", "nsfw", "nsfw_filter", "disable_safety_checker"),
    ("progress",): ("progress_bar", "show_progress"),
    ("on_step",): ("callback_on_step_end", "callback"),
    ("quiet",): ("silent", "no_progress"),
    ("help",): ("usage",),
}
# spelled as `_plain` gives them
_ALIASES = {foreign.replace("_", ""): ours for ours, names in _FOREIGN.items() for foreign in names}


def suggestions(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that `name` was probably meant to be; several belong together."""
    plain, by_spelling = _plain(name), {_plain(one): one for one in known}
    if plain in by_spelling:
        return (by_spelling[plain],)
    if aliases := _aliases(plain, by_spelling):
        return aliases
    if len(plain) <= _SHORT:
        return ()
    begun = [one for one in by_spelling if one.startswith(plain)]
    close = begun or get_close_matches(plain, by_spelling, n=1, cutoff=_MIN_LIKENESS)
    if close:
        return (by_spelling[close[0]],)
    foreign = get_close_matches(plain, _ALIASES, n=1, cutoff=_MIN_ALIAS_LIKENESS)
    return _aliases(foreign[0], by_spelling) if foreign else ()


def unknown_name(name: str, known: Iterable[str], *, kind: str = "argument") -> str:
    """One line that names an unknown argument, option, … and what was probably meant.

    known: the names in the order in which they are listed where none is near.
    """
    known = tuple(known)
    near = suggestions(name, known)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' and '.join(map(repr, near))}?"
    listed = ", ".join(known[:_MAX_LISTED]) + (", …" if len(known) > _MAX_LISTED else "")
    return f"unknown {kind} {name!r}" + (f"; known are {listed}" if listed else "")


def _aliases(plain: str, by_spelling: Mapping[str, str]) -> tuple[str, ...]:
    """Our names for another program's, if all of them are known here."""
    ours = [_plain(one) for one in _ALIASES.get(plain, ())]
    is_known = all(one in by_spelling for one in ours)
    return tuple(by_spelling[one] for one in ours) if is_known else ()


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
