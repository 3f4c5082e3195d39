"""The three data sets, read from a folder into memory.

    --data DIR holds    fashion-mnist/  train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, the same with t10k-
                        cifar10/        train.cjpk, test.cjpk      (JPEG tails with one shared header; needs Pillow)
                        emoji64/        emoji64.gz                 (gzip of pixels, labels, sources)

Pictures are uint8 [N, C, H, W], labels int64 [N]. A model sees x / 127.5 - 1.
"""
import gzip
import io
import os
import struct
from dataclasses import dataclass

import numpy as np
import torch

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
EMOJI = ["face", "person", "animal-nature", "food", "travel-place", "activity-object", "symbol", "flag"]
EMOJI_TRAIN = 5000  # the rest are for testing; the records are shuffled already


@dataclass
class DataSet:
    images: torch.Tensor  # uint8 [N, C, H, W]
    labels: torch.Tensor  # int64 [N]
    classes: list
    mirrored: torch.Tensor  # bool [K]: whether a picture of the class may be mirrored
    credit: str

    def to(self, device):
        moved = [tensor.to(device) for tensor in (self.images, self.labels)]
        return DataSet(*moved, self.classes, self.mirrored.to(device), self.credit)


def _read(path):
    if not os.path.exists(path):
        raise SystemExit(f"{path} is missing; README.md says where the data sets come from")
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return file.read()


def _idx(path):
    content = _read(path)
    axes = content[3]
    shape = struct.unpack(f">{axes}I", content[4:4 + 4 * axes])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def fashion_mnist(folder, split):
    name = "train" if split == "train" else "t10k"
    images = _idx(os.path.join(folder, "fashion-mnist", f"{name}-images-idx3-ubyte.gz"))[:, None]
    labels = _idx(os.path.join(folder, "fashion-mnist", f"{name}-labels-idx1-ubyte.gz"))
    # All shoes point left: mirroring would invent a kind that the set does not have.
    return images, labels, FASHION, [False] * 10, "Fashion-MNIST (Zalando SE, MIT licence)"


def cifar10(folder, split):
    from PIL import Image

    content = _read(os.path.join(folder, "cifar10", f"{split}.cjpk"))
    magic, version, count, length = struct.unpack("<4sIII", content[:16])
    if magic != b"CJPK" or version != 1:
        raise SystemExit(f"{split}.cjpk is not in the format that README.md describes")
    header = content[16:16 + length]
    sizes = np.frombuffer(content, "<u2", count, 16 + length)
    labels = np.frombuffer(content, np.uint8, count, 16 + length + 2 * count)
    ends = 16 + length + 3 * count + np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    images = np.empty((count, 3, 32, 32), np.uint8)
    for i in range(count):
        picture = Image.open(io.BytesIO(header + content[ends[i]:ends[i + 1]])).convert("RGB")
        images[i] = np.asarray(picture).transpose(2, 0, 1)
    return images, labels, CIFAR, [True] * 10, "CIFAR-10 (Krizhevsky, Nair, Hinton 2009; no licence stated)"


def _emoji(folder, split, size):
    content = _read(os.path.join(folder, "emoji64", "emoji64.gz"))
    count = len(content) // (64 * 64 * 3 + 2)
    pixels = count * 64 * 64 * 3
    images = np.frombuffer(content, np.uint8, pixels).reshape(count, 64, 64, 3)
    labels = np.frombuffer(content, np.uint8, count, pixels)
    part = slice(0, EMOJI_TRAIN) if split == "train" else slice(EMOJI_TRAIN, None)
    images, labels = images[part].transpose(0, 3, 1, 2), labels[part]
    if size == 32:
        n = len(images)
        sums = images.reshape(n, 3, 32, 2, 32, 2).astype(np.uint16).sum((3, 5))
        images = ((sums + 2) // 4).astype(np.uint8)
    # Writing, clock faces and flags mirrored would be wrong; faces, people, animals and food would not.
    mirrored = [True, True, True, True, False, False, False, False]
    credit = "Noto Emoji (OFL 1.1 / Apache-2.0), EmojiTwo (CC-BY 4.0), Blobmoji (Apache-2.0)"
    return images, labels, EMOJI, mirrored, credit


LOADERS = {
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "emoji32": lambda folder, split: _emoji(folder, split, 32),
    "emoji64": lambda folder, split: _emoji(folder, split, 64),
}


def load(name, folder, split):
    """split: train or test"""
    images, labels, classes, mirrored, credit = LOADERS[name](folder, split)
    return DataSet(torch.from_numpy(np.array(images, order="C")), torch.from_numpy(labels.astype(np.int64)), classes,
                   torch.tensor(mirrored), credit)


class Batches:
    """Endless batches with every class equally likely, mirrored and shifted as asked, on the data's own device."""

    def __init__(self, data, size, generator, mirror=True, shift=0):
        self.data, self.size, self.generator, self.shift = data, size, generator, shift
        self.mirror = mirror and bool(data.mirrored.any())
        self.members = [torch.nonzero(data.labels == k)[:, 0] for k in range(len(data.classes))]

    def _uniform(self, shape):
        return torch.rand(shape, generator=self.generator).to(self.data.images.device)

    def next(self):
        """-> pictures in [-1, 1] float32 [B, C, H, W], labels [B]"""
        data, n = self.data, self.size
        counts = torch.bincount((self._uniform(n) * len(self.members)).long(), minlength=len(self.members)).tolist()
        rows = [m[(self._uniform(c) * len(m)).long()] for m, c in zip(self.members, counts)]
        index = torch.cat(rows)
        x, y = data.images[index].float() / 127.5 - 1, data.labels[index]
        if self.mirror:
            flip = data.mirrored[y] & (self._uniform(n) < 0.5)
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
        if self.shift:
            x = self._shifted(x)
        return x, y

    def _shifted(self, x):
        """Each picture moved by up to `shift` pixels, its border repeated (random crops of the padded picture)."""
        n, _, height, width = x.shape
        s = self.shift
        padded = torch.nn.functional.pad(x, (s, s, s, s), mode="replicate")
        dy, dx = ((self._uniform(n) * (2 * s + 1)).long() for _ in range(2))
        rows = dy[:, None] + torch.arange(height, device=x.device)
        columns = dx[:, None] + torch.arange(width, device=x.device)
        picture = torch.arange(n, device=x.device)
        return padded[picture[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
