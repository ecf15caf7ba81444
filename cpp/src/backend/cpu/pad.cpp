// What it is: the ordered CPU implementations of pad and pad_bwd. Both walk the padded tensor in runs of pixels
// that come from one dense piece of the other one.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/pad_index.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// A padded axis cut into runs: `n` outputs from `at`, read from source, source + 1, …; source -1: the fill value.
struct Run {
  int64_t at, n, source;
};

// Dims in memory order. The trailing ones without padding are one block of `inner` elements per position.
struct Layout {
  int ndim = 0;
  int64_t outer[kMaxDims], small[kMaxDims], before[kMaxDims];  // padded and unpadded sizes
  int64_t inner = 1;
  std::vector<Run> runs;                  // of the last of these dims
  std::vector<int64_t> source[kMaxDims];  // of the others
};

Layout make_layout(const PadParams& p, const Operand& padded, const Operand& plain) {
  Layout l;
  int order[kMaxDims], n = padded.ndim;
  for (int i = 0; i < n; ++i) order[i] = i;
  if (n == 4) order[1] = 2, order[2] = 3, order[3] = 1;
  int last = n - 1;
  for (; last >= 0; --last) {
    int d = order[last];
    if (p.before[d] != 0 || p.after[d] != 0) break;
    l.inner *= padded.shape[d];
  }
  l.ndim = last + 1;
  for (int i = 0; i <= last; ++i) {
    int d = order[i];
    l.outer[i] = padded.shape[d], l.small[i] = plain.shape[d], l.before[i] = p.before[d];
    for (int64_t j = 0; i < last && j < l.outer[i]; ++j)
      l.source[i].push_back(pad_source(p.mode, j - l.before[i], l.small[i]));
  }
  if (l.ndim == 0) {  // nothing is padded: one position
    l.ndim = 1;
    l.outer[0] = l.small[0] = 1;
    l.before[0] = 0;
  }
  last = l.ndim - 1;
  for (int64_t j = 0; j < l.outer[last]; ++j) {
    int64_t s = pad_source(p.mode, j - l.before[last], l.small[last]);
    Run* r = l.runs.empty() ? nullptr : &l.runs.back();
    if (r && (s < 0 ? r->source < 0 : r->source >= 0 && r->source + r->n == s))
      ++r->n;
    else
      l.runs.push_back({j, 1, s});
  }
  return l;
}

// Row of the plain tensor that padded row `row` reads, -1: none.
int64_t source_row(const Layout& l, int64_t row) {
  int64_t from = 0, scale = 1;
  for (int d = l.ndim - 2; d >= 0; --d) {
    int64_t s = l.source[d][row % l.outer[d]];
    if (s < 0) return -1;
    from += s * scale;
    scale *= l.small[d];
    row /= l.outer[d];
  }
  return from;
}

int64_t rows_of(const Layout& l) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < l.ndim; ++d) rows *= l.outer[d];
  return rows;
}

const char* declines_pad(const Call& c) { return kernels() ? nullptr : "no kernels in this ISA"; }

void pad_run(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (y.numel() == 0) return;
  Layout l = make_layout(p, y, x);
  int last = l.ndim - 1;
  int64_t width = l.outer[last] * l.inner, plain = l.small[last] * l.inner;
  ref::dispatch_all(y.dtype, [&]<class T>() {
    T fill = ref::store<T>(p.value);
    parallel_for(rows_of(l), 16 * 1024 / width + 1, [&](int64_t b, int64_t e, int) {
      for (int64_t row = b; row < e; ++row) {
        T* out = y.as<T>() + row * width;
        int64_t from = source_row(l, row);
        if (from < 0) {
          std::fill(out, out + width, fill);
          continue;
        }
        const T* in = x.as<T>() + from * plain;
        for (const Run& r : l.runs) {
          T* to = out + r.at * l.inner;
          if (r.source < 0)
            std::fill(to, to + r.n * l.inner, fill);
          else
            std::copy_n(in + r.source * l.inner, r.n * l.inner, to);
        }
      }
    });
  });
}

const char* declines_bwd(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  if (c.as<PadParams>().mode == PadMode::constant || c.in[0].dtype == DType::float32) return nullptr;
  return "sums outside float32";
}

// Rows of dx are owned by the outermost dim: where that is not padded (a batch), its entries are independent.
void pad_bwd_run(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &dy = c.in[0], &dx = c.out[0];
  size_t size = dtype_size(dx.dtype);
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) {
    std::memset(dx.data, 0, dx.numel() * size);
    return;
  }
  Layout l = make_layout(p, dy, dx);
  int last = l.ndim - 1;
  int64_t width = l.outer[last] * l.inner, plain = l.small[last] * l.inner, rows = rows_of(l);
  bool batch = l.ndim > 1 && l.outer[0] == l.small[0] && l.before[0] == 0;
  int64_t owners = batch ? l.outer[0] : 1, rows_each = rows / owners, bytes = dx.numel() * size / owners;
  const KernelTable& k = *kernels();
  bool add = p.mode != PadMode::constant;
  parallel_for(owners, 16 * 1024 / (rows_each * width) + 1, [&](int64_t b, int64_t e, int) {
    std::memset(dx.as<char>() + b * bytes, 0, (e - b) * bytes);
    for (int64_t row = b * rows_each; row < e * rows_each; ++row) {
      int64_t from = source_row(l, row);
      if (from < 0) continue;
      for (const Run& r : l.runs) {
        if (r.source < 0) continue;
        int64_t to = from * plain + r.source * l.inner, at = row * width + r.at * l.inner, n = r.n * l.inner;
        if (add)
          k.add_into(dx.as<float>() + to, dy.as<float>() + at, n);
        else
          std::memcpy(dx.as<char>() + to * size, dy.as<char>() + at * size, n * size);
      }
    }
  });
}

}  // namespace

List pad_list() {
  static const Implementation list[] = {{"runs", declines_pad, nullptr, pad_run},
                                        {"ref", nullptr, nullptr, ref::pad}};
  return list;
}

List pad_bwd_list() {
  static const Implementation list[] = {{"runs", declines_bwd, nullptr, pad_bwd_run},
                                        {"ref", nullptr, nullptr, ref::pad_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
