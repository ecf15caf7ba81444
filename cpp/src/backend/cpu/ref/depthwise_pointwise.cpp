// What it is: depthwise_pointwise as its parts one after the other, what lies between stored in their dtype.
#include <vector>

#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {
namespace {

// conv2d of operands [at, at + count) of c on `x`.
void part(const Call& c, const Conv2dParams& p, const Operand& x, size_t at, size_t count, const Operand& y) {
  std::vector<Operand> in{x};
  in.insert(in.end(), c.in.begin() + static_cast<int64_t>(at), c.in.begin() + static_cast<int64_t>(at + count));
  if (p.has_residual) in.push_back(c.in.back());
  Call d = c;
  d.params = &p, d.in = in, d.out = {&y, 1};
  conv2d(d);
}

}  // namespace

void depthwise_pointwise(const Call& c) {
  const auto& p = c.as<DepthwisePointwiseParams>();
  const size_t value = dtype_size(c.in[0].dtype), e = static_cast<size_t>(p.N * p.E);
  std::vector<char> expanded(p.has_expand ? value * e * static_cast<size_t>(p.H * p.W) : 0);
  std::vector<char> deep(value * e * static_cast<size_t>(p.oH * p.oW));
  Operand x = c.in[0], d = c.in[0];
  if (p.has_expand) {
    x.data = expanded.data();
    part(c, expand_part(p), c.in[0], 1, static_cast<size_t>(1 + p.expand_bias), x);
  }
  d.data = deep.data();
  part(c, depthwise_part(p), x, static_cast<size_t>(depthwise_at(p)), static_cast<size_t>(1 + p.depthwise_bias),
       d);
  part(c, pointwise_part(p), d, static_cast<size_t>(pointwise_at(p)), static_cast<size_t>(1 + p.pointwise_bias),
       c.out[0]);
}

}  // namespace fastcnn::cpu::ref
