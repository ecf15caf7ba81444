// What it is: an implementation for 16-bit floats out of a list's float32 ones: operands are widened to the
// workspace, the first that accepts float32 runs, results are rounded. What it is not: fast; it beats the
// reference by orders and stands before it in lists whose kernels take float32 alone.
#pragma once
#include <algorithm>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {

template <List (*list)()>
class ViaFloat32 {
 public:
  static constexpr Implementation entry() { return {"via float32", declines, workspace, run}; }

 private:
  // The call on float32 operands; with a workspace, at their addresses there.
  struct Wide {
    std::vector<Operand> in, out;
    Call call;
    Carve space;
    explicit Wide(const Call& c) : call(c), space(c.workspace) {
      for (const Operand& o : c.in) in.push_back(wide(o));
      for (const Operand& o : c.out) out.push_back(wide(o));
      call.in = in, call.out = out;
    }
    Operand wide(Operand o) {
      if (!half(o.dtype)) return o;
      o.dtype = DType::float32;
      o.data = space.template take<float>(extent(o));
      return o;
    }
  };

  static bool half(DType t) { return t == DType::bfloat16 || t == DType::float16; }
  static int64_t extent(const Operand& o) {  // elements from the first to the last
    int64_t n = 1;
    for (int i = 0; i < o.ndim; ++i) {
      if (o.shape[i] == 0) return 0;
      n += (o.shape[i] - 1) * o.strides[i];
    }
    return n;
  }
  static const Implementation* chosen(const Call& c) {
    const List all = list();
    for (const Implementation& i : all.first(all.size() - 1))
      if (i.run != run && (!i.declines || !i.declines(c))) return &i;
    return nullptr;
  }

  static const char* declines(const Call& c) {
    if (!kernels()) return "isa is ref";
    if constexpr (list == conv2d_list)
      if (c.as<Conv2dParams>().has_moments) return "moments are of rounded values";
    bool any = false;
    for (auto side : {c.in, c.out})
      for (const Operand& o : side) {
        any |= half(o.dtype);
        for (int d = 0; d < o.ndim; ++d)
          if (half(o.dtype) && o.strides[d] < 0) return "negative stride";
      }
    if (!any) return "dtype is not of 16 bits";
    Call bare = c;
    bare.workspace = nullptr;
    return chosen(Wide(bare).call) ? nullptr : "no float32 implementation accepts";
  }
  static int64_t workspace(const Call& c) {
    Call bare = c;
    bare.workspace = nullptr;
    Wide w(bare);
    const Implementation* i = chosen(w.call);
    return w.space.used() + (i->workspace ? i->workspace(w.call) : 0);
  }
  static void run(const Call& c) {
    Wide w(c);
    const Implementation* i = chosen(w.call);
    if (c.workspace) w.call.workspace = static_cast<char*>(c.workspace) + w.space.used();
    for (size_t k = 0; k < c.in.size(); ++k)
      if (half(c.in[k].dtype)) convert(c.in[k], w.in[k]);
    i->run(w.call);
    for (size_t k = 0; k < c.out.size(); ++k)
      if (half(c.out[k].dtype)) convert(w.out[k], c.out[k]);
  }
  static void convert(const Operand& from, const Operand& to) {
    const int64_t n = extent(from);
    EltLoop l{};
    l.operands = 2, l.ndim = 1, l.total = l.shape[0] = n, l.strides[0][0] = l.strides[1][0] = 1;
    parallel_for(n, 16 * 1024, [&](int64_t b, int64_t e, int) {
      kernels()->copy_map(l, from.data, from.dtype, to.data, to.dtype, b, e, 0);
    });
  }
};

}  // namespace fastcnn::cpu
