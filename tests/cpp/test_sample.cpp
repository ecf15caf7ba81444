// affine_sample: every implementation on every ISA against the reference.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// Points of large matrices are less exact. uint8 results may round to either neighbour, and a colour stage behind
// such a rounding carries it on.
int check_sample(const AffineSampleParams& p, DType dtype, const std::vector<Array>& in, const std::string& what,
                 double float_limit = 3e-4) {
  IsaGuard restore;
  const int64_t n = p.N * p.oH * p.oW * p.C;
  const DType type = p.has_norm ? DType::float32 : dtype;
  const std::vector<Out> outs{{n, type}};
  const std::vector<Array> expect = run_reference(cpu::affine_sample_list(), &p, in, outs);
  const double limit = type == DType::uint8 ? 1 + p.stages : dtype == DType::uint8 ? 0.03 : float_limit;
  int compared = 0;
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    const Implementation& impl = cpu::affine_sample_list().front();
    std::vector<Array> one;
    for (int threads : {1, 3, 7}) {  // more than images: rows are dealt out
      cpu::set_num_threads(threads);
      std::vector<Array> out = make_outputs(outs);
      std::vector<Operand> in_ops = operands(in), out_ops = operands(out);
      Call c;
      c.params = &p, c.in = in_ops, c.out = out_ops;
      if (impl.declines(c)) continue;
      impl.run(c);
      ++compared;
      const std::string where = what + " isa " + isa + " threads " + std::to_string(threads);
      CHECK_MESSAGE(out[0].memory->guard_intact(), where << ": wrote past its output");
      if (threads > 1) {
        CHECK_MESSAGE(std::memcmp(out[0].memory->data(), one[0].memory->data(), n * dtype_size(type)) == 0,
                      where << ": not the output of 1 thread");
        continue;
      }
      double worst = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double d = type == DType::uint8 ? out[0].as<uint8_t>()[i] - double(expect[0].as<uint8_t>()[i])
                                              : double(out[0].f()[i]) - expect[0].f()[i];
        if (!(std::fabs(d) <= worst)) worst = std::isnan(d) ? INFINITY : std::fabs(d);
      }
      CHECK_MESSAGE(worst <= limit, where << ": off by " << worst);
      one = std::move(out);
    }
  }
  return compared;
}

struct Kind {
  const char* name;
  float scale, turn, perspective;
};

}  // namespace

TEST_CASE("affine_sample: matrices, modes, fills, colour and dtypes") {
  int runs = 0;
  uint32_t seed = 0;
  const Kind kinds[] = {{"copy", 1, 0, 0},
                        {"resize", 1.7f, 0, 0},
                        {"zoom", 0.6f, 0, 0},
                        {"turn", 0.8f, 0.4f, 0},
                        {"perspective", 1.1f, -0.3f, 0.004f},
                        {"far", 90, 2, 0}};
  for (const Kind& kind : kinds)
    for (DType dtype : {DType::uint8, DType::float32})
      for (int64_t C : {1, 3, 5})
        for (Interp mode : {Interp::nearest, Interp::bilinear, Interp::bicubic})
          for (int fill = 0; fill < 4; ++fill)
            for (int64_t stages : {0, 2}) {
              if (stages && C == 5) continue;
              AffineSampleParams p;
              p.N = 4, p.C = C, p.H = 9, p.W = 21, p.oH = 8, p.oW = 19, p.stages = stages, p.mode = mode;
              p.fill = static_cast<SampleFill>(fill), p.antialias = mode != Interp::nearest;
              p.has_norm = stages && fill % 2, p.has_displacement = seed++ % 5 == 0;
              std::mt19937 g(seed);
              std::uniform_real_distribution<float> u(-1, 1);
              std::vector<Array> in;
              in.emplace_back(p.N * p.C * p.H * p.W, dtype);
              for (int64_t i = 0; i < in[0].n; ++i)
                if (dtype == DType::uint8)
                  in[0].as<uint8_t>()[i] = static_cast<uint8_t>(g() % 256);
                else
                  in[0].f()[i] = (u(g) + 1) / 2;
              in.emplace_back(p.N * 9);
              for (int64_t n = 0; n < p.N; ++n) {
                const float s = kind.scale, t = kind.turn, way = n % 2 ? -1.0f : 1.0f;
                const float move = kind.scale == 1 && !kind.turn ? std::round(5 * u(g)) : 5 * u(g);
                const float m[9] = {way * s * std::cos(t), -s * std::sin(t),  move + (n % 2 ? 20.0f : 0.0f),
                                    way * s * std::sin(t), s * std::cos(t),   move,
                                    kind.perspective,      -kind.perspective, 1};
                std::copy(m, m + 9, in[1].f() + n * 9);
              }
              in.emplace_back(C);
              for (int64_t c = 0; c < C; ++c) in[2].f()[c] = dtype == DType::uint8 ? 40.0f * c : 0.1f * c;
              if (p.has_displacement) in.push_back(normal(p.N * p.oH * p.oW * 2, seed));
              if (stages) {
                const int64_t floats = sample_stage_floats(C);
                in.push_back(normal(p.N * stages * floats, seed, 0.2f));
                for (int64_t i = 0; i < p.N * stages; ++i) {
                  float* k = in.back().f() + i * floats;
                  for (int64_t c = 0; c < C; ++c) k[c * C + c] += 1;
                  if (i % 3 == 0) std::fill(k + C * C, k + 2 * C * C, 0.0f);  // no mean
                  if (i % 2) k[floats - 1] = 0;                               // no hue
                }
              }
              if (p.has_norm) in.push_back(normal(2 * C, seed, 0.01f));
              const std::string what = std::string(kind.name) + " C " + std::to_string(C) + " mode " +
                                       std::to_string(static_cast<int>(mode)) + " fill " + std::to_string(fill) +
                                       " stages " + std::to_string(stages) + " " + dtype_name(dtype);
              runs += check_sample(p, dtype, in, what, kind.scale > 10 ? 0.03 : 3e-4);
            }
  CHECK(runs > 0);
}

