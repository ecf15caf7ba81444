// What it is: the operands of a node of a file one after the other, as the checks of verify.h take them, and the
// windows that float and int8 ops share. What it is not: which op wants what (verify.cpp, verify_quantized.cpp).
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <vector>

#include "graph/ir.h"
#include "session/verify.h"

namespace fastcnn {

inline constexpr int64_t kMostOption = int64_t(1) << 31;  // strides, padding: as ops/operands.h

inline DType statistics(DType t) { return t == DType::float64 ? t : DType::float32; }

// The operands of a node one after the other.
class Operands {
 public:
  Operands(OpKind kind, const std::vector<Tensor>& in, const std::vector<OutSpec>& out)
      : kind_(kind), in_(in), out_(out) {}

  template <class... A>
  void expect(bool ok, const A&... what) const {
    check(ok, op_name(kind_), ": expected ", what...);
  }
  const Tensor& next() {
    expect(i_ < in_.size(), "more than ", in_.size(), " inputs");
    return in_[i_++];
  }
  void in(const Dims& shape, DType dtype) {
    const size_t i = i_;
    const Tensor& t = next();
    expect(t.shape() == shape && t.dtype() == dtype, "input ", i, " of shape ", shape, " and ", dtype, ", got ",
           t.shape(), " and ", t.dtype());
  }
  DType in_floating(const Dims& shape) {  // of any floating dtype, which it returns
    const DType t = peek(i_).dtype();
    expect(is_floating(t), "input ", i_, " of a floating dtype, got ", t);
    in(shape, t);
    return t;
  }
  const OutSpec& out() {
    expect(o_ < out_.size(), "more than ", out_.size(), " outputs");
    return out_[o_++];
  }
  void out(const Dims& shape, DType dtype) {
    const size_t i = o_;
    const OutSpec& s = out();
    expect(s.shape == shape && s.dtype == dtype, "output ", i, " of shape ", shape, " and ", dtype, ", got ",
           s.shape, " and ", s.dtype);
  }
  DType floating() const {
    expect(!in_.empty() && is_floating(in_[0].dtype()), "a floating input");
    return in_[0].dtype();
  }
  const Tensor& peek(size_t i) const {
    expect(i < in_.size(), "more than ", in_.size(), " inputs");
    return in_[i];
  }
  DType wide() const {  // of ops whose kernels know no 16-bit types
    const DType t = floating();
    expect(t == DType::float32 || t == DType::float64, "an input of float32 or float64, got ", t);
    return t;
  }
  bool left() const { return i_ < in_.size(); }
  int rank() const { return peek(i_).ndim(); }  // of the next input
  void flag(const char* name, int64_t v) const { expect(v == 0 || v == 1, name, " of 0 or 1, got ", v); }
  void option(const char* name, int64_t v, int64_t low) const {
    expect(v >= low && v <= kMostOption, name, " in [", low, ", ", kMostOption, "], got ", v);
  }
  void done() const {
    expect(i_ == in_.size() && o_ == out_.size(), i_, " inputs and ", o_, " outputs, got ", in_.size(), " and ",
           out_.size());
  }

 private:
  OpKind kind_;
  const std::vector<Tensor>& in_;
  const std::vector<OutSpec>& out_;
  size_t i_ = 0, o_ = 0;
};

void verify_window(const Conv2dParams& p, Operands& c);
void verify_pool_window(const Pool2dParams& p, Operands& c);
void verify_quantized(OpKind kind, const Params& params, Operands& c);

}  // namespace fastcnn
