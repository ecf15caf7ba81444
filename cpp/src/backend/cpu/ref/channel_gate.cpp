// What it is: channel_scale and channel_dot as they are defined, in double.
#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {

void channel_scale(const Call& c) {
  const auto& p = c.as<ChannelParams>();
  expect_floating(c.in[0], "channel_scale");
  const Reader x(c.in[0]), scale(c.in[1]);
  Reader shift;
  if (p.has_shift) shift = c.in[2];
  const Writer y(c.out[0]);
  for (int64_t i = 0; i < p.N * p.rows * p.C; ++i) {
    const int64_t at = i / (p.rows * p.C) * p.C + i % p.C;
    y.set(i, x[i] * scale[at] + (p.has_shift ? p.shift * shift[at] : 0));
  }
}

void channel_dot(const Call& c) {
  const auto& p = c.as<ChannelParams>();
  expect_floating(c.in[0], "channel_dot");
  const Reader a(c.in[0]), b(c.in[1]);
  const Writer y(c.out[0]);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t ch = 0; ch < p.C; ++ch) {
      double sum = 0;
      for (int64_t r = 0; r < p.rows; ++r) {
        const int64_t i = (n * p.rows + r) * p.C + ch;
        sum += a[i] * b[i];
      }
      y.set(n * p.C + ch, sum);
    }
}

}  // namespace fastcnn::cpu::ref
