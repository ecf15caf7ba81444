// What it is: a convolution on operands in another form (more channels, a stride made channels): what it is called
// with, copies in the caller's workspace, and the implementation that takes it. What it is not: the copies.
#pragma once
#include <vector>

#include "backend/cuda/conv2d_parts.h"
#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {

enum class Pass { forward, data, weights };

inline List list_of(Pass pass) {
  return pass == Pass::forward ? conv2d_list()
         : pass == Pass::data  ? conv2d_bwd_data_list()
                               : conv2d_bwd_weights_list();
}

constexpr int64_t kRun = 8;  // 16-bit floats in 16 bytes
inline int64_t runs(int64_t channels) { return (channels + kRun - 1) / kRun * kRun; }

// Copies lie in the workspace, whole 256 bytes each.
class Rewritten {
 public:
  Conv2dParams params;
  Call call;
  const Implementation* chosen = nullptr;
  int64_t bytes = 0;
  Rewritten(const Rewritten&) = delete;

 protected:
  Rewritten(const Call& c, void* workspace)
      : params(c.as<Conv2dParams>()), base_(static_cast<char*>(workspace)) {}  // null: to measure
  void* take(int64_t n) {
    void* p = base_ ? base_ + bytes : nullptr;
    bytes += (n + 255) / 256 * 256;
    return p;
  }
  Operand operand(const Operand& o, bool copied, int64_t elements, DType t) {
    if (!copied) return o;
    Operand other;
    other.dtype = t, other.ndim = 1, other.shape[0] = elements, other.strides[0] = 1;
    other.data = take(elements * static_cast<int64_t>(dtype_size(t)));
    return other;
  }
  void choose(const Call& c, Pass pass) {
    call.kind = c.kind, call.params = &params, call.in = in_, call.out = out_;
    // Moments are worth no other implementation.
    Conv2dParams bare = params;
    bare.has_moments = 0;
    Call product = call;
    product.params = &bare, product.out = call.out.first(params.has_moments ? 1 : call.out.size());
    for (const Implementation& i : list_of(pass))
      if (!i.declines || !i.declines(product)) {
        if (!params.has_moments || !i.declines || !i.declines(call)) chosen = &i;
        break;
      }
    if (chosen && chosen->workspace) call.workspace = take(chosen->workspace(call));
  }
  std::vector<Operand> in_, out_;

 private:
  char* base_;
};

// Why not, for every such form: 16-bit floats alone, whose gradients of weights may be float32.
template <Pass pass>
const char* rewriting_declines(const Call& c) {
  if (!is_half(c.in[0].dtype)) return "not a 16-bit float";
  if (c.as<Conv2dParams>().groups != 1) return "groups";
  for (const Operand& o : c.in)
    if (o.dtype != c.in[0].dtype) return "operands of several dtypes";
  for (const Operand& o : c.as<Conv2dParams>().has_moments ? c.out.first(1) : c.out)
    if (o.dtype != c.in[0].dtype && !(pass == Pass::weights && o.dtype == DType::float32))
      return "a result of another dtype";
  return nullptr;
}

}  // namespace fastcnn::cuda
