// What it is: the fused optimizer steps and the optimizer classes. See fastcnn/optim.h.
#include "fastcnn/optim.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <type_traits>
#include <unordered_set>
#include <variant>

#include "backend/backend.h"
#include "fastcnn/autograd.h"
#include "fastcnn/graph.h"
#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "graph/select.h"
#include "graph/trace.h"

namespace fastcnn::optim {
namespace {

void check_state(const char* op, const char* what, const Tensor& param, const Tensor& state, bool wanted) {
  if (!wanted) {
    check(!state.defined(), op, ": got ", what, ", but the rule does not use it");
    return;
  }
  check(state.defined(), op, ": expected ", what, " of shape ", param.shape(), ", got none");
  check(state.shape() == param.shape() && state.dtype() == param.dtype() && state.is_contiguous(), op,
        ": expected ", what, " of shape ", param.shape(), " and ", param.dtype(),
        " in canonical layout, got shape ", state.shape(), " and ", state.dtype());
}

// param, grad as the kernels want them.
std::vector<Tensor> operands(const char* op, const Tensor& param, const Tensor& grad, const Tensor& hyper) {
  check(param.defined() && grad.defined() && hyper.defined(), op, ": expected param, grad and hyper");
  check<TypeError>(is_floating(param.dtype()), op, ": expected a floating param, got ", param.dtype());
  check(param.is_contiguous(), op, ": expected a param in canonical layout, got shape ", param.shape(),
        " with strides ", param.strides());
  check(grad.shape() == param.shape(), op, ": expected a gradient of shape ", param.shape(), ", got ",
        grad.shape());
  check(hyper.shape() == Dims{8} && hyper.dtype() == DType::float32, op,
        ": expected hyper of shape (8,) and float32, got ", hyper.shape(), " and ", hyper.dtype());
  return {param.detach(), contiguous(cast(grad.detach(), param.dtype()))};
}

void push_hyper(const char* op, const Tensor& hyper, const Tensor& scale, std::vector<Tensor>* in) {
  in->push_back(hyper.detach());
  if (!scale.defined()) return;
  check(scale.shape() == Dims{3} && scale.dtype() == DType::float32, op,
        ": expected scale of shape (3,) and float32, got ", scale.shape(), " and ", scale.dtype());
  in->push_back(contiguous(scale.detach()));
}

}  // namespace

void sgd_step_(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer, const Tensor& hyper,
               const SgdParams& rule, const Tensor& scale) {
  NoGrad off;
  std::vector<Tensor> in = operands("sgd_step_", param, grad, hyper), out{in[0]};
  check_state("sgd_step_", "momentum_buffer", param, momentum_buffer, rule.has_momentum);
  if (rule.has_momentum) {
    in.push_back(momentum_buffer.detach());
    out.push_back(in[2]);
  }
  push_hyper("sgd_step_", hyper, scale, &in);
  emit_into(OpKind::sgd_step, rule, in, out);
}

void adam_step_(const Tensor& param, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const Tensor& max_exp_avg_sq, const Tensor& hyper, const AdamParams& rule, const Tensor& scale) {
  NoGrad off;
  std::vector<Tensor> in = operands("adam_step_", param, grad, hyper);
  check_state("adam_step_", "exp_avg", param, exp_avg, true);
  check_state("adam_step_", "exp_avg_sq", param, exp_avg_sq, true);
  check_state("adam_step_", "max_exp_avg_sq", param, max_exp_avg_sq, rule.amsgrad);
  in.push_back(exp_avg.detach());
  in.push_back(exp_avg_sq.detach());
  std::vector<Tensor> out{in[0], in[2], in[3]};
  if (rule.amsgrad) {
    in.push_back(max_exp_avg_sq.detach());
    out.push_back(in[4]);
  }
  push_hyper("adam_step_", hyper, scale, &in);
  emit_into(OpKind::adam_step, rule, in, out);
}

void rmsprop_step_(const Tensor& param, const Tensor& grad, const Tensor& square_avg,
                   const Tensor& momentum_buffer, const Tensor& grad_avg, const Tensor& hyper,
                   const RmspropParams& rule, const Tensor& scale) {
  NoGrad off;
  std::vector<Tensor> in = operands("rmsprop_step_", param, grad, hyper);
  check_state("rmsprop_step_", "square_avg", param, square_avg, true);
  check_state("rmsprop_step_", "momentum_buffer", param, momentum_buffer, rule.has_momentum);
  check_state("rmsprop_step_", "grad_avg", param, grad_avg, rule.centered);
  in.push_back(square_avg.detach());
  std::vector<Tensor> out{in[0], in[2]};
  for (const Tensor& extra : {momentum_buffer, grad_avg}) {
    if (!extra.defined()) continue;
    in.push_back(extra.detach());
    out.push_back(in.back());
  }
  push_hyper("rmsprop_step_", hyper, scale, &in);
  emit_into(OpKind::rmsprop_step, rule, in, out);
}

void adagrad_step_(const Tensor& param, const Tensor& grad, const Tensor& sum, const Tensor& hyper,
                   const AdagradParams& rule, const Tensor& scale) {
  NoGrad off;
  std::vector<Tensor> in = operands("adagrad_step_", param, grad, hyper);
  check_state("adagrad_step_", "sum", param, sum, true);
  in.push_back(sum.detach());
  push_hyper("adagrad_step_", hyper, scale, &in);
  std::vector<Tensor> out{in[0], in[2]};
  emit_into(OpKind::adagrad_step, rule, in, out);
}

void lion_step_(const Tensor& param, const Tensor& grad, const Tensor& exp_avg, const Tensor& hyper,
                const LionParams& rule, const Tensor& scale) {
  NoGrad off;
  std::vector<Tensor> in = operands("lion_step_", param, grad, hyper);
  check_state("lion_step_", "exp_avg", param, exp_avg, true);
  in.push_back(exp_avg.detach());
  push_hyper("lion_step_", hyper, scale, &in);
  std::vector<Tensor> out{in[0], in[2]};
  emit_into(OpKind::lion_step, rule, in, out);
}

namespace {

using Options = std::variant<SgdOptions, AdamOptions, AdamWOptions, RmspropOptions>;
template <class O>
concept AnyAdam = std::is_same_v<O, AdamOptions> || std::is_same_v<O, AdamWOptions>;
using Hyper = std::array<float, 8>;

template <class... F>
struct Overload : F... {
  using F::operator()...;
};
template <class... F>
Overload(F...) -> Overload<F...>;

struct ParamState {
  Tensor param;
  int64_t step = 0;
  std::vector<Tensor> buffers;  // in the order of the rule's arguments
};

Tensor zero_buffer(const Tensor& param) {
  TraceScope eager(nullptr);  // state outlives a trace
  return zeros(param.shape(), param.dtype(), param.device());
}

int buffer_count(const Options& options) {
  return std::visit(Overload{[](const SgdOptions& o) { return o.momentum != 0 ? 1 : 0; },
                             [](const AnyAdam auto& o) { return o.amsgrad ? 3 : 2; },
                             [](const RmspropOptions& o) { return 1 + (o.momentum != 0) + o.centered; }},
                    options);
}

Hyper hyper_values(const Options& options, int64_t step) {
  auto make = [](std::initializer_list<double> v) {
    Hyper h{};
    int i = 0;
    for (double x : v) h[i++] = static_cast<float>(x);
    return h;
  };
  double t = static_cast<double>(step);
  return std::visit(
      Overload{[&](const SgdOptions& o) {  // the buffer starts at zero: without dampening it becomes the gradient
                 return make({o.lr, o.weight_decay, o.momentum, 0, 0, 0, 0, step == 1 ? 0 : o.dampening});
               },
               [&]<AnyAdam O>(const O& o) {
                 return make({o.lr, o.weight_decay, o.beta1, o.beta2, o.eps, 1 - std::pow(o.beta1, t),
                              1 - std::pow(o.beta2, t), 1 - o.beta2});
               },
               [&](const RmspropOptions& o) {
                 return make({o.lr, o.weight_decay, o.alpha, o.momentum, o.eps, 0, 0, 1 - o.alpha});
               }},
      options);
}

void apply(const Options& options, const ParamState& s, const Tensor& grad, const Tensor& hyper) {
  std::visit(Overload{[&](const SgdOptions& o) {
                        sgd_step_(s.param, grad, s.buffers.empty() ? Tensor() : s.buffers[0], hyper,
                                  {o.momentum != 0, o.nesterov, o.maximize, 0});
                      },
                      [&]<AnyAdam O>(const O& o) {
                        adam_step_(s.param, grad, s.buffers[0], s.buffers[1], o.amsgrad ? s.buffers[2] : Tensor(),
                                   hyper, {std::is_same_v<O, AdamWOptions>, o.amsgrad, o.maximize});
                      },
                      [&](const RmspropOptions& o) {
                        size_t next = 1;
                        Tensor momentum = o.momentum != 0 ? s.buffers[next++] : Tensor();
                        Tensor mean = o.centered ? s.buffers[next] : Tensor();
                        rmsprop_step_(s.param, grad, s.buffers[0], momentum, mean, hyper,
                                      {o.momentum != 0, o.centered, o.maximize});
                      }},
             options);
}

void check_at_least(const char* op, const char* what, double v, double low, double below) {
  check(v >= low && v < below, op, ": expected ", what, " in [", low, ", ", below, "), got ", v);
}
void check_options(const Options& options) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  std::visit(Overload{[&](const SgdOptions& o) {
                        check_at_least("SGD", "lr", o.lr, 0, inf);
                        check_at_least("SGD", "momentum", o.momentum, 0, inf);
                        check_at_least("SGD", "weight_decay", o.weight_decay, 0, inf);
                        check(!o.nesterov || (o.momentum > 0 && o.dampening == 0),
                              "SGD: nesterov needs momentum > 0 and dampening = 0, got momentum=", o.momentum,
                              " dampening=", o.dampening);
                      },
                      [&]<AnyAdam O>(const O& o) {
                        const char* op = std::is_same_v<O, AdamWOptions> ? "AdamW" : "Adam";
                        check_at_least(op, "lr", o.lr, 0, inf);
                        check_at_least(op, "eps", o.eps, 0, inf);
                        check_at_least(op, "weight_decay", o.weight_decay, 0, inf);
                        check_at_least(op, "beta1", o.beta1, 0, 1);
                        check_at_least(op, "beta2", o.beta2, 0, 1);
                      },
                      [&](const RmspropOptions& o) {
                        check_at_least("RMSprop", "lr", o.lr, 0, inf);
                        check_at_least("RMSprop", "eps", o.eps, 0, inf);
                        check_at_least("RMSprop", "weight_decay", o.weight_decay, 0, inf);
                        check_at_least("RMSprop", "momentum", o.momentum, 0, inf);
                        check_at_least("RMSprop", "alpha", o.alpha, 0, 1);
                      }},
             options);
}

double& lr_of(Options& options) {
  return std::visit([](auto& o) -> double& { return o.lr; }, options);
}

}  // namespace

