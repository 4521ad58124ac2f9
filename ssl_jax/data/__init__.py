"""Data: sources with random access, augmentation recipes, index-addressed batches. Knows no method.

TensorFlow is imported lazily and through :func:`tensorflow` only, so that digits, npz and index planning work where it
is not installed and it never takes a GPU's memory.
"""

from __future__ import annotations

import functools
import warnings

from ssl_jax.online.progress import phase


@functools.cache
def tensorflow():
    """The TensorFlow module with every GPU hidden from it.

    Raises:
      ValueError: if TensorFlow is not installed.
    """
    try:
        with phase("loading TensorFlow"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside TensorFlow's own imports
            import tensorflow as tf
    except ImportError as error:
        raise ValueError(f"this needs TensorFlow ({error}); `pip install tensorflow-cpu`") from error
    tf.config.set_visible_devices([], "GPU")
    return tf