TEST_CASE("affine_sample: rows that lie inside, up to the last byte of the image") {
  int runs = 0;
  for (DType dtype : {DType::uint8, DType::float32})
    for (int64_t C : {1, 3})
      for (float turn : {0.0f, 0.03f, -0.03f, 0.2f, 3.14159265f})
        for (float scale : {0.4f, 0.96f, 1.0f}) {
          AffineSampleParams p;
          p.N = 3, p.C = C, p.H = 31, p.W = 70, p.oH = 31, p.oW = 70;
          std::mt19937 g(7);
          std::vector<Array> in;
          in.emplace_back(p.N * p.C * p.H * p.W, dtype);
          for (int64_t i = 0; i < in[0].n; ++i)
            if (dtype == DType::uint8)
              in[0].as<uint8_t>()[i] = static_cast<uint8_t>(g() % 256);
            else
              in[0].f()[i] = static_cast<float>(g() % 256) / 255;
          in.emplace_back(p.N * 9);
          for (int64_t n = 0; n < p.N; ++n) {  // about the middle, then moved towards the lower right corner
            const float a = scale * std::cos(turn), b = scale * std::sin(turn), cx = 34.5f, cy = 15, d = 0.4f * n;
            const float m[9] = {a, -b, cx - a * cx + b * cy + d, b, a, cy - b * cx - a * cy + d, 0, 0, 1};
            std::copy(m, m + 9, in[1].f() + n * 9);
          }
          in.emplace_back(C);
          for (int64_t c = 0; c < C; ++c) in[2].f()[c] = 0.5f;
          const std::string what = "turn " + std::to_string(turn) + " scale " + std::to_string(scale) + " C " +
                                   std::to_string(C) + " " + dtype_name(dtype);
          runs += check_sample(p, dtype, in, what);
        }
  CHECK(runs > 0);
}

TEST_CASE("affine_sample: matrices that are not finite read nothing outside") {
  for (float bad : {NAN, INFINITY, 1e30f}) {
    AffineSampleParams p;
    p.N = p.C = 1, p.H = p.W = 4, p.oH = p.oW = 4;
    std::vector<Array> in;
    in.emplace_back(16, DType::uint8);
    std::fill(in[0].as<uint8_t>(), in[0].as<uint8_t>() + 16, uint8_t(9));
    in.emplace_back(9);
    for (int i = 0; i < 9; ++i) in[1].f()[i] = i == 2 ? bad : i % 4 == 0;
    in.emplace_back(1);
    in[2].f()[0] = 7;
    CHECK(check_sample(p, DType::uint8, in, "not finite") > 0);
  }
}
