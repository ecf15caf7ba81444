// channel_scale and channel_dot: every implementation on every ISA against the reference.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Case {
  int64_t N, C, rows;
};
const Case kCases[] = {{1, 1, 1},    {2, 3, 5},     {3, 16, 49}, {2, 17, 100}, {16, 240, 64}, {1, 96, 3000},
                       {2, 2050, 9}, {5, 1152, 49}, {0, 8, 9},   {2, 0, 9},    {2, 8, 0}};

ChannelParams params(const Case& k) {
  ChannelParams p;
  p.N = k.N, p.C = k.C, p.rows = k.rows;
  return p;
}
std::string text(const char* op, const Case& k) {
  return std::string(op) + " " + std::to_string(k.N) + " " + std::to_string(k.C) + " " + std::to_string(k.rows);
}

}  // namespace

TEST_CASE("channel_scale: with and without a shift") {
  for (const Case& k : kCases)
    for (int has_shift : {0, 1}) {
      ChannelParams p = params(k);
      p.has_shift = has_shift, p.shift = 1.0 / 49;
      const int64_t n = k.N * k.C * k.rows;
      std::vector<Array> in{normal(n, 1), normal(k.N * k.C, 2, 1, 1)};
      if (has_shift) in.push_back(normal(k.N * k.C, 3, 10));
      const int compared = check_op(cpu::channel_scale_list(), &p, in, {{n}}, text("channel_scale", k));
      CHECK((compared > 0 || n == 0));
    }
}

TEST_CASE("channel_dot: sums of products over each plane") {
  for (const Case& k : kCases) {
    const ChannelParams p = params(k);
    const int64_t n = k.N * k.C * k.rows;
    const int compared = check_op(cpu::channel_dot_list(), &p, {normal(n, 1), normal(n, 2, 1, 0.5f)},
                                  {{k.N * k.C}}, text("channel_dot", k), {2e-5});
    CHECK((compared > 0 || n == 0));
  }
}
