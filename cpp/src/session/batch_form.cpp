// See batch_form.h.
#include "session/batch_form.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

namespace fastcnn {
namespace {

constexpr int64_t kMost = int64_t(1) << 53;  // whole numbers of files; exact as double too

// a * n + c
struct Line {
  int64_t a = 0, c = 0;
  std::optional<int64_t> at(int64_t n) const {
    int64_t r = 0;
    if (__builtin_mul_overflow(a, n, &r) || __builtin_add_overflow(r, c, &r)) return std::nullopt;
    return r;
  }
};

std::string text_of(const Line& l) {
  std::string s = l.a == 1 ? std::string("N") : concat(l.a, "*N");
  if (l.c) s += concat(l.c > 0 ? "+" : "", l.c);
  return s;
}

// "N", "a*N", with "+c" or "-c" behind; nothing else.
std::optional<Line> line_of(std::string_view s) {
  Line l;
  auto number = [&](int64_t& v) {
    const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
    if (r.ec != std::errc{}) return false;
    s.remove_prefix(static_cast<size_t>(r.ptr - s.data()));
    return true;
  };
  l.a = 1;
  if (!s.empty() && s[0] != 'N') {
    if (!number(l.a) || s.empty() || s[0] != '*') return std::nullopt;
    s.remove_prefix(1);
  }
  if (s.empty() || s[0] != 'N') return std::nullopt;
  s.remove_prefix(1);
  if (s.empty()) return l;
  if (s[0] == '+') {
    s.remove_prefix(1);
    if (s.empty() || s[0] == '-') return std::nullopt;
  } else if (s[0] != '-') {
    return std::nullopt;
  }
  if (!number(l.c) || !s.empty()) return std::nullopt;
  return l;
}

std::optional<Line> fit(const std::vector<int64_t>& v, const std::vector<int64_t>& n) {
  const int64_t dn = n[1] - n[0], dv = v[1] - v[0];
  if (dv % dn) return std::nullopt;
  const Line l{dv / dn, v[0] - dv / dn * n[0]};
  for (size_t i = 0; i < v.size(); ++i)
    if (l.at(n[i]) != v[i]) return std::nullopt;
  return l;
}

// value / line or value * line, bit for bit at every batch size that was traced.
std::optional<Json> fit_double(const std::vector<double>& v, const std::vector<int64_t>& n) {
  auto form = [](double value, const char* how, const Line& l) {
    return Json::object({{"value", Json::number(value)}, {how, Json::string(text_of(l))}});
  };
  auto matches = [&](double value, bool over, const Line& l) {
    for (size_t i = 0; i < v.size(); ++i) {
      const double x = static_cast<double>(l.at(n[i]).value_or(0));
      if ((over ? value / x : value * x) != v[i]) return false;
    }
    return true;
  };
  for (const double k : {1.0, -1.0, 2.0, -2.0, 0.5}) {
    std::vector<int64_t> whole;
    for (const double x : v) {
      const double r = std::round(k / x);
      if (!std::isfinite(r) || std::fabs(r) > static_cast<double>(kMost)) break;
      whole.push_back(static_cast<int64_t>(r));
    }
    if (whole.size() != v.size()) continue;
    if (const auto l = fit(whole, n); l && matches(k, true, *l)) return form(k, "over", *l);
  }
  const Line batch{1, 0};
  for (size_t i = 0; i < v.size(); ++i) {
    const double x = static_cast<double>(n[i]);
    if (matches(v[i] * x, true, batch)) return form(v[i] * x, "over", batch);
    if (matches(v[i] / x, false, batch)) return form(v[i] / x, "times", batch);
  }
  return std::nullopt;
}

bool number_kind(const Json& j) { return j.is(Json::Kind::number) || j.is(Json::Kind::integer); }

}  // namespace

Json merge_batches(const std::vector<Json>& trees, const std::vector<int64_t>& batches, const std::string& what) {
  const Json& first = trees[0];
  bool same = true;
  for (const Json& t : trees) same &= t == first;
  if (same) return first;
  const std::string differs = concat(what, ": differs between batch sizes ", batches[0], " and ", batches[1]);
  auto slice = [&](auto&& pick) {
    std::vector<Json> parts;
    for (const Json& t : trees) parts.push_back(pick(t));
    return parts;
  };
  bool lists = true, objects = true, whole = true, numbers = true;
  for (const Json& t : trees) {
    lists &= t.is(Json::Kind::array), objects &= t.is(Json::Kind::object);
    whole &= t.is(Json::Kind::integer), numbers &= number_kind(t);
  }
  if (lists) {
    const size_t n = first.items("").size();
    for (const Json& t : trees)
      check(t.items("").size() == n, differs, ": ", n, " items and ", t.items("").size());
    Json out = Json::array();
    for (size_t i = 0; i < n; ++i)
      out.push(
          merge_batches(slice([&](const Json& t) { return t.items("")[i]; }), batches, concat(what, "[", i, "]")));
    return out;
  }
  if (objects) {
    Json out = Json::object();
    for (size_t i = 0; i < first.members("").size(); ++i) {
      const std::string& name = first.members("")[i].first;
      for (const Json& t : trees)
        check(t.members("").size() == first.members("").size() && t.members("")[i].first == name, differs, " in '",
              name, "'");
      out.set(name, merge_batches(slice([&](const Json& t) { return t.members("")[i].second; }), batches,
                                  concat(what, ".", name)));
    }
    return out;
  }
  if (whole) {
    std::vector<int64_t> v;
    for (const Json& t : trees) v.push_back(t.as_int("batch"));
    if (const auto l = fit(v, batches)) return Json::string(text_of(*l));
    check(false, differs, ": ", v[0], " and ", v[1], " are on no straight line");
  }
  if (numbers) {
    std::vector<double> v;
    for (const Json& t : trees) v.push_back(t.as_double("batch"));
    if (const auto j = fit_double(v, batches)) return *j;
    check(false, differs, ": ", v[0], " and ", v[1], " are no number over or times the batch size");
  }
  throw ValueError(concat(differs, ": ", first.dump().substr(0, 80), " and ", trees[1].dump().substr(0, 80)));
}

bool depends_on_batch(const Json& j) { return j.is(Json::Kind::string) && line_of(j.as_string("batch")); }

int64_t int_at(const Json& j, int64_t batch, const char* what) {
  int64_t v = 0;
  if (j.is(Json::Kind::string)) {
    const auto l = line_of(j.as_string(what));
    check(l.has_value(), what, ": expected a whole number or a text like '64*N+1', got '", j.as_string(what), "'");
    const auto r = l->at(batch);
    check(r.has_value(), what, ": ", j.as_string(what), " is too large");
    v = *r;
  } else {
    v = j.as_int(what);
  }
  check(v >= -kMost && v <= kMost, what, ": expected a number within +-2^53, got ", v);
  return v;
}

double double_at(const Json& j, int64_t batch, const char* what) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  if (j.is(Json::Kind::string)) {
    const std::string& s = j.as_string(what);
    if (s == "inf") return inf;
    if (s == "-inf") return -inf;
    check(s == "nan", what, ": expected a number, got '", s, "'");
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (!j.is(Json::Kind::object)) return j.as_double(what);
  const double value = j.at("value", what).as_double(what);
  const Json* over = j.find("over");
  const double n = static_cast<double>(int_at(over ? *over : j.at("times", what), batch, what));
  return over ? value / n : value * n;
}

Json double_form(double v) {
  if (std::isnan(v)) return Json::string("nan");
  if (std::isinf(v)) return Json::string(v > 0 ? "inf" : "-inf");
  return Json::number(v);
}

Dims dims_at(const Json& j, int64_t batch, const char* what) {
  const Json::Array& items = j.items(what);
  check(items.size() <= kMaxDims, what, ": expected at most ", kMaxDims, " dimensions, got ", items.size());
  Dims d;
  for (const Json& i : items) {
    d.push_back(int_at(i, batch, what));
    check(d.back() >= 0, what, ": expected sizes >= 0, got ", d.back());
  }
  return d;
}

Json dims_form(const Dims& d) {
  Json j = Json::array();
  for (const int64_t v : d) j.push(Json::integer(v));
  return j;
}

}  // namespace fastcnn
