"""Draw the training icons: python recipes/mini/build_icons.py PACKAGES runs/mini/icons.npz

PACKAGES holds the unpacked npm archives named in recipes/mini/README.md.
"""

import sys
from pathlib import Path

from kleinod.icons.icons import build, read_concepts


def main(packages: Path, out: Path) -> None:
    """Draw, save, and write what the filter dropped beside this file."""
    here = Path(__file__).parent
    out.parent.mkdir(parents=True, exist_ok=True)
    concepts = read_concepts(here / "concepts.txt")
    log = build(packages, concepts, out)
    (here / "filtered.txt").write_text("\n".join(log) + "\n", encoding="utf-8")
    print(f"{len(concepts)} concepts drawn to {out}; the filter left out {len(log)} entries")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
