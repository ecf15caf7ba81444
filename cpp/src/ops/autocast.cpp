// See fastcnn/autocast.h.
#include "fastcnn/autocast.h"

#include <utility>

#include "fastcnn/tensor.h"

namespace fastcnn {
namespace {
thread_local std::optional<DType> active;
}

std::optional<DType> autocast_dtype() { return active; }

std::optional<DType> set_autocast_dtype(std::optional<DType> dtype) {
  check(!dtype || *dtype == DType::bfloat16 || *dtype == DType::float16,
        "autocast: expected bfloat16 or float16, got ", dtype.value_or(DType::float32));
  return std::exchange(active, dtype);
}

}  // namespace fastcnn
