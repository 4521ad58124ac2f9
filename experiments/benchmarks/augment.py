"""SimCLR's and MoCo's random views from uint8 images, on one core: crop, flip, jitter in random order, grey, blur."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Benchmark

from ssl_jax.data.images import device
from ssl_jax.data.images.recipes import Blur, Crop, Flip, Gray, Jitter, Recipe, View

STRENGTH = (0.4, 0.4, 0.4, 0.1)


def small(quick: bool) -> Benchmark:
    """32 pixels, batches of 512, no blur."""
    return _benchmark(512, 32, 32, blur=False)


def large(quick: bool) -> Benchmark:
    """224 pixels from images of 256, batches of 16, every second view blurred."""
    return _benchmark(16, 256, 224, blur=True)


def _benchmark(rows: int, side: int, size: int, *, blur: bool) -> Benchmark:
    # Images that are smooth, as photographs are: low frequencies and a little noise.
    rng = np.random.default_rng(0)
    coarse = rng.random((rows, side // 16, side // 16, 3)).repeat(16, 1).repeat(16, 2)
    images = (255 * np.clip(0.9 * coarse + 0.1 * rng.random(coarse.shape), 0, 1)).astype(np.uint8)
    jitter = Jitter(*STRENGTH, p=0.8, flavour="torch")
    blurs = (Blur(0.5, support="sigma", border="reflect"),) if blur else ()
    recipe = Recipe((View(Crop(), (Flip(), jitter, Gray(0.2), *blurs)),))
    views = device.views(recipe, size)
    compiled = jax.jit(lambda image, key: views({"image": image}, key, None)["views"][0])
    placed, turn = jnp.asarray(images), [0]

    def ours() -> np.ndarray:
        turn[0] += 1
        return np.asarray(compiled(placed, jax.random.key(turn[0])))

    def torchvision_pil():
        import torch
        from benchmarks.torches import torchvision
        from PIL import Image, ImageFilter

        transforms = torchvision().transforms

        def pil_blur(image):  # as MoCo's code does it
            return image.filter(ImageFilter.GaussianBlur(radius=rng.uniform(0.1, 2.0)))

        view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(*STRENGTH)], p=0.8),
                transforms.RandomGrayscale(0.2),
                *([transforms.RandomApply([transforms.Lambda(pil_blur)], p=0.5)] if blur else []),
                transforms.ToTensor(),
            ]
        )
        pictures = [Image.fromarray(image) for image in images]
        return lambda: torch.stack([view(picture) for picture in pictures]).permute(0, 2, 3, 1).numpy()

    def kornia_batch():
        import torch
        from kornia import augmentation

        taps = 2 * (size // 20) + 1
        view = torch.nn.Sequential(
            augmentation.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            augmentation.RandomHorizontalFlip(),
            augmentation.ColorJitter(*STRENGTH, p=0.8),
            augmentation.RandomGrayscale(p=0.2),
            *([augmentation.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5)] if blur else []),
        )
        raw = torch.from_numpy(images).permute(0, 3, 1, 2)

        def run():
            with torch.no_grad():
                return view(raw.float() / 255).permute(0, 2, 3, 1).contiguous().numpy()

        return run

    def same(ours, theirs):
        """The draws differ: shape, mean and spread must not."""
        if ours.shape != theirs.shape:
            return f"its views are {theirs.shape} and ours {ours.shape}"
        differences = [abs(float(f(ours) - f(theirs))) for f in (np.mean, np.std)]
        return None if max(differences) < 0.05 else f"mean and spread of its pixels differ by {differences}"

    return Benchmark(
        ours=ours,
        peers={"torchvision_pil": torchvision_pil, "kornia_batch": kornia_batch},
        same=same,
        items=rows,
        unit="views/s",
        processor=True,
    )
