// What it is: depthwise_pointwise on the CPU. A thread walks down its rows of outputs in strips: it makes the rows
// that the depthwise convolution reads, runs that and then the last 1x1 convolution, all in scratch memory that
// stays in its cache. The kernels are those of the parts, in float32 and in bfloat16, and so are the sums and
// roundings. What it is not: arithmetic.
#include <algorithm>

#include "backend/cpu/conv2d_depthwise.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kStripFloats = 96 * 1024;  // of what lies between, beside the weights in L2
constexpr int64_t kWeightsFloats = 512 * 1024;
constexpr int64_t kProductPixels = 512;  // of one call of the dense kernel

// What is done in another way where the operands are of another type.
struct Floats {
  using Value = float;
  static constexpr DType kType = DType::float32;
  static constexpr const char* kNotThat = "dtype is not float32";
  static constexpr auto kDense = &KernelTable::gemm_windows;
  static constexpr auto kDepthwise = &KernelTable::conv2d_depthwise;
  static bool plan(GemmTask& t) { return plan_gemm(t, lanes(), 1); }
  static int64_t packed(const GemmTask& t) { return packed_floats(t, lanes()); }
  static void pack(const PackTask& t) { run_pack(t, *kernels()); }
  static const char* declines(const DepthwisePointwiseParams&) { return nullptr; }
  static int64_t depthwise_packed(const Conv2dParams& p) { return p.C * p.kH * p.kW; }
  static void pack_depthwise(const Conv2dParams& p, const float* w, const float*, float* dst) {
    kernels()->transpose_matrix(w, p.kH * p.kW, p.C, dst, 0, p.kH * p.kW);
  }
  static constexpr bool kPacksBias = false;  // of the depthwise part
};

struct Halves {
  using Value = bfloat16;
  static constexpr DType kType = DType::bfloat16;
  static constexpr const char* kNotThat = "dtype is not bfloat16";
  static constexpr auto kDense = &KernelTable::gemm_windows_bf16;
  static constexpr auto kDepthwise = &KernelTable::conv2d_depthwise_bf16;
  static bool plan(GemmTask& t) { return plan_gemm_bf16(t, lanes(), 1); }
  static int64_t packed(const GemmTask& t) { return packed_words_bf16(t, lanes()); }
  static void pack(const PackTask& t) { run_pack_bf16(t, *kernels()); }
  static const char* declines(const DepthwisePointwiseParams& p) {
    if (const char* why = depthwise_bf16_declines(depthwise_part(p))) return why;
    return fused_act(pointwise_part(p)) && (!p.has_expand || fused_act(expand_part(p)))
               ? nullptr
               : "activation is not none, relu or relu6";
  }
  static int64_t depthwise_packed(const Conv2dParams& p) { return depthwise_bf16_floats(p); }
  static void pack_depthwise(const Conv2dParams& p, const bfloat16* w, const bfloat16* bias, float* dst) {
    pack_depthwise_bf16(p, w, bias, dst);
  }
  static constexpr bool kPacksBias = true;
};

// Addresses travel in tasks as those of floats.
template <class Value>
const float* address(const Value* p) {
  return reinterpret_cast<const float*>(p);
}
template <class Value>
float* address(Value* p) {
  return reinterpret_cast<float*>(p);
}

template <class Type>
struct Tasks {
  const DepthwisePointwiseParams& p;
  GemmTask expand, depthwise, pointwise;
  int64_t expand_floats = 0, depthwise_floats = 0, pointwise_floats = 0;  // of weights in the kernels' order
  int64_t rows = 1;                                                       // of outputs in a strip

