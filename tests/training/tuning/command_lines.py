"""The command line of a search."""

from pathlib import Path

from tests.conftest import ROOT

FINE_TUNE = ROOT / "configs/mobilenetv3/mobilenet_v3_small_finetune.yaml"


def words_of(images: Path | str, *flags: object) -> list[str]:
    return ["--config", str(FINE_TUNE), "--data_dir", str(images), "--ckpt_path", "w.ckpt", *map(str, flags)]
