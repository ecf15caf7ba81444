// See updates.h.
#include "session/updates.h"

#include <algorithm>
#include <cmath>

namespace fastcnn {

Update::Update(const Json& j, const std::unordered_map<std::string, Tensor>& tensors) {
  constexpr const char* what = "update";
  name_ = j.at("tensor", what).as_string(what);
  const auto it = tensors.find(name_);
  check(it != tensors.end(), "update: there is no tensor '", name_, "'");
  hyper_ = it->second;
  check(hyper_.ndim() == 1 && hyper_.dtype() == DType::float32, "update: expected '", name_,
        "' as one dimension of float32, got ", hyper_.shape(), " of ", hyper_.dtype());
  step_ = j.at("step", what).as_int(what);
  check(step_ >= 0 && step_ < int64_t(1) << 53, "update: expected a number of steps >= 0, got ", step_);
  for (const Json& t : j.at("terms", what).items(what)) {
    Term term;
    if (!t.is(Json::Kind::object)) {
      term.a = t.as_double(what);
    } else if (const Json* b = t.find("power")) {
      term = {Term::Kind::power, b->as_double(what), 0};
    } else if (const Json* first = t.find("first")) {
      term = {Term::Kind::first, first->as_double(what), t.at("then", what).as_double(what)};
    } else {
      term = {Term::Kind::decay, t.at("value", what).as_double(what), t.at("decay", what).as_double(what)};
    }
    terms_.push_back(term);
  }
  check(!terms_.empty() && static_cast<int64_t>(terms_.size()) == hyper_.numel(), "update: expected ",
        hyper_.numel(), " terms for '", name_, "', got ", terms_.size());
}

void Update::prepare() {
  const auto t = static_cast<double>(++step_);
  auto* to = hyper_.data<float>();
  before_.assign(to, to + hyper_.numel());
  for (const Term& term : terms_) {
    double v = term.a;
    if (term.kind == Term::Kind::power) v = 1.0 - std::pow(term.a, t);
    if (term.kind == Term::Kind::first) v = step_ == 1 ? term.a : term.b;
    if (term.kind == Term::Kind::decay) v = term.a / (1.0 + (t - 1.0) * term.b);
    *to++ = static_cast<float>(v);
  }
}

void Update::undo() {
  --step_;
  std::copy(before_.begin(), before_.end(), hyper_.data<float>());
}

Json Update::form() const {
  Json terms = Json::array();
  for (const Term& term : terms_) {
    Json t = Json::number(term.a);
    if (term.kind == Term::Kind::power) t = Json::object({{"power", t}});
    if (term.kind == Term::Kind::first) t = Json::object({{"first", t}, {"then", Json::number(term.b)}});
    if (term.kind == Term::Kind::decay) t = Json::object({{"value", t}, {"decay", Json::number(term.b)}});
    terms.push(std::move(t));
  }
  return Json::object(
      {{"tensor", Json::string(name_)}, {"step", Json::integer(step_)}, {"terms", std::move(terms)}});
}

}  // namespace fastcnn
