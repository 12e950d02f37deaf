"""What pyproject.toml cannot say: the C library, the wheel's tag, the readme without pictures.

The library is called by ctypes and is no Python module, so one wheel serves every Python 3 of a
platform. Only Linux on x86-64 has it; elsewhere, and where no C compiler is, the wheel is pure and
kleinod multiplies by PyTorch alone.
"""

import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "src/kleinod/kernels"
LIBRARY = Extension(
    "kleinod.kernels._native",
    sources=[f"{FOLDER}/attention.c", f"{FOLDER}/products.c"],
    depends=[f"{FOLDER}/multiply.h", f"{FOLDER}/results.h", f"{FOLDER}/tiles.h"],
    # The order of a sum, and where it is rounded, is the code's own. OpenMP's functions are those
    # of the library that PyTorch loads, so it is compiled for OpenMP and not linked with it.
    extra_compile_args=["-O3", "-fopenmp", "-ffp-contract=off"],
    libraries=["m"],
    optional=True,
)
# what the library's instructions and its system calls are for
PLATFORM = "linux-x86_64"


class BuildLibrary(build_ext):
    """Compiles the library under a name without the version of Python."""

    def build_extension(self, ext: Extension) -> None:
        """Compile, on the one platform that has the instructions."""
        # where it fails, none is better than one of other sources that an earlier build left
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        if self.plat_name == PLATFORM:
            super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """_native.so in the package's folder, which kernels/native.py loads."""
        return fullname.replace(".", "/") + ".so"


class BuildWheel(bdist_wheel):
    """py3-none-linux_x86_64, or py3-none-any where the library was not built."""

    def run(self) -> None:
        """Build first: only then is it known whether a compiler made the library."""
        if not self.skip_build:
            self.run_command("build")
        library = self.get_finalized_command("build_ext").get_ext_fullpath(LIBRARY.name)
        if not Path(library).exists():
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """For every Python 3, of the platform that setuptools names."""
        return "py3", "none", super().get_tag()[2]


def readme(text: str) -> str:
    """The text for an index, which shows it without the repository.

    A picture from the repository becomes its description, a link into it becomes its words;
    pictures and links with a scheme (https:) stay.
    """
    text = re.sub(r"!\[([^]]*)]\((?!\w+:)[^)]*\)", r"*(In the repository: \1)*", text)
    text = re.sub(r"<img\b[^>]*\bsrc=[\"'](?!\w+:)[^>]*>", "", text)
    return re.sub(r"(?<!!)\[((?:[^][]|\[[^]]*])*)]\((?!\w+:)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    setup(
        ext_modules=[LIBRARY],
        cmdclass={"build_ext": BuildLibrary, "bdist_wheel": BuildWheel},
        long_description=readme(Path("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