  explicit Tasks(const Call& c) : p(c.as<DepthwisePointwiseParams>()) {
    const Conv2dParams d = depthwise_part(p);
    depthwise = forward_task(d);
    by_channel(depthwise, d);
    depthwise_floats = aligned(Type::depthwise_packed(d));
    pointwise = dense(pointwise_part(p), pointwise_floats);
    if (p.has_expand) expand = dense(expand_part(p), expand_floats);
    while (rows < p.oH && strip_floats(rows + 1) <= kStripFloats) ++rows;
  }
  int64_t held(int64_t out) const {  // values
    return p.has_expand ? std::min(p.H, rows_read(depthwise, out)) * p.W * p.E : 0;
  }
  int64_t held_floats(int64_t out) const { return floats(held(out)); }
  int64_t strip_floats(int64_t out) const { return held_floats(out) + floats(out * p.oW * p.E); }
  int64_t weights_floats() const { return expand_floats + depthwise_floats + pointwise_floats; }
  // Of what the first convolution makes, the rows of the thread with most of them: rows that two threads read are
  // made by both.
  int64_t most_rows_made() const {
    const int64_t all = p.N * p.oH, threads = num_threads();
    int64_t most = 0;
    for (int64_t i = 0; i < threads; ++i) {
      int64_t rows = 0;
      for (int64_t from = all * i / threads, last = all * (i + 1) / threads, to; from < last; from = to) {
        to = std::min(last, (from / p.oH + 1) * p.oH);
        const int64_t first = from % p.oH * p.sH - p.pT, end = first + rows_read(depthwise, to - from);
        rows += std::clamp<int64_t>(end, 0, p.H) - std::clamp<int64_t>(first, 0, p.H);
      }
      most = std::max(most, rows);
    }
    return most;
  }
  // Shares of threads end inside of rows where there are few.
  int64_t pieces_of_a_row() const {
    const int64_t rows = p.N * p.oH, threads = num_threads();
    return !p.has_expand && rows % threads != 0 && rows < 8 * threads && p.oW >= 4 ? 2 : 1;
  }
  // The depthwise task on columns [w0, w1) of its rows; x is the image.
  template <class Value>
  static GemmTask columns(GemmTask t, const Value* x, int64_t w0, int64_t w1) {
    const int64_t outside = std::max<int64_t>(0, t.pL - w0 * t.sW), left_out = w0 * t.sW + outside - t.pL;
    t.x = reinterpret_cast<const float*>(x + left_out * t.x_w);
    t.W = std::max<int64_t>(0, t.W - left_out), t.pL = outside, t.oW = w1 - w0;
    return t;
  }

 private:
  static int64_t floats(int64_t values) { return aligned(ceil_div(values * sizeof(typename Type::Value), 4)); }
  static GemmTask dense(const Conv2dParams& q, int64_t& floats) {
    GemmTask t = forward_task(q);
    t.N = t.H = t.oH = 1, t.W = t.oW = q.N * q.oH * q.oW;
    Type::plan(t);
    t.groups = 1;
    floats = aligned(Type::packed(t));
    return t;
  }
};

template <class Type>
struct Strips {
  using Value = typename Type::Value;

  static const char* declines(const Call& c) {
    if (!kernels()) return "isa is ref";
    const auto& p = c.as<DepthwisePointwiseParams>();
    for (const Operand& o : c.in)
      if (o.dtype != Type::kType) return Type::kNotThat;
    if (const char* why = Type::declines(p)) return why;
    const Tasks<Type> t(c);
    if (t.strip_floats(1) > 2 * kStripFloats) return "long rows";
    if (t.weights_floats() > kWeightsFloats) return "weights that each strip would read from afar";
    if (p.N * p.oH < 3 * num_threads()) return "few rows for the threads";
    if (p.has_expand && 12 * num_threads() * t.most_rows_made() > 13 * p.N * p.H)
      return "threads would make too many rows twice";
    return nullptr;
  }

  static int64_t prepared_bytes(const Call& c) { return 4 * Tasks<Type>(c).weights_floats(); }
  static int64_t workspace(const Call& c) { return c.prepared ? 0 : prepared_bytes(c); }
  static uint32_t prepared_operands(const Call& c) {
    const auto& p = c.as<DepthwisePointwiseParams>();
    const uint32_t depthwise = Type::kPacksBias && p.depthwise_bias ? 3 : 1;
    return (p.has_expand ? 1u << 1 : 0u) | depthwise << depthwise_at(p) | 1u << pointwise_at(p);
  }

  static void prepare(const Call& c, void* to) {
    const Tasks<Type> t(c);
    float* dst = static_cast<float*>(to);
    if (t.p.has_expand) pack(t.expand, c.in[1], dst);
    dst += t.expand_floats;
    const int at = depthwise_at(t.p);
    Type::pack_depthwise(depthwise_part(t.p), c.in[at].as<Value>(),
                         t.p.depthwise_bias ? c.in[at + 1].as<Value>() : nullptr, dst);
    pack(t.pointwise, c.in[pointwise_at(t.p)], dst + t.depthwise_floats);
  }

