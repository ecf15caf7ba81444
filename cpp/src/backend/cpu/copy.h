// What it is: the copy between any two strided operands and dtypes, used by unary copy, cat, pad and scatter.
#pragma once
#include "backend/backend.h"

namespace fastcnn::cpu {

// Same shape; y may be a window of a larger tensor but must not overlap itself or x. stream: y is too large to
// stay in the caches. Needs kernels().
void copy_strided(const Operand& x, const Operand& y, bool stream);

}  // namespace fastcnn::cpu
