"""Small files of CIFAR-10, CIFAR-100 and MNIST, written as their authors do."""

import struct
from pathlib import Path

import numpy as np

TRAIN, TEST = 15, 7


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def write_cifar(path: Path, images: np.ndarray, *labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [
        *(each.astype(np.uint8)[:, None] for each in labels),
        images.transpose(0, 3, 1, 2).reshape(len(images), -1),
    ]
    path.write_bytes(np.concatenate(columns, axis=1).tobytes())


def write_mnist(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    content = struct.pack(">4I", 2051, len(images), 28, 28) + images.tobytes()
    (folder / f"{split}-images-idx3-ubyte").write_bytes(content)
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, len(labels)) + bytes(labels.tolist()))


def write_all(folder: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Small files of a dataset; the images and labels in them, by split."""
    written = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        images = noise(count, 28, 28, 1) if name == "mnist" else noise(count, 32, 32, 3)
        labels = np.arange(count) * 9 % 100 if name == "cifar100" else np.arange(count) * 3 % 10
        written[split] = images, labels
        if name == "mnist":
            write_mnist(folder, {"test": "t10k"}.get(split, split), images, labels)
        elif name == "cifar100":
            write_cifar(folder / f"{split}.bin", images, labels // 5, labels)
            (folder / "fine_label_names.txt").write_text("".join(f"fine {99 - each}\n" for each in range(100)))
        elif split == "test":
            write_cifar(folder / "test_batch.bin", images, labels)
        else:
            for number, part in enumerate(np.split(np.arange(count), [2, 4, 9, 10]), 1):
                write_cifar(folder / f"data_batch_{number}.bin", images[part], labels[part])
    return written
