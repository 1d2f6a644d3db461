"""Images, where they come from and how they are cut, and the cache of their latents."""

from .encoding import LatentEncoder, build_latent_cache, encode_batch, read_crops
from .images import DataError, ImageSource, UnreadableImage
from .latents import CacheError, CacheInfo, CacheKey, LatentCache
from .order import batch_indices, epoch_order, seeded_generator
from .photographs import PHOTOGRAPHS, PhotographSource
from .sources import detect_format, open_images
from .transforms import crop_and_resize, to_pil, to_tensor

__all__ = [
    "PHOTOGRAPHS",
    "CacheError",
    "CacheInfo",
    "CacheKey",
    "DataError",
    "ImageSource",
    "LatentCache",
    "LatentEncoder",
    "PhotographSource",
    "UnreadableImage",
    "batch_indices",
    "build_latent_cache",
    "crop_and_resize",
    "detect_format",
    "encode_batch",
    "epoch_order",
    "open_images",
    "read_crops",
    "seeded_generator",
    "to_pil",
    "to_tensor",
]
