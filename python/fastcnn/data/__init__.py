"""Datasets by name, from arrays, folders, COCO, VOC and IDX files; parts and joins of them; samplers; DataLoader."""

from .base import ConcatDataset, ImageDataset, SampleError, Subset, random_split
from .coco import CocoDetection
from .collate import collate_detection
from .datasets import ArrayDataset, export_idx, list_datasets, load
from .download import ChecksumError, DownloadError, cache_dir
from .folder import ImageFolder
from .idx import read_idx, write_idx
from .images import DamagedImage
from .loader import DataLoader
from .samplers import BalancedSampler, WeightedRandomSampler
from .voc import VocSegmentation

__all__ = [
    "ArrayDataset",
    "BalancedSampler",
    "ChecksumError",
    "CocoDetection",
    "ConcatDataset",
    "DamagedImage",
    "DataLoader",
    "DownloadError",
    "ImageDataset",
    "ImageFolder",
    "SampleError",
    "Subset",
    "VocSegmentation",
    "WeightedRandomSampler",
    "cache_dir",
    "collate_detection",
    "export_idx",
    "list_datasets",
    "load",
    "random_split",
    "read_idx",
    "write_idx",
]
