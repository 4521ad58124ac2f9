"""Reading: batches of small images by index as the training step wants them, and JPEG files to two crops of 224."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmark import Benchmark

from configs.common import base
from ssl_jax.data import feed, pipeline, source
from ssl_jax.data.recipes import Crop, Eval, Flip, Recipe, View

JPEG_HEIGHT, JPEG_WIDTH, SIZE = 375, 500, 224


def uint8(quick: bool) -> Benchmark:
    """Shuffled batches of 512 of 50,000 images of 32 x 32 x 3, nothing done to them, labels and indices beside them."""
    count, batch, steps = 50_000, 512, 40 if quick else 200
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)
    examples = source.from_arrays(images, labels)

    config = base().data

    def ours():
        stream = feed.batches(
            feed.Feed("rows"), examples, data=config, seed=0, global_batch_size=batch, total_steps=steps
        )
        return sum(int(found["image"][:, 0, 0, 0].sum()) for found in stream)

    def torch_peer():
        import torch
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

        data = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))

        def run():  # whole batches by index, its fastest way; with workers it is slower
            order = BatchSampler(RandomSampler(data, num_samples=batch * steps, replacement=False), batch, True)
            return sum(int(x[:, 0, 0, 0].sum()) for x, _ in DataLoader(data, sampler=order, batch_size=None))

        return run

    return Benchmark(
        ours=ours, peers={"torch_dataloader": torch_peer}, items=batch * steps, unit="images/s", processor=True
    )


def jpeg(quick: bool) -> Benchmark:
    """Photographs of 500 x 375 to two random crops of 224 x 224, mirrored or not, as float32."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    count, batch = (128, 32) if quick else (512, 32)
    folder = Path(tempfile.mkdtemp())
    photographs = load_sample_images().images
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        top, left = i % (photograph.shape[0] - JPEG_HEIGHT), 3 * i % (photograph.shape[1] - JPEG_WIDTH)
        part = photograph[top : top + JPEG_HEIGHT, left : left + JPEG_WIDTH]
        (folder / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(part).save(folder / str(i % 2) / f"{i}.jpg", quality=95)
    examples = source.load(f"folder:{folder}", cache_dir=str(folder / "cache")).train
    view = View(Crop(), (Flip(),))

    def batches(views: int):
        return pipeline.batches(
            examples, recipe=Recipe((view,) * views, Eval()), image_size=SIZE, global_batch_size=batch, seed=0
        )

    two, one = batches(2), batches(1)

    def read(stream, passes: int = 1):
        """So many batches; the wait, which costs no processor time, is for those that are made ahead."""
        found = [next(stream) for _ in range(passes * (count // batch))]
        time.sleep(1.0)
        return found

    # One view decodes its own box alone: two such passes are what decoding once is compared with.
    seconds = {}
    for name, passes, stream in (("once", 1, two), ("per view", 2, one)):
        next(stream)
        time.sleep(1.0)
        before = time.process_time()
        read(stream, passes)
        seconds[name] = time.process_time() - before

    def torchvision_pil():
        from benchmarks.torches import torchvision
        from torch import stack

        transforms = torchvision().transforms
        view = transforms.Compose(
            [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )
        files = [path.read_bytes() for path in sorted(folder.glob("*/*.jpg"))]

        def run():
            images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
            return [stack([view(image) for image in images]) for _ in range(2)]

        return run

    return Benchmark(
        ours=lambda: read(two),
        peers={"torchvision_pil": torchvision_pil},
        items=2 * (count // batch) * batch,
        unit="views/s",
        processor=True,
        details={
            "decoding once for both views, against each view's box": round(seconds["per view"] / seconds["once"], 2)
        },
    )
