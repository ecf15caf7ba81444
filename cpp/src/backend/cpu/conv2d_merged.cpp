// What it is: grouped convolutions with few channels in a group that conv2d_group_lanes.cpp leaves (1x1, numbers
// of channels that do not divide a vector, gradients to fewer channels), run by the dense kernels on several
// groups at once: a vector of the result holds the channels of several groups, and weights between different
// groups are zero. That costs no more multiplications than the idle lanes did. What it is not: arithmetic, or a
// wall between groups: an infinity or NaN in one reaches the others that share its vector.
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// How many groups become one; `wide` is what a group has along the lanes.
int64_t merged(const Conv2dParams& p, int64_t wide) {
  int64_t f = std::max<int64_t>(1, std::min<int64_t>(p.groups, lanes() / std::max<int64_t>(wide, 1)));
  while (p.groups % f) --f;
  return f;
}
int64_t merged_outputs(const Conv2dParams& p) { return merged(p, p.O / p.groups); }
int64_t merged_inputs(const Conv2dParams& p) { return merged(p, p.C / p.groups); }

const char* declines(const Call& c, int64_t (*factor)(const Conv2dParams&), Can can = {}) {
  if (const char* why = declines_common(c, can)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.groups == 1) return "one group";
  return factor(p) > 1 ? nullptr : "a group fills the lanes";
}

struct Merged {
  Conv2dParams p;  // with fewer groups
  int64_t f, Cg;   // groups in one, input channels of a group
  int64_t row() const { return p.kH * p.kW * Cg; }
  int64_t floats() const { return p.O * row() * f; }
  Merged(const Conv2dParams& from, int64_t factor) : p(from), f(factor), Cg(from.C / from.groups) {
    p.groups /= f;
  }
  // Filter o sees channels [at, at + Cg) of its merged group.
  int64_t at(int64_t o) const { return o / (p.O / (p.groups * f)) % f * Cg; }
};

void widen(const Merged& m, const float* w, float* wide) {
  std::memset(wide, 0, static_cast<size_t>(m.floats()) * 4);
  for (int64_t o = 0; o < m.p.O; ++o)
    for (int64_t tap = 0; tap < m.p.kH * m.p.kW; ++tap)
      std::memcpy(wide + (o * m.p.kH * m.p.kW + tap) * m.f * m.Cg + m.at(o), w + o * m.row() + tap * m.Cg,
                  static_cast<size_t>(m.Cg) * 4);
}

// The dense adaptor on wide weights; its workspace follows them.
void run_wide(const Call& c, const Merged& m, void (*run)(const Call&)) {
  Operand in[4];
  std::copy(c.in.begin(), c.in.end(), in);
  float* wide = static_cast<float*>(c.workspace);
  widen(m, c.in[1].as<float>(), wide);
  in[1].data = wide;
  Call d = c;
  d.params = &m.p, d.in = {in, c.in.size()}, d.workspace = wide + aligned(m.floats());
  run(d);
}

int64_t workspace(const Call& c, const Merged& m, int64_t (*inner)(const Call&)) {
  Call d = c;
  d.params = &m.p;
  return aligned(m.floats()) * 4 + inner(d);
}

}  // namespace

const char* merged_declines(const Call& c) {
  if (const char* why = declines(c, merged_outputs, {.moments = true})) return why;
  Call d = c;
  const Merged m(c.as<Conv2dParams>(), merged_outputs(c.as<Conv2dParams>()));
  d.params = &m.p;
  return dense_declines(d);
}
int64_t merged_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return workspace(c, Merged(p, merged_outputs(p)), dense_workspace);
}
void merged_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Merged m(p, merged_outputs(p));
  run_wide(c, m, dense_run);
}

const char* merged_bwd_data_declines(const Call& c) {
  if (const char* why = declines(c, merged_inputs)) return why;
  Call d = c;
  const Merged m(c.as<Conv2dParams>(), merged_inputs(c.as<Conv2dParams>()));
  d.params = &m.p;
  return dense_bwd_data_declines(d);
}
int64_t merged_bwd_data_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return workspace(c, Merged(p, merged_inputs(p)), dense_bwd_data_workspace);
}
void merged_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Merged m(p, merged_inputs(p));
  run_wide(c, m, dense_bwd_data_run);
}

const char* merged_bwd_weights_declines(const Call& c) {
  if (const char* why = declines(c, merged_inputs)) return why;
  Call d = c;
  const auto& p = c.as<Conv2dParams>();
  if (p.O / p.groups >= lanes()) return "outputs of a group fill the lanes";
  const Merged m(p, merged_inputs(p));
  d.params = &m.p;
  return dense_bwd_weights_declines(d);
}
int64_t merged_bwd_weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return workspace(c, Merged(p, merged_inputs(p)), dense_bwd_weights_workspace);
}
void merged_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Merged m(p, merged_inputs(p));
  float* wide = static_cast<float*>(c.workspace);
  Operand out[2];
  std::copy(c.out.begin(), c.out.end(), out);
  out[0].data = wide;
  Call d = c;
  d.params = &m.p, d.out = {out, c.out.size()}, d.workspace = wide + aligned(m.floats());
  dense_bwd_weights_run(d);
  float* dw = c.out[0].as<float>();
  for (int64_t o = 0; o < p.O; ++o)
    for (int64_t tap = 0; tap < p.kH * p.kW; ++tap)
      std::memcpy(dw + o * m.row() + tap * m.Cg, wide + (o * p.kH * p.kW + tap) * m.f * m.Cg + m.at(o),
                  static_cast<size_t>(m.Cg) * 4);
}

}  // namespace fastcnn::cpu
