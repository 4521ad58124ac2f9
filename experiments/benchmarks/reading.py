"""Reading: batches of small images by index as the training step wants them, and JPEG files to crops of 224.

How many cores feed an accelerator is an estimate: images a second and core, measured here, against what training
ResNet-50 can take at most, which is not: its memory traffic by count, over the bandwidth that a chip is said to have.
"""

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
from ssl_jax.data import readers, source
from ssl_jax.data.images import feed, published, stream
from ssl_jax.data.images.recipes import Crop, Eval, Flip, Recipe, View

JPEG_HEIGHT, JPEG_WIDTH, SIZE = 375, 500, 224

# Bytes that training ResNet-50 moves for one view at 224 px, by count: 11.11 million activations of a forward pass
# (timm's benchmark tables), two bytes each, 14 passes over them (convolution, statistics, normalisation, forward and
# backward, unfused). Its 24.3 GFLOP take less time than that on both chips.
BYTES_PER_VIEW = 11.11e6 * 2 * 14
# Bytes per second. v5e: 819 GB/s, cloud.google.com/tpu/docs/v5e (197 TFLOP/s in bfloat16). H200: 4.8 TB/s in NVIDIA's
# data sheet, of which a copy reaches nine tenths.
BANDWIDTH = {"v5e": 819e9, "H200": 4.3e12}


def uint8(quick: bool) -> Benchmark:
    """Shuffled batches of 512 of 50,000 images of 32 x 32 x 3, nothing done to them, labels and indices beside them."""
    count, batch, steps = 50_000, 512, 40 if quick else 200
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)
    examples = source.from_arrays(images, labels)

    config = base().data

    def ours():
        rows = feed.feed(examples, published.get(config.recipe), config, seed=0, global_batch_size=batch, mode="pmap")
        return sum(int(found["image"][:, 0, 0, 0].sum()) for found in rows.batches(total_steps=steps))

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
    examples = readers.load(f"folder:{folder}", cache_dir=str(folder / "cache")).train
    view = View(Crop(), (Flip(),))

    def batches(views: int):
        return stream.batches(
            examples, recipe=Recipe((view,) * views, Eval()), image_size=SIZE, global_batch_size=batch, seed=0
        )

    two, one = batches(2), batches(1)

    def read(drawn, passes: int = 1):
        """So many batches; the wait, which costs no processor time, is for those that are made ahead."""
        found = [next(drawn) for _ in range(passes * (count // batch))]
        time.sleep(1.0)
        return found

    # One view decodes its own box alone: two such passes are what decoding once is compared with.
    seconds = {}
    for name, passes, drawn in (("once", 1, two), ("per view", 2, one)):
        next(drawn)
        time.sleep(1.0)
        before = time.process_time()
        read(drawn, passes)
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


def one_crop(quick: bool) -> Benchmark:
    """JPEGs of 500 x 375 to one random crop of 224 x 224 in uint8: the host's part of ``data.augment=device``."""
    return _crops(quick, 1)


def two_crops(quick: bool) -> Benchmark:
    """As :func:`one_crop`, two crops of each image: SimCLR's, BYOL's and MoCo's views."""
    return _crops(quick, 2)


def _crops(quick: bool, views: int) -> Benchmark:
    from PIL import Image

    count, batch = (256, 32) if quick else (1024, 32)
    files = _jpegs(64)
    encoded = np.empty(len(files), object)
    encoded[:] = files
    # In memory, from where the system reads files again, too: this is about cores and not about disks.
    examples = source.Source({"encoded": encoded, "plain": np.ones(len(files), bool)}, None, None, "made here")
    recipe = Recipe((View(Crop(), (Flip(),)),) * views, Eval())
    drawn = stream.batches(examples, recipe=recipe, image_size=SIZE, global_batch_size=batch, seed=0, crops_only=True)

    def ours():
        found = [next(drawn) for _ in range(count // batch)]
        time.sleep(1.0)  # no processor time; meanwhile as many are made ahead as at the beginning
        return found

    next(drawn)
    time.sleep(1.0)
    before = time.process_time()
    ours()
    per_second = count / (time.process_time() - before)
    cores = {chip: bandwidth / (views * BYTES_PER_VIEW) / per_second for chip, bandwidth in BANDWIDTH.items()}

    def torchvision_pil():
        from benchmarks.torches import torchvision

        transforms = torchvision().transforms
        view = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.PILToTensor()])

        def run():
            for k in range(count):
                image = Image.open(io.BytesIO(files[k % len(files)])).convert("RGB")
                for _ in range(views):
                    view(image)

        return run

    return Benchmark(
        ours=ours,
        peers={"torchvision_pil": torchvision_pil},
        items=count,
        unit="images/s",
        processor=True,
        details={
            "kB a file": round(sum(map(len, files)) / len(files) / 1000),
            **{f"cores for one {chip} at most (ResNet-50, by count)": f"{n:.1f}" for chip, n in cores.items()},
        },
    )


def _jpegs(count: int) -> list[bytes]:
    """Photographs as far as a decoder is concerned: smooth at large, textured in places, of ImageNet's usual size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    size = (JPEG_WIDTH, JPEG_HEIGHT)

    def noise(cell: int, channels: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (JPEG_HEIGHT // cell + 2, JPEG_WIDTH // cell + 2, channels), np.uint8)
        return np.asarray(Image.fromarray(np.squeeze(coarse)).resize(size, Image.Resampling.BICUBIC), np.float32)

    files = []
    for _ in range(count):
        texture = (noise(2, 1) - 128) * np.maximum(noise(60, 1) - 90, 0) / 200
        pixels = (noise(50, 3) + texture[..., None]).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files
