// What it is: the ordered CPU implementations of reduce, and how a reduction is cut into fixed chunks.
#include <algorithm>
#include <cstdlib>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels/eltwise_args.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kChunk = 16 * 1024;  // elements of one partial result: its float32 sum stays accurate

struct Plan {
  ReduceLoop loop;
  bool columns = false, wide = false, arg = false;
  int64_t chunk = 0, chunks = 1, items = 0, partials = 0;
};

Plan make_plan(const Call& c) {
  const auto& p = c.as<ReduceParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  Plan plan;
  ReduceLoop& l = plan.loop;
  int order[kMaxDims], n = 0;
  auto key = [&](int d) { return x.strides[d] == 0 ? INT64_MAX : std::llabs(x.strides[d]); };
  for (int d = 0; d < x.ndim; ++d) {
    if (x.shape[d] == 1) continue;
    int at = n++;
    for (; at > 0 && key(order[at - 1]) < key(d); --at) order[at] = order[at - 1];
    order[at] = d;
  }
  int before = -1;  // kind of the dim outside the current one
  for (int i = 0; i < n; ++i) {
    int d = order[i], reduced = p.dims >> d & 1;
    int64_t s = x.shape[d], sx = x.strides[d], sy = y.strides[d];
    if (reduced) {
      bool merge = before == 1 && l.x[l.reduced - 1] == sx * s;
      if (!merge) l.shape[l.reduced++] = 1;
      l.shape[l.reduced - 1] *= s;
      l.x[l.reduced - 1] = sx;
      l.count *= s;
    } else {
      bool merge = before == 0 && l.kept_x[l.kept - 1] == sx * s && l.kept_y[l.kept - 1] == sy * s;
      if (!merge) l.kept_shape[l.kept++] = 1;
      l.kept_shape[l.kept - 1] *= s;
      l.kept_x[l.kept - 1] = sx;
      l.kept_y[l.kept - 1] = sy;
      l.outputs *= s;
    }
    before = reduced;
  }
  if (l.reduced == 0) {  // nothing to add up: runs of one
    l.reduced = 1;
    l.shape[0] = 1;
    l.x[0] = 1;
  }
  plan.arg = p.op == Reduce::argmax || p.op == Reduce::argmin;
  plan.wide = !is_floating(x.dtype) || x.dtype == DType::float64;
  int last = l.kept - 1;
  plan.columns = !plan.wide && before == 0 && l.kept_x[last] == 1 && l.kept_shape[last] >= 4;
  int64_t width = plan.columns ? std::min(l.kept_shape[last], kReduceColumns) : 1;
  plan.chunk = std::max<int64_t>(64, kChunk / width);
  plan.chunks = (l.count + plan.chunk - 1) / plan.chunk;
  plan.partials = l.outputs * plan.chunks;
  plan.items = plan.partials;
  if (plan.columns) {
    int64_t blocks = (l.kept_shape[last] + kReduceColumns - 1) / kReduceColumns;
    plan.items = l.outputs / l.kept_shape[last] * plan.chunks * blocks;
  }
  return plan;
}

const char* declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  Reduce op = c.as<ReduceParams>().op;
  DType t = c.in[0].dtype;
  if (c.in[0].numel() == 0) return "no elements";
  bool lanes = is_floating(t) && t != DType::float64;
  if (op == Reduce::argmax || op == Reduce::argmin) {
    if (!lanes) return "argmax or argmin outside float32 and 16-bit floats";
    if (c.out[0].dtype != DType::int64) return "index output other than int64";
    return make_plan(c).loop.reduced == 1 ? nullptr : "argmax or argmin over several dims";
  }
  if (lanes) return op == Reduce::any || op == Reduce::all ? "any or all of floats" : nullptr;
  if (op == Reduce::any || op == Reduce::all) return t == DType::bool_ ? nullptr : "any or all outside bool";
  if (op == Reduce::mean && t != DType::float64) return "mean of integers";
  if (op == Reduce::max || op == Reduce::min) return t == DType::int64 ? nullptr : "no kernel for this dtype";
  return op == Reduce::sum || op == Reduce::mean || op == Reduce::sum_squares ? nullptr
                                                                              : "no kernel for this dtype";
}

