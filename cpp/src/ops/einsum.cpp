// What it is: einsum: sums of products over named dims, operands from left to right, each pair as one product of
// matrices. What it is not: a search for the cheapest order of many operands.
#include <algorithm>

#include "ops/dims.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

// Dims of an ellipsis have labels of their own, counted from the last one.
constexpr int kEllipsis = 1000;
using Labels = std::vector<int>;

bool has(const Labels& l, int c) { return std::find(l.begin(), l.end(), c) != l.end(); }
int at(const Labels& l, int c) { return static_cast<int>(std::find(l.begin(), l.end(), c) - l.begin()); }

struct Term {
  Tensor x;
  Labels labels;
  int64_t size(int c) const { return x.shape()[at(labels, c)]; }
};

// Labels of one side; `dots` dims for an ellipsis.
Labels labels_of(const std::string& term, int dots, const std::string& equation) {
  Labels l;
  for (size_t i = 0; i < term.size(); ++i) {
    if (term.compare(i, 3, "...") == 0) {
      for (int d = dots; d-- > 0;) l.push_back(kEllipsis + d);
      i += 2;
      continue;
    }
    check(std::isalpha(static_cast<unsigned char>(term[i])), "einsum: expected letters and '...', got '", term[i],
          "' in '", equation, "'");
    l.push_back(term[i]);
  }
  return l;
}

// The diagonal of dims that share a label.
void join_equal(Term& t) {
  for (int i = 0; i < static_cast<int>(t.labels.size()); ++i)
    for (int k = i + 1; k < static_cast<int>(t.labels.size()); ++k) {
      if (t.labels[i] != t.labels[k]) continue;
      const int64_t n = t.x.shape()[i];
      check(t.x.shape()[k] == n, "einsum: expected equal sizes along a repeated dim, got shape ", t.x.shape());
      std::vector<int> order;
      for (int d = 0; d < t.x.ndim(); ++d)
        if (d != i && d != k) order.push_back(d);
      Labels left;
      for (int d : order) left.push_back(t.labels[d]);
      left.push_back(t.labels[i]);
      order.push_back(i), order.push_back(k);
      Tensor y = permute(t.x, order);
      Dims flat;
      for (int d = 0; d + 2 < y.ndim(); ++d) flat.push_back(y.shape()[d]);
      flat.push_back(n * n);
      t.x = n ? slice(reshape(y, flat), -1, 0, n * n, n + 1) : reshape(y, flat);
      t.labels = left;
      i = -1;
      break;
    }
}

void sum_unread(Term& t, const Labels& read) {
  std::vector<int> gone;
  Labels left;
  for (int d = 0; d < static_cast<int>(t.labels.size()); ++d)
    if (has(read, t.labels[d]))
      left.push_back(t.labels[d]);
    else
      gone.push_back(d);
  if (!gone.empty()) t.x = sum(t.x, gone), t.labels = left;
}

// x's dims in the order of `to`, those that it lacks with size 1.
Tensor ordered(const Term& t, const Labels& to) {
  std::vector<int> order;
  Dims shape;
  for (int c : to) {
    if (has(t.labels, c)) order.push_back(at(t.labels, c));
    shape.push_back(has(t.labels, c) ? t.size(c) : 1);
  }
  return reshape(permute(t.x, order), shape);
}

int64_t sizes(const Term& t, const Labels& l) {
  int64_t n = 1;
  for (int c : l) n *= t.size(c);
  return n;
}