struct Optimizer::Impl {
  struct GroupState {
    Options options;
    std::vector<ParamState> params;
  };
  std::vector<GroupState> groups;

  // Parameters of a group that step together, with the tensor their numbers are read from.
  struct Launch {
    size_t group = 0;
    std::vector<size_t> members;
    std::vector<Tensor> hypers;  // one for each step of a plan
    uint64_t trace = 0;
    size_t used = 0;  // in that trace

    // Host work of a plan runs before its first op: steps that follow each other read numbers of their own.
    size_t next_use() {
      Trace* t = current_trace();
      const uint64_t now = t ? t->id : 0;
      used = now && now == trace ? used + 1 : 0;
      trace = now;
      while (hypers.size() <= used) hypers.push_back(empty({8}, DType::float32, hypers[0].device()));
      return used;
    }
  };
  std::map<std::pair<size_t, std::vector<size_t>>, std::shared_ptr<Launch>> launches;

  // Before every step, compiled or not: counts it and writes the numbers of the step.
  void sync_hyper(const Launch& launch, size_t use) {
    GroupState& g = groups[launch.group];
    int64_t step = g.params[launch.members[0]].step + 1;
    for (size_t i : launch.members)
      check(++g.params[i].step == step, "optim: parameters of one compiled step have stepped ", step, " and ",
            g.params[i].step, " times; reset() the compiled function");
    Hyper h = hyper_values(g.options, step);
    const Tensor& hyper = launch.hypers[use];
    backend_of(hyper.device()).copy(hyper.data(), h.data(), sizeof h, Copy::in);
  }

