"""Input pipelines with torchvision: CIFAR-10 with the paper's augmentation, and ImageNet's.

Batches come from a ``DataLoader`` with worker processes, as training scripts make them. Images are read from arrays or
a folder; nothing is downloaded.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

CIFAR_MEAN, CIFAR_STD = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Cutout:
    """Zeroes a square around a random pixel; what reaches over the border is cut off."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        top = int(torch.randint(height, ())) - self.side // 2
        left = int(torch.randint(width, ())) - self.side // 2
        image[..., max(top, 0) : top + self.side, max(left, 0) : left + self.side] = 0.0
        return image


class Arrays(Dataset):
    """Images [N, H, W, 3] of bytes in memory, given as PIL images or as tensors [3, H, W]."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform, tensors: bool):
        self.labels = labels
        self.transform = transform
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() if tensors else pixels
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.pixels[index] if self.tensors else Image.fromarray(self.pixels[index])
        return self.transform(image), int(self.labels[index])


def random_images(count: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise with labels: what the pixels show does not change the time it takes to crop them."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return pixels, generator.integers(0, 10, count)


def cifar(count: int, batch: int, workers: int, tensors: bool) -> DataLoader:
    """Crop with padding 4, flip, normalize, cutout 16; on PIL images, or (``tensors``) by transforms v2 on tensors."""
    if tensors:
        first = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        chain = v2.Compose([*first, v2.Normalize(CIFAR_MEAN, CIFAR_STD), Cutout(16)])
    else:
        first = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        chain = transforms.Compose([*first, transforms.Normalize(CIFAR_MEAN, CIFAR_STD), Cutout(16)])
    return loader(Arrays(*random_images(count), chain, tensors), batch, workers)


def imagenet(folder: str, batch: int, workers: int) -> DataLoader:
    """Random resized crop 224, flip, colour jitter, normalize, of the images in ``folder``'s subfolders."""
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.2),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return loader(datasets.ImageFolder(folder, chain), batch, workers)


def loader(dataset: Dataset, batch: int, workers: int) -> DataLoader:
    """Shuffled full batches for ever, from workers that stay."""
    forever = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=1 << 30)
    persistent = workers > 0
    return DataLoader(dataset, batch, sampler=forever, num_workers=workers, persistent_workers=persistent)
