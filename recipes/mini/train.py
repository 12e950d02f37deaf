"""Train the built-in model, stage by stage: python recipes/mini/train.py STAGE [--steps N]

Stages: autoencoder, flow, decoder (optional), distil, export. Each goes on where it was stopped;
everything lies in runs/mini. Draw the icons first (recipes/mini/README.md).
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from write_vocabulary import vocabulary

from kleinod import catalog
from kleinod.catalog import ModelInfo
from kleinod.cli.progress_bars import progress_bars
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.icons.edits import Editor
from kleinod.icons.icons import Icons
from kleinod.icons.scenes import Composer, Example, drawing
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.training import checkpoints, distributed
from kleinod.training.autoencoder_training import AutoencoderRecipe, train_autoencoder
from kleinod.training.compact_tokenizer import train_tokenizer
from kleinod.training.distillation import DistillationRecipe, Paths, distillation_loop
from kleinod.training.export import export
from kleinod.training.flow import Flow
from kleinod.training.flow_stage import FlowRecipe, flow_loop, initialise
from kleinod.training.loop import Loop
from kleinod.training.pool import Pool, Tools
from kleinod.training.sample_images import sheet

RUN = Path("runs/mini")
AUTOENCODER = AutoencoderConfig(
    block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=2
)
TRANSFORMER = TransformerConfig(
    num_layers=2,
    num_single_layers=6,
    num_attention_heads=8,
    attention_head_dim=32,
    joint_attention_dim=576,
    axes_dims_rope=(8, 8, 8, 8),
    timestep_guidance_channels=64,
)
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=1024,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=3,
    head_dim=32,
    rope_theta=1e4,
)
TEXT_LAYERS = (2, 4, 6)
MAX_TEXT_TOKENS = 32
DISTILLED = ModelInfo(
    name="mini",
    is_distilled=True,
    default_size=128,
    license=catalog.APACHE,
    text_layers=TEXT_LAYERS,
    max_text_tokens=MAX_TEXT_TOKENS,
)
Size = tuple[int, int]
NATIVE = (128, 128)
SIZES = ((192, 192), (256, 256), (192, 128), (128, 192), (256, 128), (128, 256))
SMALL_SIZES = ((64, 64), (96, 96), (160, 96), (96, 160))
SIZES_WITH_REFERENCE = ((192, 128), (128, 192))
# more of it makes edits spill over: errors outside 1.7 % at 2, 1.9 at 3, 2.4 at 4.5, 2.8 at 6
GUIDANCE_WITH_REFERENCE = 2.0
PROMPTS = (
    "a cat",
    "a red apple on a blue background",
    "a rocket, 3D style",
    "a castle, flat style",
    "an owl on a purple background",
    "a guitar, cartoon style",
    "a penguin on sky blue",
    "a pizza, flat design",
    "a sailboat, teal background",
    "a sunflower on black",
    "a fox",
    "a tractor, 3D render, yellow background",
    "a crown on red",
    "a butterfly on white",
    "a dog to the left of a car",
    "a bee above a rose on pink",
    "three foxes, flat style",
    "a blue cat",
    "an apple and a pear above a banana",
    "two owls on yellow",
    "a car to the right of a tree on gray",
    "a fish below a cloud",
    "four stars on blue",
    "a green dog, 3D style",
)


def load_icons() -> Icons:
    """The icons drawn by build_icons.py."""
    path = RUN / "icons.npz"
    if not path.is_file():
        raise SystemExit(f"error: {path} is missing; draw the icons first (recipes/mini/README.md)")
    return Icons.load(path)


def composer(seed: int) -> Composer:
    """Scenes from the icons."""
    return Composer(load_icons(), seed)


def pools(scenes: Composer) -> tuple[list[Pool], tuple[float, ...]]:
    """Text to picture, one reference, two references, then other sizes; and their shares."""
    editor = Editor(scenes)

    def plain() -> Example:
        scene, words = scenes.any()
        return (), words, scene

    def alone() -> Example:
        scene, words = scenes.single()
        return (), words, scene

    def pool(make: Callable[[], Example], pictures: int, capacity: int, size: Size) -> Pool:
        return Pool(drawing(scenes, make, size), pictures, capacity=capacity, size=size)

    parts = [
        (0.52, pool(plain, 1, 6144, NATIVE)),
        (0.20, pool(editor.one, 2, 3072, NATIVE)),
        (0.16, pool(editor.two, 3, 1536, NATIVE)),
        *((0.01, pool(plain, 1, 384, size)) for size in SIZES),
        *((0.01, pool(alone, 1, 384, size)) for size in SMALL_SIZES),
        *((0.01, pool(editor.one, 2, 256, size)) for size in SIZES_WITH_REFERENCE),
    ]
    return [pool for _, pool in parts], tuple(share for share, _ in parts)


def tools(scenes: Composer) -> Tools:
    """Autoencoder and tokenizer, and the generator of scenes."""
    return Tools(scenes.rng, load_autoencoder(), load_tokenizer())


def load_autoencoder() -> Autoencoder:
    """The trained autoencoder."""
    model = Autoencoder(AUTOENCODER)
    for name in ("decoder.safetensors", "autoencoder.safetensors"):
        state = checkpoints.load(RUN / name)
        if state is not None:
            model.load_state_dict(state["model"])
            return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    raise SystemExit("error: runs/mini/autoencoder.safetensors is missing; run that stage first")


def load_tokenizer() -> Tokenizer:
    """The tokenizer, trained on captions when there is none yet."""
    path = RUN / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        scenes = composer(7)
        editor = Editor(scenes)
        captions = [words for _ in range(6000) for _, words in (scenes.any(),)]
        captions += [make()[1] for make in (editor.one, editor.two) for _ in range(6000)]
        train_tokenizer(captions, TEXT_ENCODER.vocab_size, path.parent)
    return Tokenizer.from_file(path, MAX_TEXT_TOKENS)


def new_flow() -> Flow:
    """Text encoder and transformer of mini's size, untrained."""
    return Flow(TRANSFORMER, TEXT_ENCODER, TEXT_LAYERS)


