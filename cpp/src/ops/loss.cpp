// What it is: losses over classes. cross_entropy on class ids is one fused kernel; the others are composed of ops.
// What it is not: losses between two tensors of one shape (pointwise_loss.cpp).
#include <cmath>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "ops/loss.h"

namespace fastcnn {

// A view of channels-last and of 2-D logits.
Tensor as_rows(const Tensor& x) {
  if (x.ndim() == 1) return contiguous(unsqueeze(x, 0));
  if (x.ndim() == 2) return contiguous(x);
  std::vector<int> last{0};
  for (int d = 2; d < x.ndim(); ++d) last.push_back(d);
  last.push_back(1);
  return contiguous(reshape(permute(contiguous(x), last), {-1, x.shape()[1]}));
}

ClassLoss class_loss(const char* op, const Tensor& x, const Tensor& target, const Tensor& weight) {
  ClassLoss c;
  check(x.ndim() >= 1, op, ": expected input of shape (N, C, …) or (C), got ()");
  c.shape = x.shape();
  c.shape.erase(x.ndim() == 1 ? 0 : 1);
  c.classes = x.shape()[x.ndim() == 1 ? 0 : 1];
  check(c.classes > 0, op, ": expected at least one class, got input of shape ", x.shape());
  check<TypeError>(!is_floating(target.dtype()) && target.dtype() != DType::bool_, op,
                   ": expected int64 class ids as target, got ", target.dtype());
  check(target.shape() == c.shape, op, ": expected class ids of shape ", c.shape, " for input of shape ",
        x.shape(), ", got ", target.shape());
  c.rows = as_rows(wide(op, x));
  // Row-major, also of rank 4: as the rows of the input.
  c.target = contiguous(reshape(cast(target.detach(), DType::int64), {target.numel()}));
  if (weight.defined()) {
    check(weight.shape() == Dims{c.classes}, op, ": expected a weight of shape ", Dims{c.classes}, ", got ",
          weight.shape());
    c.weight = contiguous(cast(weight.detach(), c.rows.dtype()));
  }
  return c;
}

void check_ids(const char* op, const ClassLoss& c, int64_t ignore_index) {
  if (c.target.is_symbolic() || c.target.device().type != DeviceType::cpu) return;
  const int64_t* id = c.target.data<int64_t>();
  for (int64_t i = 0; i < c.target.numel(); ++i)
    check<IndexError>((id[i] >= 0 && id[i] < c.classes) || id[i] == ignore_index, op,
                      ": expected class ids in [0, ", c.classes, ") or ignore_index=", ignore_index, ", got ",
                      id[i]);
}

namespace {

DType statistics_type(DType t) { return t == DType::float64 ? t : DType::float32; }

// ---- cross_entropy on class ids ----

// dlogits = a * (P*S - T) per row: P the softmax, T the weighted target distribution (0 where ignored), S its sum,
// a = dloss, over the sum of weights for the mean.
std::vector<Tensor> vjp_cross_entropy_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const CrossEntropyParams& p = n.as<CrossEntropyParams>();
  Tensor dloss = n.input(0), x = n.input(1), target = n.input(2), total = n.input(4);
  DType t = x.dtype();
  Device device = x.device();
  Tensor valid = ne(target, full({}, static_cast<double>(p.ignore_index), DType::int64, device));
  Tensor ids = where(valid, target, zeros({}, DType::int64, device));
  Tensor T = affine(cast(eq(unsqueeze(ids, 1), arange(0, static_cast<double>(p.C), 1, DType::int64, device)), t),
                    1 - p.label_smoothing, p.label_smoothing / static_cast<double>(p.C));
  if (p.has_weight) T = mul(T, n.input(5));
  T = mul(T, unsqueeze(cast(valid, t), 1));
  Tensor S = sum(T, {1}, true), P = softmax(x, 1);
  auto scaled = [&](const Tensor& v) {
    if (p.reduction != Reduction::mean) return v;
    Tensor zero = zeros({}, total.dtype(), device), w = cast(total, t);  // all ignored: 0, not 0/0
    return div(v, where(eq(total, zero), ones({}, t, device), w));
  };
  std::vector<Tensor> r(n.inputs.size());
  if (n.needs(0)) {
    Tensor d = sum(mul(g[0], sub(mul(P, S), T)),
                   p.reduction == Reduction::none ? std::vector<int>{1} : std::vector<int>{});
    r[0] = scaled(d);
  }
  if (n.needs(1)) {
    Tensor a = scaled(p.reduction == Reduction::none ? unsqueeze(dloss, 1) : dloss);
    Tensor centred = sub(g[0], sum(mul(g[0], P), {1}, true));
    r[1] = mul(mul(a, S), mul(P, centred));
  }
  return r;
}
const Rule cross_entropy_bwd_rule{"cross_entropy", vjp_cross_entropy_bwd, 0b111111};

std::vector<Tensor> vjp_cross_entropy(TapeNode& n, const std::vector<Tensor>& g) {
  std::vector<Tensor> in{contiguous(g[0]), n.input(0), n.input(1), n.output(1).detach(), n.output(2).detach()};
  if (n.as<CrossEntropyParams>().has_weight) in.push_back(n.input(2));
  std::vector<Tensor> r(n.inputs.size());
  r[0] = emit1(cross_entropy_bwd_rule, OpKind::cross_entropy_bwd, n.params, in,
               {n.inputs[0].shape, n.inputs[0].dtype});
  return r;
}
const Rule cross_entropy_rule{"cross_entropy", vjp_cross_entropy, 0b111, 0b110};

Tensor cross_entropy_of_ids(const Tensor& logits, const Tensor& target, const Tensor& weight, int64_t ignore_index,
                            Reduction reduction, double label_smoothing) {
  ClassLoss c = class_loss("cross_entropy", logits, target, weight);
  CrossEntropyParams p;
  p.rows = c.rows.shape()[0];
  p.C = c.classes;
  p.ignore_index = ignore_index;
  p.has_weight = c.weight.defined();
  p.label_smoothing = label_smoothing;
  p.reduction = reduction;
  std::vector<Tensor> in{c.rows, c.target};
  if (p.has_weight) in.push_back(c.weight);
  DType t = c.rows.dtype(), stat = statistics_type(t);
  Dims shape = reduction == Reduction::none ? Dims{p.rows} : Dims{};
  Tensor loss =
      emit(cross_entropy_rule, OpKind::cross_entropy, p, in, {{shape, t}, {{p.rows}, stat}, {{}, stat}})[0];
  return reduction == Reduction::none ? reshape(loss, c.shape) : loss;
}

Tensor cross_entropy_of_probabilities(const Tensor& logits, const Tensor& target, const Tensor& weight,
                                      Reduction reduction, double label_smoothing) {
  Tensor x = wide("cross_entropy", logits), t = paired("cross_entropy", x, target);
  int dim = x.ndim() == 1 ? 0 : 1;
  int64_t C = x.shape()[dim];
  if (label_smoothing > 0) t = affine(t, 1 - label_smoothing, label_smoothing / static_cast<double>(C));
  Tensor terms = mul(log_softmax(x, dim), t);
  if (weight.defined()) {
    check(weight.shape() == Dims{C}, "cross_entropy: expected a weight of shape ", Dims{C}, ", got ",
          weight.shape());
    Dims shape(x.ndim(), 1);
    shape[dim] = C;
    terms = mul(terms, reshape(cast(weight, x.dtype()), shape));
  }
  if (reduction == Reduction::none) return neg(sum(terms, {dim}));
  double rows = static_cast<double>(x.numel()) / static_cast<double>(C);
  return affine(sum(terms), reduction == Reduction::mean ? -1 / rows : -1, 0);
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight, int64_t ignore_index,
                     const std::string& reduction, double label_smoothing) {
  Reduction r = parse_reduction("cross_entropy", reduction);
  check(label_smoothing >= 0 && label_smoothing <= 1, "cross_entropy: expected label_smoothing in [0, 1], got ",
        label_smoothing);
  if (is_floating(target.dtype())) {
    check(target.shape() == logits.shape() && logits.ndim() >= 1,
          "cross_entropy: expected probabilities of the shape of "
          "logits ",
          logits.shape(), " (or int64 class ids), got ", target.dtype(), " of shape ", target.shape());
    return cross_entropy_of_probabilities(logits, target, weight, r, label_smoothing);
  }
  return cross_entropy_of_ids(logits, target, weight, ignore_index, r, label_smoothing);
}

Tensor nll_loss(const Tensor& log_probs, const Tensor& target, const Tensor& weight, int64_t ignore_index,
                const std::string& reduction) {
  Reduction r = parse_reduction("nll_loss", reduction);
  ClassLoss c = class_loss("nll_loss", log_probs, target, weight);
  Device device = c.rows.device();
  check_ids("nll_loss", c, ignore_index);  // gather counts negative ids from the end
  Tensor zero = zeros({}, c.rows.dtype(), device);
  Tensor valid = ne(c.target, full({}, static_cast<double>(ignore_index), DType::int64, device));
  Tensor ids = where(valid, c.target, zeros({}, DType::int64, device));
  Tensor w =
      c.weight.defined() ? index_select(c.weight, 0, ids) : ones({c.rows.shape()[0]}, c.rows.dtype(), device);
  w = where(valid, w, zero);
  Tensor picked = where(valid, squeeze(gather(c.rows, 1, unsqueeze(ids, 1)), 1), zero);
  Tensor loss = neg(mul(picked, w));
  if (r == Reduction::none) return reshape(loss, c.shape);
  return r == Reduction::sum ? sum(loss) : div(sum(loss), sum(w));
}

Tensor kl_div(const Tensor& log_probs, const Tensor& target, const std::string& reduction, bool log_target) {
  bool per_batch = reduction == "batchmean";
  Reduction r = per_batch ? Reduction::sum : parse_reduction("kl_div", reduction);
  Tensor x = wide("kl_div", log_probs), t = paired("kl_div", x, target), loss;
  if (log_target) {
    loss = mul(exp(t), sub(t, x));
  } else {  // t log t is 0 at 0
    Tensor zero = zeros({}, x.dtype(), x.device()), none = eq(t, zero);
    Tensor entropy = mul(t, log(where(none, ones({}, x.dtype(), x.device()), t)));
    loss = sub(entropy, mul(t, x));
  }
  loss = reduced(loss, r);
  check(!per_batch || x.ndim() > 0, "kl_div: batchmean needs a batch dim, got input of shape ()");
  return per_batch ? affine(loss, 1.0 / static_cast<double>(x.shape()[0]), 0) : loss;
}

}  // namespace fastcnn
