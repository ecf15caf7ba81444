// See params_form.h. One function `fields` for each params struct names its fields; a reader, a writer and nobody
// else walk them.
#include "session/params_form.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <unordered_map>

#include "fastcnn/error.h"
#include "graph/ir.h"
#include "session/batch_form.h"

namespace fastcnn {
namespace {

using Names = std::span<const char* const>;

Names names_of(Act) {
  static const char* const n[] = {"none",        "relu",     "relu6",     "leaky_relu", "elu",      "selu",
                                  "celu",        "gelu",     "gelu_tanh", "silu",       "mish",     "hardswish",
                                  "hardsigmoid", "hardtanh", "sigmoid",   "tanh",       "softplus", "softsign"};
  static_assert(std::size(n) == static_cast<size_t>(Act::count));
  return n;
}
Names names_of(Unary) {
  static const char* const n[] = {
      "copy",  "affine", "rdiv", "pow",   "rpow",        "clamp",      "abs",   "exp",      "expm1",     "log",
      "log1p", "log2",   "sqrt", "rsqrt", "square",      "reciprocal", "sign",  "floor",    "ceil",      "round",
      "sin",   "cos",    "erf",  "atan",  "logical_not", "isnan",      "isinf", "isfinite", "clamp_mask"};
  static_assert(std::size(n) == static_cast<size_t>(Unary::count));
  return n;
}
Names names_of(Binary) {
  static const char* const n[] = {"add",     "sub", "mul",       "div",         "pow",        "maximum",
                                  "minimum", "mod", "floor_div", "eq",          "ne",         "lt",
                                  "le",      "gt",  "ge",        "logical_and", "logical_or", "logical_xor"};
  static_assert(std::size(n) == static_cast<size_t>(Binary::count));
  return n;
}
Names names_of(Reduce) {
  static const char* const n[] = {"sum",    "mean",   "prod", "max", "min",
                                  "argmax", "argmin", "any",  "all", "sum_squares"};
  static_assert(std::size(n) == static_cast<size_t>(Reduce::count));
  return n;
}
Names names_of(Reduction) {
  static const char* const n[] = {"none", "mean", "sum"};
  return n;
}
Names names_of(PointLoss) {
  static const char* const n[] = {"mse", "l1", "smooth_l1", "huber", "bce_with_logits"};
  return n;
}
Names names_of(PadMode) {
  static const char* const n[] = {"constant", "reflect", "replicate", "circular"};
  return n;
}
Names names_of(GridPadding) {
  static const char* const n[] = {"zeros", "border", "reflection"};
  return n;
}
Names names_of(Interp) {
  static const char* const n[] = {"nearest", "bilinear", "bicubic", "nearest_exact"};
  return n;
}
Names names_of(SampleFill) {
  static const char* const n[] = {"constant", "edge", "reflect", "symmetric"};
  return n;
}
Names names_of(DropKind) {
  static const char* const n[] = {"element", "channel", "sample"};
  return n;
}
Names names_of(Random) {
  static const char* const n[] = {"uniform", "normal", "integers", "permutation"};
  return n;
}

// ---- the fields ----

template <class V>
void fields(Conv2dParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("O", p.O), v("kH", p.kH), v("kW", p.kW), v("oH", p.oH);
  v("oW", p.oW), v("sH", p.sH), v("sW", p.sW), v("pT", p.pT), v("pB", p.pB), v("pL", p.pL), v("pR", p.pR);
  v("dH", p.dH), v("dW", p.dW), v("groups", p.groups), v("has_bias", p.has_bias);
}
template <class V>
void fields(MatmulParams& p, V& v) {
  v("batch", p.batch), v("M", p.M), v("N", p.N), v("K", p.K), v("trans_a", p.trans_a), v("trans_b", p.trans_b);
  v("a_batched", p.a_batched), v("b_batched", p.b_batched), v("has_bias", p.has_bias);
}
template <class V>
void fields(Pool2dParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("oH", p.oH), v("oW", p.oW), v("kH", p.kH), v("kW", p.kW);
  v("sH", p.sH), v("sW", p.sW), v("pT", p.pT), v("pB", p.pB), v("pL", p.pL), v("pR", p.pR), v("dH", p.dH);
  v("dW", p.dW), v("count_include_pad", p.count_include_pad), v("adaptive", p.adaptive);
}
template <class V>
void fields(QuantizeParams& p, V& v) {
  v("scale", p.scale), v("zero", p.zero);
}
template <class V>
void fields(QuantizedConv2dParams& p, V& v) {
  fields(p.conv, v);
  v("has_residual", p.conv.has_residual), v("x_zero", p.x_zero), v("low", p.low), v("high", p.high);
  v("residual_multiplier", p.residual_multiplier);
}
template <class V>
void fields(QuantizedAddParams& p, V& v) {
  v("a_multiplier", p.a_multiplier), v("b_multiplier", p.b_multiplier), v("offset", p.offset);
  v("has_b", p.has_b), v("low", p.low), v("high", p.high);
}
template <class V>
void fields(QuantizedPool2dParams& p, V& v) {
  fields(p.pool, v);
  v("max", p.max), v("x_zero", p.x_zero), v("multiplier", p.multiplier), v("offset", p.offset);
}
template <class V>
void fields(BatchNormParams& p, V& v) {
  v("rows", p.rows), v("C", p.C), v("eps", p.eps);
}
template <class V>
void fields(BnUpdateParams& p, V& v) {
  v("rows", p.rows), v("C", p.C), v("eps", p.eps), v("momentum", p.momentum);
}
template <class V>
void fields(NormParams& p, V& v) {
  v("outer", p.outer), v("inner", p.inner), v("N", p.N), v("HW", p.HW), v("C", p.C), v("groups", p.groups);
  v("affine", p.affine), v("eps", p.eps);
}
template <class V>
void fields(ActParams& p, V& v) {
  v("act", p.act), v("alpha", p.alpha), v("beta", p.beta);
}
template <class V>
void fields(SoftmaxParams& p, V& v) {
  v("outer", p.outer), v("dim", p.dim), v("inner", p.inner);
}
template <class V>
void fields(CrossEntropyParams& p, V& v) {
  v("rows", p.rows), v("C", p.C), v("ignore_index", p.ignore_index), v("has_weight", p.has_weight);
  v("label_smoothing", p.label_smoothing), v("reduction", p.reduction);
}
template <class V>
void fields(PointwiseLossParams& p, V& v) {
  v("count", p.count), v("beta", p.beta), v("loss", p.loss), v("reduction", p.reduction);
}
template <class V>
void fields(CheckTargetParams& p, V& v) {
  v("op", p.op);
}
template <class V>
void fields(UnaryParams& p, V& v) {
  v("op", p.op), v("alpha", p.alpha), v("beta", p.beta);
}
template <class V>
void fields(BinaryParams& p, V& v) {
  v("op", p.op);
}
template <class V>
void fields(FillParams& p, V& v) {
  v("value", p.value), v("arange", p.arange), v("step", p.step);
}
template <class V>
void fields(ReduceParams& p, V& v) {
  v("op", p.op), v("dims", p.dims);
}
template <class V>
void fields(ScatterParams& p, V& v) {
  v("offset", p.offset), v("strides", p.strides), v("accumulate", p.accumulate);
}
template <class V>
void fields(IndexParams& p, V& v) {
  v("dim", p.dim), v("size", p.size);
}
template <class V>
void fields(ArgsortParams& p, V& v) {
  v("rows", p.rows), v("size", p.size), v("kept", p.kept), v("descending", p.descending);
}
template <class V>
void fields(CumsumParams& p, V& v) {
  v("rows", p.rows), v("size", p.size), v("reverse", p.reverse);
}
template <class V>
void fields(CatParams& p, V& v) {
  v("dim", p.dim);
}
template <class V>
void fields(PadParams& p, V& v) {
  v("before", p.before), v("after", p.after), v("value", p.value), v("mode", p.mode);
}
template <class V>
void fields(InterpolateParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("oH", p.oH), v("oW", p.oW);
  v("align_corners", p.align_corners), v("antialias", p.antialias), v("scale_h", p.scale_h);
  v("scale_w", p.scale_w), v("mode", p.mode);
}
template <class V>
void fields(AffineSampleParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("oH", p.oH), v("oW", p.oW), v("stages", p.stages);
  v("mode", p.mode), v("fill", p.fill), v("antialias", p.antialias), v("has_displacement", p.has_displacement);
  v("has_norm", p.has_norm);
}
template <class V>
void fields(GridSampleParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("oH", p.oH), v("oW", p.oW);
  v("align_corners", p.align_corners), v("mode", p.mode), v("padding", p.padding);
  v("has_dx", p.has_dx), v("has_dgrid", p.has_dgrid);
}
template <class V>
void fields(BoxIouParams& p, V& v) {
  v("N", p.N), v("M", p.M);
}
template <class V>
void fields(NmsParams& p, V& v) {
  v("N", p.N), v("limit", p.limit), v("iou_threshold", p.iou_threshold), v("has_groups", p.has_groups);
}
template <class V>
void fields(RoiAlignParams& p, V& v) {
  v("N", p.N), v("C", p.C), v("H", p.H), v("W", p.W), v("K", p.K), v("oH", p.oH), v("oW", p.oW);
  v("sampling_ratio", p.sampling_ratio), v("aligned", p.aligned), v("spatial_scale", p.spatial_scale);
}
template <class V>
void fields(CapsuleRoutingParams& p, V& v) {
  v("N", p.N), v("I", p.I), v("K", p.K), v("J", p.J), v("D", p.D), v("iterations", p.iterations);
}
template <class V>
void fields(DropoutParams& p, V& v) {
  v("p", p.p), v("delta", p.delta), v("kind", p.kind), v("N", p.N), v("C", p.C), v("HW", p.HW);
}
template <class V>
void fields(RandomParams& p, V& v) {
  v("op", p.op), v("low", p.low), v("high", p.high), v("delta", p.delta);
}
template <class V>
void fields(RngAdvanceParams& p, V& v) {
  v("count", p.count);
}
template <class V>
void fields(SgdParams& p, V& v) {
  v("has_momentum", p.has_momentum), v("nesterov", p.nesterov), v("maximize", p.maximize);
  v("first_step", p.first_step);
}
template <class V>
void fields(AdamParams& p, V& v) {
  v("decoupled", p.decoupled), v("amsgrad", p.amsgrad), v("maximize", p.maximize);
}
template <class V>
void fields(RmspropParams& p, V& v) {
  v("has_momentum", p.has_momentum), v("centered", p.centered), v("maximize", p.maximize);
}
template <class V>
void fields(AdagradParams& p, V& v) {
  v("maximize", p.maximize);
}
template <class V>
void fields(LionParams& p, V& v) {
  v("maximize", p.maximize);
}

// ---- walking them ----

struct Writer {
  Json out = Json::object();
  void operator()(const char* name, int64_t v) { out.set(name, Json::integer(v)); }
  void operator()(const char* name, int32_t v) { out.set(name, Json::integer(v)); }
  void operator()(const char* name, uint32_t v) { out.set(name, Json::integer(v)); }
  void operator()(const char* name, double v) { out.set(name, double_form(v)); }
  template <class E>
    requires std::is_enum_v<E>
  void operator()(const char* name, E v) {
    const Names names = names_of(v);
    const auto i = static_cast<size_t>(v);
    check(i < names.size(), name, ": no name for the value ", i);
    out.set(name, Json::string(names[i]));
  }
  void operator()(const char* name, const int64_t (&v)[kMaxDims]) {  // without the zeros at the end
    int n = kMaxDims;
    while (n > 0 && v[n - 1] == 0) --n;
    out.set(name, dims_form(Dims(std::span<const int64_t>(v, static_cast<size_t>(n)))));
  }
  void operator()(const char* name, const char (&v)[40]) {
    out.set(name, Json::string(std::string(v, strnlen(v, sizeof v))));
  }
};

struct Reader {
  const Json& from;
  int64_t batch;
  size_t taken = 0;