  static void run(const Call& c) {
    const auto& p = c.as<DepthwisePointwiseParams>();
    const KernelTable& k = *kernels();
    if (p.N == 0) return;
    if (!c.prepared) prepare(c, c.workspace);
    Tasks<Type> t(c);
    const float* w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
    t.expand.w = w, t.depthwise.w = w + t.expand_floats;
    t.pointwise.w = w + t.expand_floats + t.depthwise_floats;
    auto bias = [&](int weights, int64_t has) {
      return has ? address(c.in[weights + 1].as<const Value>()) : nullptr;
    };
    t.expand.bias = bias(1, p.has_expand && p.expand_bias);
    t.depthwise.bias = bias(depthwise_at(p), p.depthwise_bias && !Type::kPacksBias);
    t.pointwise.bias = bias(pointwise_at(p), p.pointwise_bias);
    t.expand.y_n = 0;  // its result is a thread's scratch: nothing to fetch
    const Value* x = c.in[0].as<Value>();
    const Value* residual = p.has_residual ? c.in[c.in.size() - 1].as<Value>() : nullptr;
    Value* y = c.out[0].as<Value>();
    t.pointwise.y = address(y);
    if (sizeof(Value) == 4) choose_stream(t.pointwise, p.N * p.oH * p.oW * p.O, p.O);
    const int64_t held_floats = t.held_floats(t.rows), pieces = t.pieces_of_a_row();
    const int64_t work = p.oW * p.E * (p.O + (p.has_expand ? p.sH * p.sW * p.C : 0)) / pieces;
    const auto pixel = [&](int64_t piece) { return piece / pieces * p.oW + p.oW * (piece % pieces) / pieces; };
    const int64_t items = p.N * p.oH * pieces, worth = ceil_div(128 * 1024, std::max<int64_t>(work, 1));
    // Each call makes the rows above its first one again.
    with_scratch(items, {worth, p.has_expand ? items : worth}, t.strip_floats(t.rows),
                 [&](int64_t begin, int64_t end, float* scratch) {
                   HeldRows held{reinterpret_cast<Value*>(scratch)};
                   auto* deep = reinterpret_cast<Value*>(scratch + held_floats);
                   for (int64_t from = begin, to; from < end; from = to) {
                     const int64_t image = from / pieces / p.oH;
                     const int64_t last = std::min(end, (image + 1) * p.oH * pieces);
                     to = from + even(last - from, t.rows * pieces);
                     GemmTask d = t.depthwise;
                     const Value* rows = x + image * d.x_n;
                     if (p.has_expand) {
                       held.hold_for(d, from, to, [&](int64_t n, int64_t h0, int64_t h1, Value* dst) {
                         const int64_t at = (n * p.H + h0) * p.W;
                         on_pixels(t.expand, x + at * p.C, dst, nullptr, (h1 - h0) * p.W, k);
                       });
                       rows = held.scratch - held.h0 * d.x_h;
                       d.x_n = 0;  // nothing to fetch from memory
                     }
                     const int64_t first = pixel(from), pixels = pixel(to) - first;
                     on_rows(d, rows, deep, first - image * p.oH * p.oW, pixels, k);
                     on_pixels(t.pointwise, deep, y + first * p.O, residual ? residual + first * p.O : nullptr,
                               pixels, k);
                   }
                 });
  }

  static constexpr Implementation entry(const char* name) {
    return {name, declines, workspace, run, prepared_bytes, prepare, prepared_operands};
  }

 private:
  static void pack(const GemmTask& t, const Operand& src, float* dst) {
    PackTask w;
    w.O = t.O, w.C = t.C, w.nc = t.nc, w.s_c = 1, w.s_o = w.s_kh = w.s_kw = t.C;
    w.src = address(src.as<const Value>()), w.dst = dst;
    Type::pack(w);
  }

  // The depthwise convolution of pixels [first, first + pixels) of an image, of which the first and the last row
  // may be part of one.
  static void on_rows(const GemmTask& t, const Value* x, Value* y, int64_t first, int64_t pixels,
                      const KernelTable& k) {
    for (int64_t at = first, end = first + pixels, next; at < end; at = next) {
      const int64_t h = at / t.oW, w0 = at % t.oW, whole = w0 == 0 ? (end - at) / t.oW : 0;
      next = whole ? at + whole * t.oW : std::min(end, (h + 1) * t.oW);
      GemmTask d = Tasks<Type>::columns(t, x, w0, whole ? t.oW : w0 + next - at);
      d.y = address(y + (at - first) * t.y_w - h * t.y_h);
      (k.*Type::kDepthwise)(d, h, h + std::max<int64_t>(1, whole));
    }
  }

  // The 1x1 convolution t of pixels that lie side by side.
  static void on_pixels(GemmTask t, const Value* x, Value* y, const Value* residual, int64_t pixels,
                        const KernelTable& k) {
    // A copy of pixels must fit the kernel's scratch.
    const int64_t most = t.pack ? t.owb : kProductPixels;
    for (int64_t at = 0, n = even(pixels, most); at < pixels; at += n) {
      t.W = t.oW = t.owb = std::min(n, pixels - at);
      t.x = address(x + at * t.x_w), t.y = address(y + at * t.y_w);
      t.residual = residual ? address(residual + at * t.y_w) : nullptr;
      (k.*Type::kDense)(t, 0, 1);
    }
  }
};

constexpr Implementation kList[] = {
    Strips<Floats>::entry("strips"),
    Strips<Halves>::entry("strips_bf16"),
    {"ref", nullptr, nullptr, ref::depthwise_pointwise},
};

}  // namespace

List depthwise_pointwise_list() { return kList; }

}  // namespace fastcnn::cpu
