"""Datasets by name, from arrays, folders and IDX files; parts and joins of them; DataLoader."""

from .base import ConcatDataset, ImageDataset, SampleError, Subset, random_split
from .datasets import ArrayDataset, export_idx, list_datasets, load
from .download import ChecksumError, DownloadError, cache_dir
from .folder import ImageFolder
from .idx import read_idx, write_idx
from .loader import DataLoader

__all__ = [
    "ArrayDataset",
    "ChecksumError",
    "ConcatDataset",
    "DataLoader",
    "DownloadError",
    "ImageDataset",
    "ImageFolder",
    "SampleError",
    "Subset",
    "cache_dir",
    "export_idx",
    "list_datasets",
    "load",
    "random_split",
    "read_idx",
    "write_idx",
]