// later: labels that the result or operands to come have.
Term contract(Term a, Term b, const Labels& later) {
  const auto with = [&](const Labels& more) {
    Labels all = later;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  sum_unread(a, with(b.labels)), sum_unread(b, with(a.labels));
  Labels batch, left, right, summed;
  for (int c : a.labels)
    if (!has(b.labels, c))
      left.push_back(c);
    else if (!has(later, c))
      summed.push_back(c);
    else if (a.size(c) == b.size(c))
      batch.push_back(c);
    else  // one of them is 1: a dim of an ellipsis, that is broadcast
      (b.size(c) == 1 ? left : right).push_back(c);
  for (int c : b.labels)
    if (!has(a.labels, c)) right.push_back(c);
  const auto without = [&](Term& t, const Labels& other) {  // dims of size 1 that the other side has in full
    for (int c : other)
      if (has(t.labels, c))
        t.x = squeeze(t.x, at(t.labels, c)), t.labels.erase(t.labels.begin() + at(t.labels, c));
  };
  without(b, left), without(a, right);
  const auto join = [](Labels l, const Labels& m, const Labels& n) {
    l.insert(l.end(), m.begin(), m.end()), l.insert(l.end(), n.begin(), n.end());
    return l;
  };
  const int64_t B = sizes(a, batch), M = sizes(a, left), K = sizes(a, summed), N = sizes(b, right);
  Term r;
  r.labels = join(batch, left, right);
  Dims shape;
  for (int c : batch) shape.push_back(a.size(c));
  for (int c : left) shape.push_back(a.size(c));
  for (int c : right) shape.push_back(b.size(c));
  if (summed.empty() && (left.empty() || right.empty())) {  // no sum: a product of elements
    r.x = mul(ordered(a, r.labels), ordered(b, r.labels));
    return r;
  }
  Tensor x = reshape(ordered(a, join(batch, left, summed)), {B, M, K}),
         y = reshape(ordered(b, join(batch, summed, right)), {B, K, N});
  if (B == 1) x = squeeze(x, 0), y = squeeze(y, 0);
  r.x = reshape(matmul(x, y), shape);
  return r;
}

}  // namespace

Tensor einsum(const std::string& equation, const std::vector<Tensor>& operands) {
  std::string text;
  for (char c : equation)
    if (c != ' ') text += c;
  const size_t arrow = text.find("->");
  const std::string in = text.substr(0, arrow);
  std::vector<std::string> terms(1);
  for (char c : in)
    if (c == ',')
      terms.emplace_back();
    else
      terms.back() += c;
  check(!operands.empty() && terms.size() == operands.size(), "einsum: expected ", terms.size(), " operands for '",
        equation, "', got ", operands.size());

  std::vector<Term> all;
  int most = 0;  // dims of the longest ellipsis
  for (size_t i = 0; i < terms.size(); ++i) {
    const Tensor& x = operands[i];
    check_floating("einsum", "operands", x);
    check_like("einsum", "all operands", x, operands[0], "the first");
    const size_t dots = terms[i].find("...");
    const int named = static_cast<int>(terms[i].size()) - (dots == std::string::npos ? 0 : 3);
    check(dots == std::string::npos ? x.ndim() == named : x.ndim() >= named, "einsum: expected operand ", i,
          " with ", named, dots == std::string::npos ? "" : " or more", " dims for '", equation, "', got shape ",
          x.shape());
    Term t{x, labels_of(terms[i], x.ndim() - named, equation)};
    most = std::max(most, x.ndim() - named);
    check(static_cast<int>(t.labels.size()) == x.ndim(), "einsum: expected one '...' in an operand, got '",
          equation, "'");
    join_equal(t);
    all.push_back(t);
  }
  for (const Term& t : all)
    for (int c : t.labels)
      for (const Term& o : all)
        check(
            !has(o.labels, c) || o.size(c) == t.size(c) || (c >= kEllipsis && (o.size(c) == 1 || t.size(c) == 1)),
            "einsum: sizes ", t.size(c), " and ", o.size(c), " of one dim in '", equation,
            "' (operands of shapes ", t.x.shape(), " and ", o.x.shape(), ")");

  Labels out;
  if (arrow == std::string::npos) {  // the ellipsis, then what occurs once, in the order of the alphabet
    for (int d = most; d-- > 0;) out.push_back(kEllipsis + d);
    for (int c = 'A'; c <= 'z'; ++c)
      if (std::isalpha(c) && std::count(in.begin(), in.end(), static_cast<char>(c)) == 1) out.push_back(c);
  } else {
    const std::string term = text.substr(arrow + 2);
    out = labels_of(term, term.find("...") == std::string::npos ? 0 : most, equation);
    for (int c : out) {
      check(std::count(out.begin(), out.end(), c) == 1, "einsum: a dim appears twice in the result of '", equation,
            "'");
      check(std::any_of(all.begin(), all.end(), [&](const Term& t) { return has(t.labels, c); }),
            "einsum: the result of '", equation, "' has a dim that no operand has");
    }
  }

  Term r = all[0];
  for (size_t i = 1; i < all.size(); ++i) {
    Labels later = out;
    for (size_t k = i + 1; k < all.size(); ++k)
      later.insert(later.end(), all[k].labels.begin(), all[k].labels.end());
    r = contract(r, all[i], later);
  }
  sum_unread(r, out);
  std::vector<int> order;
  for (int c : out) order.push_back(at(r.labels, c));
  return permute(r.x, order);
}

}  // namespace fastcnn
