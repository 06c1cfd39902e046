"""From a finished pretraining run to the weights that come with the package.

They are the encoder in fp16, and a manifest beside it.

    python recipes/bundle.py RUN NAME        writes fewvit/weights/NAME.safetensors and NAME.json

The manifest holds everything that decided the run (recipe, data, seed), what its monitor saw at the end, and the file's
sha256, which goes into the variant's row in `fewvit/backbones/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from fewvit.backbones import BUNDLED
from fewvit.checkpoints.digests import verify_file
from fewvit.files import write_json
from fewvit.runs import RunFolder


def main(run: str, name: str) -> None:
    folder = RunFolder(Path(run))
    manifest, result = folder.manifest(), folder.result()
    if manifest is None or result is None:
        sys.exit(f"{run}: not a finished run")
    tensors = {key: value.to(torch.float16).contiguous() for key, value in load_file(folder.encoder).items()}
    BUNDLED.mkdir(exist_ok=True)
    file = BUNDLED / f"{name}.safetensors"
    file.write_bytes(save(tensors))
    facts = {
        "file": file.name,
        "sha256": verify_file(file, None, pin=False),
        "parameters": sum(value.numel() for value in tensors.values()),
        "dtype": "float16",
        "backbone": manifest["backbone"],
        "run": manifest["what"],
        "result": [{key: row[key] for key in ("metric", "value")} for row in result.rows],
    }
    write_json(file.with_suffix(".json"), facts)
    print(facts["sha256"], facts["parameters"], file.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
