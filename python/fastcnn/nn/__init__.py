"""Layers, losses, initialisation and helpers, under their PyTorch names. The maths is in fastcnn.ops."""

# ruff: noqa: F401
from . import init, utils
from .activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softmax2d,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from .attention import CBAM, ECA, SelfAttention2d, SqueezeExcite
from .capsule import PrimaryCaps, RoutingCaps
from .containers import Identity, ModuleDict, ModuleList, ParameterList, Sequential
from .conv import Conv2d, ConvTranspose2d, Linear
from .distance import CosineSimilarity, PairwiseDistance
from .embedding import Embedding
from .loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CIoULoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GaussianNLLLoss,
    GIoULoss,
    HingeEmbeddingLoss,
    HingeGANLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginLoss,
    MarginRankingLoss,
    MSELoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
)
from .module import LoadResult, Module
from .multihead import MultiheadAttention
from .norm import (
    BatchNorm1d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
    SyncBatchNorm,
)
from .parameter import Parameter
from .pooling import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    LPPool2d,
    MaxPool2d,
    MaxUnpool2d,
)
from .shape import (
    AlphaDropout,
    ChannelShuffle,
    CircularPad2d,
    ConstantPad2d,
    Dropout,
    Dropout2d,
    DropPath,
    FeatureAlphaDropout,
    Flatten,
    Fold,
    PixelShuffle,
    PixelUnshuffle,
    ReflectionPad2d,
    ReplicationPad2d,
    Unflatten,
    Unfold,
    Upsample,
    UpsamplingBilinear2d,
    UpsamplingNearest2d,
    ZeroPad2d,
)

__all__ = [name for name in globals() if name[0].isupper()] + ["init", "utils"]
