"""Reading without augmentation of colours: batches of small uint8 images, and JPEG files to two crops of 224 pixels."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from benchmark import Benchmark

from ssl_jax.data import pipeline, recipes, source
from ssl_jax.data.recipes import Crop, Eval, Flip, Recipe, View

JPEG_HEIGHT, JPEG_WIDTH, SIZE = 375, 500, 224
