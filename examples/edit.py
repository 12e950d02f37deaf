"""Editing with two references.

python examples/edit.py "the first beside the second" fox.png owl.png both.png
"""

import argparse

import kleinod


def edit(prompt: str, references: list[str], output: str, *, model: str = "mini") -> None:
    """Paint one picture from references; it gets the first one's shape."""
    pipe = kleinod.load(model)
    result = pipe.generate(prompt, reference_images=references)
    picture = result.images[0]
    seconds = result.timings["total_seconds"]
    print(f"{picture.save(output)}, seed {picture.seed}, {seconds:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("references", nargs=2)
    parser.add_argument("output")
    parser.add_argument("--model", default="mini", help="a name or a path")
    arguments = parser.parse_args()
    edit(arguments.prompt, arguments.references, arguments.output, model=arguments.model)