  const Json* next(const char* name) {
    const Json* j = from.find(name);
    taken += j != nullptr;
    return j;
  }
  template <class I>
    requires std::is_integral_v<I>
  void operator()(const char* name, I& v) {
    if (const Json* j = next(name)) {
      const int64_t x = int_at(*j, batch, name);
      check(x >= static_cast<int64_t>(std::numeric_limits<I>::min()) &&
                (sizeof(I) == 8 || x <= static_cast<int64_t>(std::numeric_limits<I>::max())),
            name, ": ", x, " is out of range");
      v = static_cast<I>(x);
    }
  }
  void operator()(const char* name, double& v) {
    if (const Json* j = next(name)) v = double_at(*j, batch, name);
  }
  template <class E>
    requires std::is_enum_v<E>
  void operator()(const char* name, E& v) {
    const Json* j = next(name);
    if (!j) return;
    const Names names = names_of(v);
    const std::string& s = j->as_string(name);
    const auto it = std::find(names.begin(), names.end(), s);
    check(it != names.end(), name, ": '", s, "' is not known to this version");
    v = static_cast<E>(it - names.begin());
  }
  void operator()(const char* name, int64_t (&v)[kMaxDims]) {
    const Json* j = next(name);
    if (!j) return;
    const Json::Array& items = j->items(name);
    check(items.size() <= kMaxDims, name, ": expected at most ", kMaxDims, " numbers, got ", items.size());
    for (size_t i = 0; i < items.size(); ++i) v[i] = int_at(items[i], batch, name);
  }
  void operator()(const char* name, char (&v)[40]) {
    const Json* j = next(name);
    if (!j) return;
    const std::string& s = j->as_string(name);
    check(s.size() < sizeof v, name, ": expected at most ", sizeof v - 1, " characters, got ", s.size());
    std::memcpy(v, s.c_str(), s.size() + 1);
  }
};

template <class P>
concept HasFields = requires(P& p, Writer& w) { fields(p, w); };

template <class F>
decltype(auto) with_params(OpKind kind, F&& f) {
  switch (kind) {
#define FASTCNN_CASE(name, params) \
  case OpKind::name: return f(params{});
    FASTCNN_OPS(FASTCNN_CASE)
#undef FASTCNN_CASE
    case OpKind::count: break;
  }
  throw ValueError("graph: an op that this version does not know");
}

}  // namespace

bool has_form(OpKind kind) {
  return with_params(kind, []<class P>(P) { return HasFields<P>; });
}

Json params_form(OpKind kind, const Params& params) {
  return with_params(kind, [&]<class P>(P) -> Json {
    if constexpr (HasFields<P>) {
      Writer w;
      P p = params.as<P>();
      fields(p, w);
      check(params_at(kind, &w.out, 1) == params, op_name(kind), ": its options cannot be written to a file");
      return std::move(w.out);
    } else {
      throw ValueError(concat(op_name(kind), ": cannot be written to a file by this version"));
    }
  });
}

Json without_defaults(OpKind kind, const Json& given) {
  return with_params(kind, [&]<class P>(P) -> Json {
    Json out = Json::object();
    if constexpr (HasFields<P>) {
      Writer w;
      P p;
      fields(p, w);
      for (const Json::Member& m : given.members("params"))
        if (const Json* d = w.out.find(m.first); !d || !(*d == m.second)) out.set(m.first, m.second);
    }
    return out;
  });
}

Params params_at(OpKind kind, const Json* given, int64_t batch) {
  return with_params(kind, [&]<class P>(P) -> Params {
    if constexpr (HasFields<P>) {
      P p;
      if (given) {
        Reader r{*given, batch};
        const size_t n = given->members(op_name(kind)).size();
        fields(p, r);
        if (r.taken != n) {
          Writer known;
          P q;
          fields(q, known);
          for (const Json::Member& m : given->members(op_name(kind)))
            check(known.out.find(m.first) != nullptr, op_name(kind), ": this version knows no option '", m.first,
                  "'; the file needs a newer fastcnn");
        }
      }
      return p;
    } else {
      throw ValueError(concat(op_name(kind), ": is no op of files"));
    }
  });
}

OpKind op_of_name(const std::string& name) {
  static const auto* kinds = [] {
    auto* m = new std::unordered_map<std::string, OpKind>;
    for (int i = 0; i < kOpCount; ++i) (*m)[op_name(static_cast<OpKind>(i))] = static_cast<OpKind>(i);
    return m;
  }();
  const auto it = kinds->find(name);
  return it == kinds->end() ? OpKind::count : it->second;
}

}  // namespace fastcnn
