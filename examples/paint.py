"""Text to picture with progress: python examples/paint.py "a fox on a blue background" fox.png"""

import argparse

import kleinod


def paint(prompt: str, output: str, *, model: str = "mini") -> None:
    """Paint one picture, saying each step."""
    pipeline = kleinod.load(model)
    request = pipeline.settled(kleinod.Request(prompt))
    for step in pipeline.steps(request):
        print(f"step {step.index} of {step.num_steps}, sigma {step.sigma:.3f}")
    pipeline.decode(step.latents)[0].save(output)
    print(f"{output}, seed {request.seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("output")
    parser.add_argument("--model", default="mini", help="a name or a path")
    arguments = parser.parse_args()
    paint(arguments.prompt, arguments.output, model=arguments.model)
