// See replay.h.
#include "session/replay.h"

#include <algorithm>
#include <optional>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "graph/trace.h"
#include "session/batch_form.h"
#include "session/params_form.h"
#include "session/verify.h"

namespace fastcnn {

DType dtype_of_name(const std::string& name) {
  for (int i = 0; i < kDTypeCount; ++i)
    if (name == dtype_name(static_cast<DType>(i))) return static_cast<DType>(i);
  throw ValueError("graph: '" + name + "' is no dtype");
}

TensorInfo Replay::info_of(const Json& j) {
  TensorInfo t;
  t.name = j.at("name", "graph").as_string("name");
  t.dtype = dtype_of_name(j.at("dtype", "graph").as_string("dtype"));
  const Json& shape = j.at("shape", "graph");
  t.shape = dims_at(shape, 1, "shape");
  for (int i = 0; i < t.shape.size(); ++i)
    if (depends_on_batch(shape.items("shape")[static_cast<size_t>(i)])) t.shape[i] = -1;
  return t;
}

Replay::Replay(Json graph, const std::unordered_map<std::string, Tensor>& tensors) : graph_(std::move(graph)) {
  std::unordered_map<std::string, int> ids;
  auto known = [&](const Json& name) {
    const std::string& s = name.as_string("graph: the name of a tensor");
    const auto it = ids.find(s);
    if (it != ids.end()) return it->second;
    const auto t = tensors.find(s);
    check(t != tensors.end(), "graph: there is no tensor '", s, "'");
    ids[s] = ids_;
    externals_.emplace_back(ids_, t->second);
    return ids_++;
  };
  auto fresh = [&](const std::string& s) {
    check(ids.emplace(s, ids_).second && !tensors.count(s), "graph: two tensors have the name '", s, "'");
    return ids_++;
  };
  if (const Json& b = graph_.at("batch", "graph"); !b.is(Json::Kind::null)) {
    batch_ = b.as_int("batch");
    check(batch_ >= 1 && batch_ <= int64_t(1) << 31, "graph: expected a batch size >= 1, got ", batch_);
  }
  for (const Json& j : graph_.at("inputs", "graph").items("inputs")) {
    inputs_.push_back(info_of(j));
    input_ids_.push_back(fresh(inputs_.back().name));
    input_shapes_.push_back(&j.at("shape", "input"));
    const Dims& s = inputs_.back().shape;
    for (int i = 0; i < s.size(); ++i)
      check(s[i] >= 0 || (i == 0 && batch_ && input_shapes_.back()->items("shape")[0] == Json::string("N")),
            "graph: the batch size of input '", inputs_.back().name, "' is to be its first dimension, N");
  }
  for (const Json& j : graph_.at("nodes", "graph").items("nodes")) {
    Step s;
    const std::string& op = j.at("op", "node").as_string("op");
    constexpr const char* views[] = {"", "reshape", "permute", "expand", "slice"};
    const auto* v = std::find_if(std::begin(views) + 1, std::end(views), [&](const char* n) { return op == n; });
    if (v != std::end(views)) s.view = static_cast<Step::View>(v - std::begin(views));
    s.kind = op_of_name(op);
    check(s.view != Step::View::none || (s.kind != OpKind::count && has_form(s.kind)),
          "graph: this version has no op '", op, "'");
    s.params = j.find("params");
    if (const Json* r = j.find("region")) {
      const int64_t n = r->as_int("region");
      check(n >= 0 && n < int64_t(1) << 30, "graph: expected a region >= 0, got ", n);
      s.region = static_cast<int>(n);
    }
    for (const Json& name : j.at("in", "node").items("in")) s.in.push_back(known(name));
    for (const Json& o : j.at("out", "node").items("out")) {
      Out out;
      out.shape = o.find("shape");
      out.fresh = out.shape != nullptr;
      if (out.fresh) {
        out.dtype = dtype_of_name(o.at("dtype", "node").as_string("dtype"));
        out.id = fresh(o.at("name", "node").as_string("name"));
      } else {
        out.id = known(o.at("name", "node"));
        check(s.view == Step::View::none && works_in_place(s.kind), "graph: ", op, " cannot write to the tensor '",
              o.at("name", "node").as_string("name"), "', which exists");
      }
      s.out.push_back(out);
    }
    const bool new_ones = std::all_of(s.out.begin(), s.out.end(), [](const Out& o) { return o.fresh; });
    const bool old_ones = std::none_of(s.out.begin(), s.out.end(), [](const Out& o) { return o.fresh; });
    check(!s.out.empty() && (new_ones || old_ones), "graph: ", op, " has no outputs, or some new and some old");
    check(s.view == Step::View::none || (s.in.size() == 1 && s.out.size() == 1), "graph: expected ", op,
          " of one tensor");
    steps_.push_back(std::move(s));
  }
  for (const Json& j : graph_.at("outputs", "graph").items("outputs")) {
    outputs_.push_back(info_of(j));
    output_ids_.push_back(known(j.at("tensor", "output")));
  }
}

int64_t Replay::batch_of(const std::vector<Tensor>& in) const {
  check(in.size() == inputs_.size(), "session: expected ", inputs_.size(), " inputs, got ", in.size());
  int64_t batch = -1;
  for (size_t i = 0; i < in.size(); ++i) {
    const TensorInfo& want = inputs_[i];
    check(in[i].defined(), "session: input '", want.name, "' is an empty tensor");
    const Dims& got = in[i].shape();
    Dims expected = want.shape;
    if (!expected.empty() && expected[0] == -1 && !got.empty()) {
      if (batch < 0) batch = got[0];
      expected[0] = batch;
    }
    check(got == expected, "session: expected input '", want.name, "' of shape ", want.shape,
          batch >= 0 ? " (-1: the batch size, one for all inputs)" : "", ", got ", got);
    check<TypeError>(in[i].dtype() == want.dtype, "session: expected input '", want.name, "' of ", want.dtype,
                     ", got ", in[i].dtype());
  }
  check(batch != 0, "session: expected a batch of at least 1, got 0");
  return std::max<int64_t>(batch, 1);
}

Tensor Replay::view(const Step& s, const Tensor& x, int64_t batch) {
  const Dims shape = dims_at(*s.out[0].shape, batch, "shape");
  check(s.out[0].dtype == x.dtype(), "graph: a view of ", x.dtype(), " is no ", s.out[0].dtype);
  Tensor y;
  auto param = [&](const char* name) -> const Json& {
    check(s.params != nullptr, "graph: a view without params");
    return s.params->at(name, "view");
  };
  switch (s.view) {
    case Step::View::reshape: y = reshape(x, shape); break;
    case Step::View::expand: y = expand(x, shape); break;
    case Step::View::permute: {
      std::vector<int> dims;
      for (const int64_t d : dims_at(param("dims"), batch, "dims"))
        dims.push_back(static_cast<int>(std::min<int64_t>(d, 99)));
      y = permute(x, dims);
      break;
    }
    default: {
      const int64_t d = int_at(param("dim"), batch, "dim"), start = int_at(param("start"), batch, "start"),
                    step = int_at(param("step"), batch, "step");
      check(d >= 0 && d < x.ndim() && shape.size() == x.ndim(), "slice: expected a dim of ", x.shape(), ", got ",
            d);
      const int dim = static_cast<int>(d);
      const int64_t n = x.shape()[dim], length = shape[dim];
      if (length == 0) {
        y = narrow(x, dim, 0, 0);
        break;
      }
      int64_t last = 0;
      check(step != 0 && start >= 0 && start < n && !__builtin_mul_overflow(length - 1, step, &last) &&
                !__builtin_add_overflow(last, start, &last) && last >= 0 && last < n,
            "slice: ", length, " elements from ", start, " by ", step, " do not fit in dim ", dim, " of ",
            x.shape());
      y = slice(x, dim, start, step > 0 ? last + 1 : last > 0 ? last - 1 : -n - 1, step);
    }
  }
  check(y.shape() == shape, "graph: a view of shape ", y.shape(), " is to have the shape ", shape);
  return y;
}

std::vector<Tensor> Replay::run(const std::vector<Tensor>& inputs) const {
  const int64_t batch = batch_of(inputs);
  std::vector<Tensor> values(static_cast<size_t>(ids_));
  // Places of maxima: kernels trust them, so only the op that made them may have written them.
  std::vector<std::optional<Params>> places(static_cast<size_t>(ids_));
  for (const auto& [id, t] : externals_) values[static_cast<size_t>(id)] = t;
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(input_ids_[i])] = inputs[i];
  Trace* trace = current_trace();
  for (const Step& s : steps_) {
    if (trace) trace->region = s.region;
    std::vector<Tensor> in;
    for (const int id : s.in) {
      check(values[static_cast<size_t>(id)].defined(), "graph: a tensor is read before it is made");
      in.push_back(values[static_cast<size_t>(id)]);
    }
    if (s.view != Step::View::none) {
      check(!places[static_cast<size_t>(s.in[0])], "graph: expected no view of places of maxima");
      values[static_cast<size_t>(s.out[0].id)] = view(s, in[0], batch);
      continue;
    }
    if (!takes_strided(s.kind))
      for (Tensor& t : in) t = contiguous(t);
    const Params params = params_at(s.kind, s.params, batch);
    std::vector<OutSpec> specs;
    std::vector<Tensor> existing;
    for (const Out& o : s.out) {
      if (o.fresh) {
        specs.push_back({dims_at(*o.shape, batch, "shape"), o.dtype});
        continue;
      }
      const Tensor& t = values[static_cast<size_t>(o.id)];
      check(t.defined() && !places[static_cast<size_t>(o.id)], "graph: ", op_name(s.kind),
            " writes to a tensor that is not to be written");
      const bool copy = s.kind == OpKind::unary && params.as<UnaryParams>().op == Unary::copy;
      check(copy || t.is_contiguous(), op_name(s.kind), ": expected to write to dense memory, got shape ",
            t.shape());
      existing.push_back(t.detach());
      specs.push_back({t.shape(), t.dtype()});
    }
    verify_node(s.kind, params, in, specs);
    if (s.kind == OpKind::max_pool2d_bwd || s.kind == OpKind::max_pool2d_gather)
      check(places[static_cast<size_t>(s.in[1])] == params, op_name(s.kind),
            ": expected the places of a max_pool2d with the same options");
    if (existing.empty()) {
      const std::vector<Tensor> out = emit(Rule{op_name(s.kind)}, s.kind, params, in, specs);
      for (size_t k = 0; k < out.size(); ++k) values[static_cast<size_t>(s.out[k].id)] = out[k];
      if (s.kind == OpKind::max_pool2d) places[static_cast<size_t>(s.out[1].id)] = params;
    } else {
      emit_into(s.kind, params, in, existing);
    }
  }
  if (trace) trace->region = 0;
  std::vector<Tensor> out;
  for (size_t i = 0; i < output_ids_.size(); ++i) {
    out.push_back(values[static_cast<size_t>(output_ids_[i])]);
    check(out.back().defined(), "graph: output '", outputs_[i].name, "' is not made");
  }
  return out;
}

bool Replay::dry_run() const {
  Trace t;
  std::vector<Tensor> symbols;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Dims shape = dims_at(*input_shapes_[i], std::max<int64_t>(batch_, 1), "shape");
    symbols.push_back(t.new_symbol(shape, canonical_strides(shape), inputs_[i].dtype, {}, Buffer::Kind::input));
    symbols.back().impl()->storage->readonly = true;
  }
  TraceScope scope(&t);
  run(symbols);
  return t.random_ops == 0 && std::all_of(steps_.begin(), steps_.end(), [](const Step& step) {
           return std::all_of(step.out.begin(), step.out.end(), [](const Out& o) { return o.fresh; });
         });
}

}  // namespace fastcnn
