"""The kernels in C; everything else stands in pyproject.toml."""

from setuptools import Extension, setup

# optional: where there is no compiler the package is installed without them, and takes its other ways
FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden"]
setup(
    ext_modules=[
        Extension(f"fewvit.kernels._{name}", [f"fewvit/kernels/{name}.c"], extra_compile_args=FLAGS, optional=True)
        for name in ("near", "resize")
    ]
)