int64_t workspace(const Call& c) {
  Plan plan = make_plan(c);
  return plan.arg ? 0 : plan.partials * static_cast<int64_t>(plan.wide ? sizeof(double) : sizeof(float));
}

double join(Reduce op, double a, double b) {
  switch (op) {
    case Reduce::prod: return a * b;
    case Reduce::max: return a != a || a > b ? a : b;
    case Reduce::min: return a != a || a < b ? a : b;
    default: return a + b;
  }
}

// Adds the partial results of each output in chunk order. P: float, double or int64_t.
template <class P>
void finish(const Plan& plan, Reduce op, const P* partial, const Operand& y) {
  const ReduceLoop& l = plan.loop;
  int64_t width = plan.columns ? l.kept_shape[l.kept - 1] : 1;
  ref::dispatch_all(y.dtype, [&]<class U>() {
    parallel_for(l.outputs, kChunk / 4 / plan.chunks + 1, [&](int64_t b, int64_t e, int) {
      // Of output b; then step by step, for divisions are most of the work here.
      int64_t at[kMaxDims] = {}, off = 0, rest = b, group = b / width, column = b % width;
      for (int d = l.kept - 1; d >= 0; --d) {
        at[d] = rest % l.kept_shape[d], rest /= l.kept_shape[d];
        off += at[d] * l.kept_y[d];
      }
      auto next = [&] {
        if (++column == width) column = 0, ++group;
        for (int d = l.kept - 1; d >= 0; --d) {
          off += l.kept_y[d];
          if (++at[d] < l.kept_shape[d]) return;
          off -= at[d] * l.kept_y[d], at[d] = 0;
        }
      };
      for (int64_t o = b; o < e; ++o, next()) {
        const P* p = partial + group * plan.chunks * width + column;
        U& out = y.as<U>()[off];
        if constexpr (std::is_integral_v<P>) {
          int64_t v = p[0];
          for (int64_t k = 1; k < plan.chunks; ++k)
            v = op == Reduce::max   ? std::max(v, p[k])
                : op == Reduce::min ? std::min(v, p[k])
                                    : ref::wrap_add(v, p[k]);
          if (op == Reduce::any) v = v != 0;
          if (op == Reduce::all) v = v == l.count;
          out = ref::store<U>(v);
        } else {
          double v = p[0];
          for (int64_t k = 1; k < plan.chunks; ++k) v = join(op, v, p[k * width]);
          out = ref::store<U>(op == Reduce::mean ? v / static_cast<double>(l.count) : v);
        }
      }
    });
  });
}

void run(const Call& c) {
  Reduce op = c.as<ReduceParams>().op;
  const Operand &x = c.in[0], &y = c.out[0];
  Plan plan = make_plan(c);
  const KernelTable& k = *kernels();
  int64_t each = x.numel() / std::max<int64_t>(1, plan.arg ? plan.loop.outputs : plan.items);
  int64_t grain = std::max<int64_t>(1, 2 * kChunk / std::max<int64_t>(1, each));
  if (plan.arg) {
    parallel_for(plan.loop.outputs, grain, [&](int64_t b, int64_t e, int) {
      k.reduce_arg(plan.loop, op, x.data, x.dtype, y.as<int64_t>(), b, e);
    });
    return;
  }
  float* partial = static_cast<float*>(c.workspace);
  parallel_for(plan.items, grain, [&](int64_t b, int64_t e, int) {
    if (plan.wide)
      k.reduce_wide(plan.loop, op, x.data, x.dtype, plan.chunk, c.workspace, b, e);
    else if (plan.columns)
      k.reduce_columns(plan.loop, op, x.data, x.dtype, plan.chunk, partial, b, e);
    else
      k.reduce_runs(plan.loop, op, x.data, x.dtype, plan.chunk, partial, b, e);
  });
  if (!plan.wide)
    finish(plan, op, partial, y);
  else if (x.dtype == DType::float64)
    finish(plan, op, static_cast<const double*>(c.workspace), y);
  else
    finish(plan, op, static_cast<const int64_t*>(c.workspace), y);
}

}  // namespace

List reduce_list() {
  static const Implementation list[] = {{"simd", declines, workspace, run},
                                        {"ref", nullptr, nullptr, ref::reduce}};
  return list;
}

}  // namespace fastcnn::cpu
