// What it is: mixed precision: the dtype that conv2d, conv_transpose2d, linear and matmul cast float32
// operands to. What it is not: loss scaling (float16 needs it) or a choice for other ops; those follow the
// dtype of their input.
#pragma once
#include <optional>

#include "fastcnn/dtype.h"
#include "fastcnn/error.h"

namespace fastcnn {

FASTCNN_API std::optional<DType> autocast_dtype();  // of this thread; empty: off
// bfloat16, float16, or empty for off; ValueError otherwise. Returns what was.
FASTCNN_API std::optional<DType> set_autocast_dtype(std::optional<DType> dtype);

class Autocast {  // scope
 public:
  explicit Autocast(std::optional<DType> dtype) : saved_(set_autocast_dtype(dtype)) {}
  ~Autocast() { set_autocast_dtype(saved_); }
  Autocast(const Autocast&) = delete;

 private:
  std::optional<DType> saved_;
};

}  // namespace fastcnn
