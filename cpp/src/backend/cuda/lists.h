// What it is: which file holds the ordered implementations of each op kind on CUDA. A kind without a row has none:
// choosing one is then a TypeError that names the op. A new kernel is one line in its list; a new op one row here.
#pragma once
#include <span>

#include "backend/backend.h"
#include "graph/op_kinds.h"

namespace fastcnn::cuda {

using List = std::span<const Implementation>;

#define FASTCNN_CUDA_OPS(X) \
  X(unary)                  \
  X(binary)                 \
  X(where)                  \
  X(fill)                   \
  X(activation)             \
  X(activation_bwd)         \
  X(activation_bwd2)        \
  X(check_target)           \
  X(reduce)                 \
  X(softmax)                \
  X(log_softmax)            \
  X(softmax_bwd)            \
  X(log_softmax_bwd)        \
  X(cross_entropy)          \
  X(cross_entropy_bwd)      \
  X(pointwise_loss)         \
  X(pointwise_loss_bwd)     \
  X(conv2d)                 \
  X(conv2d_bwd_data)        \
  X(conv2d_bwd_weights)     \
  X(conv2d_bwd)             \
  X(matmul)                 \
  X(batch_norm)             \
  X(batch_norm_bwd)         \
  X(batch_norm_infer)       \
  X(fold_batch_norm)        \
  X(bn_update_running)      \
  X(layer_norm)             \
  X(layer_norm_bwd)         \
  X(group_norm)             \
  X(group_norm_bwd)         \
  X(max_pool2d)             \
  X(max_pool2d_bwd)         \
  X(max_pool2d_gather)      \
  X(avg_pool2d)             \
  X(avg_pool2d_bwd)         \
  X(strided_scatter)        \
  X(index_select)           \
  X(index_add)              \
  X(gather)                 \
  X(scatter_add)            \
  X(index_put)              \
  X(argsort)                \
  X(cumsum)                 \
  X(cat)                    \
  X(pad)                    \
  X(pad_bwd)                \
  X(interpolate)            \
  X(interpolate_bwd)        \
  X(affine_sample)          \
  X(grid_sample)            \
  X(grid_sample_bwd)        \
  X(box_iou)                \
  X(nms)                    \
  X(roi_align)              \
  X(roi_align_bwd)          \
  X(dropout)                \
  X(dropout_bwd)            \
  X(random)                 \
  X(rng_advance)            \
  X(non_finite)             \
  X(sgd_step)               \
  X(adam_step)              \
  X(rmsprop_step)           \
  X(adagrad_step)           \
  X(lion_step)

#define FASTCNN_CUDA_LIST(kind) List kind##_list();
FASTCNN_CUDA_OPS(FASTCNN_CUDA_LIST)
#undef FASTCNN_CUDA_LIST

}  // namespace fastcnn::cuda