def averaged_flow(name: str) -> Flow:
    """The averaged weights of a stage's checkpoint, frozen."""
    state = checkpoints.load(RUN / name)
    if state is None:
        raise SystemExit(f"error: runs/mini/{name} is missing; run that stage first")
    flow = new_flow()
    flow.load_state_dict(state["average"])
    return flow.eval().requires_grad_(False)


def first_student() -> Flow:
    """What distillation starts from: the flow, plus what an earlier distillation had changed.

    When a flow was trained on after it was distilled, keep that flow and its student as
    previous-flow.safetensors and previous-distilled.safetensors: their difference is added.
    """
    student = averaged_flow("flow.safetensors")
    names = [f"previous-{name}.safetensors" for name in ("flow", "distilled")]
    if all((RUN / name).is_file() for name in names):
        before, after = (averaged_flow(name).state_dict() for name in names)
        state = student.state_dict()
        student.load_state_dict({n: state[n] + after[n] - before[n] for n in state})
    return student


def autoencoder(steps: int | None) -> None:
    """Encoder and decoder together."""
    recipe = AutoencoderRecipe(steps=steps or AutoencoderRecipe.steps)
    train_autoencoder(AUTOENCODER, recipe, composer(recipe.seed), RUN)


def looking(name: str, num_steps: int, guidance: float, made: Tools) -> Callable[[Loop], None]:
    """Paints the stage's sheet after every report."""

    def look(loop: Loop) -> None:
        flow = new_flow()
        flow.load_state_dict(loop.average.values)
        path = RUN / f"{name}.png"
        sheet(flow, made, PROMPTS, path=path, num_steps=num_steps, guidance=guidance)
        assert loop.curves is not None
        loop.curves.add_sheet(loop.step, path)

    return look


def run(loop: Loop) -> None:
    """To the last step, with a bar where stderr is a terminal."""
    with progress_bars(quiet=loop.rank != 0) as loop.on_progress:
        loop.run()


def flow(steps: int | None) -> None:
    """Text encoder and transformer from nothing."""
    scenes = composer(FlowRecipe.seed)
    examples, shares = pools(scenes)
    steps = steps or FlowRecipe.steps
    recipe = FlowRecipe(steps=steps, shares=shares, first_examples=2048, compiled_size=NATIVE)
    made, model = tools(scenes), new_flow()
    torch.manual_seed(recipe.seed)
    initialise(model)
    loop = flow_loop(model, recipe, pools=examples, tools=made, folder=RUN)
    loop.on_report = looking("flow", 10, 3.0, made)
    run(loop)


def decoder(steps: int | None) -> None:
    """The decoder alone, further, to the same latents."""
    recipe = AutoencoderRecipe(steps=steps or 1500, muon_rate=0.004, decoder_only=True, seed=4)
    train_autoencoder(AUTOENCODER, recipe, composer(recipe.seed), RUN)


def distil(steps: int | None) -> None:
    """Guidance and steps of the flow into four steps."""
    scenes = composer(DistillationRecipe.seed)
    examples, shares = pools(scenes)
    steps = steps or DistillationRecipe.steps
    recipe = DistillationRecipe(steps=steps, shares=shares, compiled_size=NATIVE)
    teacher, student = averaged_flow("flow.safetensors"), first_student()
    made = tools(scenes)
    paths = [
        Paths(
            *(pool, recipe, min(3072, pool.capacity)),
            guidance=GUIDANCE_WITH_REFERENCE if pool.pictures > 1 else None,
        )
        for pool in examples
    ]
    loop = distillation_loop(teacher, student, recipe, paths=paths, tools=made, folder=RUN)
    loop.on_report = looking("distilled", 4, 1.0, made)
    run(loop)


def export_model(name: str, folder: Path, info: ModelInfo) -> None:
    """A stage's weights as a diffusers folder."""
    shutil.copytree(RUN / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    export(averaged_flow(name), load_autoencoder(), folder, info)


def export_mini(steps: int | None) -> None:
    """The distilled model into the package, the base beside the checkpoints."""
    base = replace(
        DISTILLED, is_distilled=False, num_inference_steps=steps or 20, guidance_scale=3.0
    )
    export_model("flow.safetensors", RUN / "base", base)
    if (RUN / "distilled.safetensors").is_file():
        export_model(
            "distilled.safetensors",
            Path("src/kleinod/mini"),
            replace(DISTILLED, vocabulary=vocabulary()),
        )


def main() -> None:
    """Parse and run one stage."""
    stages = {
        "autoencoder": autoencoder,
        "flow": flow,
        "decoder": decoder,
        "distil": distil,
        "export": export_mini,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    stages[arguments.stage](arguments.steps)
    distributed.stop()


if __name__ == "__main__":
    main()