  void uncount(const Launch& launch) {
    for (size_t i : launch.members) --groups[launch.group].params[i].step;
  }

  std::shared_ptr<Launch> launch(size_t group, std::vector<size_t> members) {
    std::shared_ptr<Launch>& l = launches[{group, members}];
    if (!l) {
      Tensor hyper = empty({8}, DType::float32, groups[group].params[members[0]].param.device());
      l = std::make_shared<Launch>(Launch{group, std::move(members), {std::move(hyper)}});
    }
    return l;
  }
};

Optimizer::Optimizer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Optimizer::Impl& Optimizer::impl() const {
  check(impl_ != nullptr, "optimizer: this Optimizer has been moved from");
  return *impl_;
}
Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;

namespace {

template <class O>
std::shared_ptr<Optimizer::Impl> make_impl(const std::vector<Group<O>>& groups) {
  auto impl = std::make_shared<Optimizer::Impl>();
  std::unordered_set<const void*> seen;
  for (const Group<O>& g : groups) {
    Optimizer::Impl::GroupState state{g.options, {}};
    check_options(state.options);
    for (const Tensor& p : g.params) {
      check(p.defined() && p.is_leaf(), "optim: expected parameters that are leaves, got ",
            p.defined() ? "the result of an op" : "an empty handle");
      check(seen.insert(p.impl().get()).second, "optim: a parameter of shape ", p.shape(),
            " appears more than once");
      state.params.push_back({p, 0, {}});
    }
    impl->groups.push_back(std::move(state));
  }
  check(!seen.empty(), "optim: expected at least one parameter");
  return impl;
}

}  // namespace

