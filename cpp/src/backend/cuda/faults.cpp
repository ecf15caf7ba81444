// See faults.h.
#include "backend/cuda/faults.h"

#include <stdexcept>
#include <string>

#include "backend/cuda/runtime.h"
#include "fastcnn/error.h"
#include "graph/op_kinds.h"

namespace fastcnn::cuda {
namespace {

const char* kind_name(int32_t kind) {
  static const char* const names[] = {
#define FASTCNN_NAME(k, params) #k,
      FASTCNN_OPS(FASTCNN_NAME)
#undef FASTCNN_NAME
  };
  return names[kind];
}

}  // namespace

void throw_device_faults() {
  ErrorRecord& r = *rt::error_record();
  if (r.fault == 0) return;
  const ErrorRecord e = r;
  r = {};
  const char* op = kind_name(e.op);
  switch (static_cast<Fault>(e.fault)) {
    case Fault::class_id:
      throw IndexError(concat(op, ": expected class ids in [0, ", e.high, ") or ignore_index, got ", e.value,
                              " at position ", e.position));
    case Fault::index:
      throw IndexError(concat(op, ": expected indices in [", e.low, ", ", e.high, "), got ", e.value,
                              " at element ", e.position));
    case Fault::nan_target:
      throw ValueError(concat(op, ": expected a target without NaN, got NaN at element ", e.position));
    case Fault::zero_division: throw std::domain_error(concat(op, ": integer division by zero"));
    case Fault::boxes:
      throw ValueError(concat(op, ": expected boxes of finite numbers, of images in [0, ", e.high,
                              "), with bins of at most ", e.value, " pixels (box ", e.position, ")"));
    case Fault::none: break;
  }
}

}  // namespace fastcnn::cuda
