"""What to say to a name that is unknown: which known name was probably meant. Knows no torch.

A name of diffusers for which there is nothing here gets a sentence on what to do instead.

A table of names that other programs have for the same thing comes first, then spelling. Names are
compared without case, dashes and underscores, so that `--num-images`, `numImages` and `num_images`
are one.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from kleinod.display import quoted

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
_SCHEDULE = "the schedule is the model's own; num_inference_steps says how many steps it has"
_MASK = "masks are not supported; say in the prompt what to change in the reference image"
_LORA = "LoRA files are not loaded; give a model into which one is merged"
_PICTURES = "give pictures as reference_images, and say in the prompt what to take from each"
_RESULT = "each of a result's images has .image (PIL), .data (the file's bytes) and save(path)"
_EMBEDS = "prompts are given as text; their embeddings are cached"
_LOCAL = "models are loaded from this machine; `kleinod pull` downloads them"
_MEMORY = "offload says what leaves the device while it is not needed"
_COMPONENTS = "give components=kleinod.Components(text_encoder=…, autoencoder=…, tokenizer=…)"
_STEPS = "give on_step to generate, or loop over stream(...)"
# diffusers' arguments that have no counterpart, and what to do
_NO_COUNTERPART: dict[str, tuple[str, ...]] = {
    _MASK: ("mask_image", "mask", "masked_image_latents", "padding_mask_crop", "inpaint"),
    "a reference image is edited as the prompt says, without a strength; leave it out": (
        *("strength", "denoising_strength", "image_strength", "denoise", "noise_level"),
    ),
    _RESULT: ("output_type", "return_dict", "to_pil"),
    _EMBEDS: (
        *("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "prompt_2"),
        *("negative_prompt_2", "prompt_3", "clip_skip", "text_encoder_out_layers"),
    ),
    "the seed decides the noise; give seed": ("latents", "init_latents", "noise"),
    _SCHEDULE: (
        *("sigmas", "timesteps", "scheduler", "sampler", "sampler_name", "shift", "mu"),
        *("guidance_rescale", "denoising_end", "denoising_start"),
    ),
    _STEPS: (
        *("callback_on_step_end", "callback", "callback_steps", "on_step"),
        *("callback_on_step_end_tensor_inputs",),
    ),
    "the model reads so many tokens as it was trained for": ("max_sequence_length",),
    _LORA: ("lora", "loras", "lora_scale", "lora_path", "adapter_name", "cross_attention_kwargs"),
    _PICTURES: (
        *("ip_adapter_image", "ip_adapter_image_embeds", "controlnet_conditioning_scale"),
        *("controlnet", "control_mode", "style_image"),
    ),
    _LOCAL: (
        *("revision", "cache_dir", "token", "use_auth_token", "local_files_only", "subfolder"),
        *("force_download", "proxies", "resume_download", "mirror"),
    ),
    "weights are read from safetensors and GGUF files alone; leave it out": (
        *("use_safetensors", "trust_remote_code", "custom_pipeline", "use_onnx", "ignore_mismatch"),
    ),
    _MEMORY: ("low_cpu_mem_usage", "max_memory", "offload_folder", "offload_state_dict"),
    _COMPONENTS: ("vae", "ae", "autoencoder", "text_encoder", "tokenizer", "transformer", "unet"),
}
# what belongs to the other of two functions
_OF_LOAD = ("model", "device", "dtype", "offload", "quantize", "compile", "safety", "provenance")
_OF_GENERATE = (
    *("prompt", "negative_prompt", "reference_images", "num_inference_steps", "guidance_scale"),
    *("num_images", "seed", "width", "height", "format", "quality"),
)
# spelled as `_plain` gives them
_HINTS = {name.replace("_", ""): hint for hint, names in _NO_COUNTERPART.items() for name in names}
_ALIASES = {foreign.replace("_", ""): ours for ours, names in _FOREIGN.items() for foreign in names}


def suggestions(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that `name` was probably meant to be; several belong together."""
    plain, by_spelling = _plain(name), {_plain(one): one for one in known}
    if exact := _exact(plain, by_spelling):
        return exact
    if plain in _HINTS:
        return ()
    if len(plain) <= _SHORT:
        return ()
    begun = [one for one in by_spelling if one.startswith(plain)]
    close = begun or get_close_matches(plain, by_spelling, n=1, cutoff=_MIN_LIKENESS)
    if close:
        return (by_spelling[close[0]],)
    foreign = get_close_matches(plain, _ALIASES, n=1, cutoff=_MIN_ALIAS_LIKENESS)
    return _aliases(foreign[0], by_spelling) if foreign else ()


def unknown_name(
    name: str, known: Iterable[str], *, kind: str = "argument", function: str = ""
) -> str:
    """One line that names an unknown argument, option, … and what was probably meant.

    known: the names in the order in which they are listed where none is near. function: whose
    argument it is; one of `load` that is given to `generate` is sent there, and the reverse.
    """
    known, shown = tuple(known), quoted(name)
    exact = _exact(_plain(name), {_plain(one): one for one in known})
    hint = "" if exact else hint_for(name, function=function)
    if hint:
        return f"unknown {kind} {shown}; {hint}"
    near = exact or suggestions(name, known)
    if near:
        return f"unknown {kind} {shown}; did you mean {' and '.join(map(repr, near))}?"
    listed = ", ".join(known[:_MAX_LISTED]) + (", …" if len(known) > _MAX_LISTED else "")
    return f"unknown {kind} {shown}" + (f"; known are {listed}" if listed else "")


def hint_for(name: str, *, function: str = "") -> str:
    """What to do instead of giving an argument that has no counterpart; "" where none is known."""
    plain = _plain(name)
    if plain in _HINTS:
        return _HINTS[plain]
    ours = _ALIASES.get(plain, (name,))
    if function in ("generate", "stream") and set(ours) <= set(_OF_LOAD):
        return f"it is an argument of kleinod.load: {ours[0]}=…"
    if function == "load" and set(ours) <= set(_OF_GENERATE):
        given = ", ".join(f"{one}=…" for one in ours)
        return f"it is an argument of generate: pipe.generate(…, {given})"
    return ""


def _exact(plain: str, by_spelling: Mapping[str, str]) -> tuple[str, ...]:
    """The known names of exactly this spelling, or of this name in another program."""
    if plain in by_spelling:
        return (by_spelling[plain],)
    return _aliases(plain, by_spelling)


def _aliases(plain: str, by_spelling: Mapping[str, str]) -> tuple[str, ...]:
    """Our names for another program's, if all of them are known here."""
    ours = [_plain(one) for one in _ALIASES.get(plain, ())]
    is_known = all(one in by_spelling for one in ours)
    return tuple(by_spelling[one] for one in ours) if is_known else ()


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
