// What it is: what the losses share: reductions, the dtype they compute in, targets of the input's shape, class
// ids. 16-bit inputs are taken to float32 first: losses and their sums need it.
#pragma once
#include <string>

#include "fastcnn/ops.h"

namespace fastcnn {

Reduction parse_reduction(const char* op, const std::string& r);

Tensor reduced(const Tensor& loss, Reduction r);

// x in the dtype that the loss computes in.
Tensor wide(const char* op, const Tensor& x);

// The target beside x: of x's shape (or one number), of x's dtype, refused where it holds NaN.
Tensor paired(const char* op, const Tensor& x, const Tensor& target);

// (N, C, …) as rows of classes.
Tensor as_rows(const Tensor& x);

// The operands of a loss over class ids.
struct ClassLoss {
  Tensor rows, target, weight;  // (rows, C), int64 (rows), (C) or undefined
  Dims shape;                   // of the unreduced loss
  int64_t classes = 0;
};
ClassLoss class_loss(const char* op, const Tensor& x, const Tensor& target, const Tensor& weight);

// IndexError where an id is neither a class nor ignored; in eager mode on the CPU alone, where values are at hand.
void check_ids(const char* op, const ClassLoss& c, int64_t ignore_index);

}  // namespace fastcnn
