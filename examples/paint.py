"""Text to picture, step by step: python examples/paint.py "a fox on a blue background" fox.png"""

import argparse

import kleinod


def paint(prompt: str, output: str, *, model: str = "mini") -> None:
    """Generate one picture, saying each step."""
    pipe = kleinod.load(model)
    for step in pipe.stream(prompt):
        print(f"step {step.index} of {step.num_steps}, sigma {step.sigma:.3f}")
    picture = step.images[0]
    print(f"{picture.save(output)}, seed {picture.seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("output")
    parser.add_argument("--model", default="mini", help="a name or a path")
    arguments = parser.parse_args()
    paint(arguments.prompt, arguments.output, model=arguments.model)