void Optimizer::step() {
  NoGrad off;
  for (size_t group = 0; group < impl().groups.size(); ++group) {
    auto& g = impl().groups[group];
    std::map<int64_t, std::vector<size_t>> by_step;
    std::vector<Tensor> grads(g.params.size());
    for (size_t i = 0; i < g.params.size(); ++i) {
      grads[i] = g.params[i].param.grad();
      if (!grads[i].defined()) continue;
      auto& buffers = g.params[i].buffers;
      while (static_cast<int>(buffers.size()) < buffer_count(g.options))
        buffers.push_back(zero_buffer(g.params[i].param));
      by_step[g.params[i].step].push_back(i);
    }
    for (auto& [step, members] : by_step) {
      auto launch = impl().launch(group, members);
      const size_t use = launch->next_use();
      on_each_run([impl = impl_, launch, use] { impl->sync_hyper(*launch, use); },
                  [impl = impl_, launch] { impl->uncount(*launch); });
      for (size_t i : launch->members) apply(g.options, g.params[i], grads[i], launch->hypers[use]);
    }
  }
}

void Optimizer::zero_grad(bool set_to_none) {
  for (auto& g : impl().groups)
    for (auto& s : g.params) {
      if (set_to_none)
        s.param.set_grad({});
      else if (Tensor grad = s.param.grad(); grad.defined())
        fill_(grad.detach(), 0);
    }
}

size_t Optimizer::groups() const { return impl().groups.size(); }

double Optimizer::lr(size_t group) const {
  check<IndexError>(group < groups(), "lr: expected a group below ", groups(), ", got ", group);
  return lr_of(impl().groups[group].options);
}
void Optimizer::set_lr(size_t group, double lr) {
  check<IndexError>(group < groups(), "set_lr: expected a group below ", groups(), ", got ", group);
  check(lr >= 0 && std::isfinite(lr), "set_lr: expected a finite lr >= 0, got ", lr);
  lr_of(impl().groups[group].options) = lr;
}
void Optimizer::set_lr(double lr) {
  for (size_t i = 0; i < groups(); ++i) set_lr(i, lr);
}

SGD::SGD(std::vector<Tensor> params, const SgdOptions& o)
    : SGD(std::vector<Group<SgdOptions>>{{std::move(params), o}}) {}
SGD::SGD(const std::vector<Group<SgdOptions>>& groups) : Optimizer(make_impl(groups)) {}
Adam::Adam(std::vector<Tensor> params, const AdamOptions& o)
    : Adam(std::vector<Group<AdamOptions>>{{std::move(params), o}}) {}
Adam::Adam(const std::vector<Group<AdamOptions>>& groups) : Optimizer(make_impl(groups)) {}
AdamW::AdamW(std::vector<Tensor> params, const AdamWOptions& o)
    : AdamW(std::vector<Group<AdamWOptions>>{{std::move(params), o}}) {}
AdamW::AdamW(const std::vector<Group<AdamWOptions>>& groups) : Optimizer(make_impl(groups)) {}
RMSprop::RMSprop(std::vector<Tensor> params, const RmspropOptions& o)
    : RMSprop(std::vector<Group<RmspropOptions>>{{std::move(params), o}}) {}
RMSprop::RMSprop(const std::vector<Group<RmspropOptions>>& groups) : Optimizer(make_impl(groups)) {}

}  // namespace fastcnn::optim
