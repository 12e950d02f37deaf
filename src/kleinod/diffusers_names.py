"""What people who know diffusers look for on a pipeline, and where it is here. Plain data."""

_COMPONENT = "pipe.sampler holds the model; it encodes and decodes with encode_prompts and decode"
_SWITCH = (
    "nothing has to be switched on; what saves memory is offload: kleinod.load(..., offload=…)"
)
_LORA = "LoRA files are not loaded; give kleinod.load a model into which one is merged"
_LOAD = "call kleinod.load('mini'), or give it a repository id, a folder or a file"
_PREFIXES = ("enable_", "disable_")

_OF_PIPELINE = {
    "steps": "the bare sampler has it: pipe.sampler.steps(...); here: pipe.stream(...)",
    "decode": "the bare sampler has it: pipe.sampler.decode(...)",
    **dict.fromkeys(
        ("to", "cuda", "cpu", "half", "float"),
        "choose device and dtype when loading: kleinod.load(..., device='cuda', dtype='bfloat16')",
    ),
    "device": "it is pipe.sampler.device",
    "_execution_device": "it is pipe.sampler.device",
    "dtype": "it is pipe.sampler.dtype",
    "config": "name, licence and defaults are in pipe.info",
    **dict.fromkeys(
        ("vae", "transformer", "text_encoder", "tokenizer", "unet", "components", "autoencoder"),
        _COMPONENT,
    ),
    "scheduler": "the schedule is the model's own; num_inference_steps says how many steps it has",
    "image_processor": "images come as .image (PIL) and .data (the file's bytes)",
    **dict.fromkeys(
        ("safety_checker", "feature_extractor"), "kleinod.load(..., safety='off') or 'on'"
    ),
    "encode_prompt": "the bare sampler has it: pipe.sampler.encode_prompts([...])",
    "enable_model_cpu_offload": "kleinod.load(..., offload='model')",
    "enable_sequential_cpu_offload": "kleinod.load(..., offload='block')",
    "enable_group_offload": "kleinod.load(..., offload='block')",
    "enable_layerwise_casting": "kleinod.load(..., quantize='int8') or 'fp8'",
    **dict.fromkeys(
        (
            "load_lora_weights",
            "unload_lora_weights",
            "fuse_lora",
            "set_adapters",
            "load_ip_adapter",
        ),
        _LORA,
    ),
    "from_pretrained": "kleinod.load(...)",
    "from_single_file": "kleinod.load(...)",
    "save_pretrained": "`kleinod convert` writes models in another layout",
    "push_to_hub": "kleinod sends nothing anywhere",
    "set_progress_bar_config": "pipe.generate(..., progress=False)",
    "progress_bar": "pipe.generate(..., progress=False)",
    "compile": "kleinod.load(..., compile=True)",
    "img2img": "pipe.generate(..., reference_images=[...])",
    "edit": "pipe.generate(..., reference_images=[...])",
}
_MODULE_WORDS = ("from_pretrained", "from_single_file", "generate", "pipeline", "pipe", "sample")


def hint_on_pipeline(name: str) -> str:
    """What to do instead of using an attribute that a pipeline has not; "" where none is known."""
    return _OF_PIPELINE.get(name) or (_SWITCH if name.startswith(_PREFIXES) else "")


def hint_on_module(name: str) -> str:
    """The same for a name that `import kleinod` has not."""
    is_pipeline = name.endswith("Pipeline") or name.startswith("AutoPipeline")
    return _LOAD if is_pipeline or name in _MODULE_WORDS else ""
