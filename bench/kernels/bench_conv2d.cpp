// What it is: speed of each convolution pass on the layers of common nets, through the implementation that the
// lists choose and, with "all", through every other one that accepts. Prints: layer, pass, implementation (* the
// chosen one), best ms, GFLOP/s at the best and at the median time.
// Usage: bench_conv2d [part of a layer name] [all | an implementation] [bf16]   (FASTCNN_ISA and
// FASTCNN_NUM_THREADS apply)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/threads.h"

using namespace fastcnn;

namespace {

struct Layer {
  const char* name;
  int64_t N, C, H, O, k, stride, pad, groups;
};

const Layer kLayers[] = {
    {"3x3_64_56_n8", 8, 64, 56, 64, 3, 1, 1, 1},
    {"3x3_128_28_n8", 8, 128, 28, 128, 3, 1, 1, 1},
    {"3x3_256_14_n8", 8, 256, 14, 256, 3, 1, 1, 1},
    {"3x3_512_7_n8", 8, 512, 7, 512, 3, 1, 1, 1},
    {"3x3s2_64_128_n8", 8, 64, 56, 128, 3, 2, 1, 1},
    {"1x1_64_256_56_n8", 8, 64, 56, 256, 1, 1, 0, 1},
    {"1x1_256_64_56_n8", 8, 256, 56, 64, 1, 1, 0, 1},
    {"1x1_1024_256_14_n8", 8, 1024, 14, 256, 1, 1, 0, 1},
    {"1x1s2_256_512_n8", 8, 256, 56, 512, 1, 2, 0, 1},
    {"7x7s2_3_64_n8", 8, 3, 224, 64, 7, 2, 3, 1},
    {"3x3_3_16_32_n128", 128, 3, 32, 16, 3, 1, 1, 1},
    {"3x3_16_32_n128", 128, 16, 32, 16, 3, 1, 1, 1},
    {"3x3_32_16_n128", 128, 32, 16, 32, 3, 1, 1, 1},
    {"3x3_64_8_n128", 128, 64, 8, 64, 3, 1, 1, 1},
    {"3x3s2_16_32_n128", 128, 16, 32, 32, 3, 2, 1, 1},
    {"5x5_1_32_28_n128", 128, 1, 28, 32, 5, 1, 2, 1},
    {"5x5_32_64_14_n128", 128, 32, 14, 64, 5, 1, 2, 1},
    {"4x4s2_64_128_32_n64", 64, 64, 32, 128, 4, 2, 1, 1},
    {"4x4s2_3_64_64_n64", 64, 3, 64, 64, 4, 2, 1, 1},
    {"3x3_64_56_n1", 1, 64, 56, 64, 3, 1, 1, 1},
    {"3x3_128_28_n1", 1, 128, 28, 128, 3, 1, 1, 1},
    {"3x3_256_14_n1", 1, 256, 14, 256, 3, 1, 1, 1},
    {"3x3_512_7_n1", 1, 512, 7, 512, 3, 1, 1, 1},
    {"dw3x3_96_56_n8", 8, 96, 56, 96, 3, 1, 1, 96},
    {"dw3x3_144_56_n8", 8, 144, 56, 144, 3, 1, 1, 144},
    {"dw3x3_576_14_n8", 8, 576, 14, 576, 3, 1, 1, 576},
    {"dw3x3s2_144_56_n8", 8, 144, 56, 144, 3, 2, 1, 144},
    {"3x3_16_32_n1", 1, 16, 32, 16, 3, 1, 1, 1},
    {"3x3_32_16_n1", 1, 32, 16, 32, 3, 1, 1, 1},
    {"3x3_64_8_n1", 1, 64, 8, 64, 3, 1, 1, 1},
    {"3x3_16_32_n8", 8, 16, 32, 16, 3, 1, 1, 1},
    {"3x3_32_16_n8", 8, 32, 16, 32, 3, 1, 1, 1},
    {"3x3_64_8_n8", 8, 64, 8, 64, 3, 1, 1, 1},
    {"3x3_16_32_n16", 16, 16, 32, 16, 3, 1, 1, 1},
    {"3x3_32_16_n16", 16, 32, 16, 32, 3, 1, 1, 1},
    {"3x3_64_8_n16", 16, 64, 8, 64, 3, 1, 1, 1},
    {"3x3_64_56_n16", 16, 64, 56, 64, 3, 1, 1, 1},
    {"3x3_128_28_n16", 16, 128, 28, 128, 3, 1, 1, 1},
    {"3x3_256_14_n16", 16, 256, 14, 256, 3, 1, 1, 1},
    {"3x3_512_7_n16", 16, 512, 7, 512, 3, 1, 1, 1},
    {"3x3_512_7_n128", 128, 512, 7, 512, 3, 1, 1, 1},
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// With one thread the time on the CPU counts, which neighbours on a busy machine disturb less.
double tick() { return cpu::num_threads() == 1 ? static_cast<double>(std::clock()) / CLOCKS_PER_SEC : now(); }

struct Floats {
  std::unique_ptr<float, decltype(&std::free)> p;
  int64_t n;
  explicit Floats(int64_t count)
      : p(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(count * 4 + 127) / 64 * 64)), &std::free),
        n(count) {
    for (int64_t i = 0; i < n; ++i) p.get()[i] = static_cast<float>(i * 7 % 31 - 15) / 16;
  }
  // The first half of the memory as n bfloat16.
  void narrow() {
    auto* half = reinterpret_cast<bfloat16*>(p.get());
    for (int64_t i = 0; i < n; ++i) half[i] = bfloat16(static_cast<float>(i * 7 % 31 - 15) / 16);
  }
};

DType dtype = DType::float32;

Operand operand(const Floats& f) {
  Operand o;
  o.data = f.p.get(), o.dtype = dtype, o.ndim = 1, o.shape[0] = f.n, o.strides[0] = 1;
  return o;
}

void time_implementation(const Layer& l, const char* pass, const Conv2dParams& p, Call c,
                         const Implementation& impl, bool chosen) {
  Floats workspace(impl.workspace ? impl.workspace(c) / 4 + 1 : 1);
  c.workspace = workspace.p.get();
  std::vector<double> times;
  for (double start = now(); times.size() < 5 || (now() - start < 0.25 && times.size() < 400);) {
    double t = tick();
    impl.run(c);
    times.push_back(std::max(tick() - t, 1e-9));
  }
  std::sort(times.begin(), times.end());
  const double flops = 2.0 * p.N * p.oH * p.oW * p.O * (p.C / p.groups) * p.kH * p.kW;
  std::printf("%-20s %-12s %c%-10s %8.3f ms %7.1f %7.1f GFLOP/s\n", l.name, pass, chosen ? '*' : ' ', impl.name,
              times[0] * 1e3, flops / times[0] / 1e9, flops / times[times.size() / 2] / 1e9);
  std::fflush(stdout);
}

void time_pass(const Layer& l, const char* pass, cpu::List list, const Conv2dParams& p, const Floats& a,
               const Floats& b, const Floats& out, const char* which) {
  Operand in[2] = {operand(a), operand(b)}, o[1] = {operand(out)};
  Call c;
  c.params = &p, c.in = in, c.out = o;
  const Implementation* chosen = list.data();
  while (chosen->declines && chosen->declines(c)) ++chosen;
  for (const Implementation& i : list.first(list.size() - 1)) {
    const bool wanted = !which ? &i == chosen : !std::strcmp(which, "all") || !std::strcmp(which, i.name);
    if (wanted && !(i.declines && i.declines(c))) time_implementation(l, pass, p, c, i, &i == chosen);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && !std::strcmp(argv[argc - 1], "bf16")) dtype = DType::bfloat16, --argc;
  std::printf("isa %s, %d threads\n", cpu::isa_name().c_str(), cpu::num_threads());
  const char* which = argc > 2 ? argv[2] : nullptr;
  for (const Layer& l : kLayers) {
    if (argc > 1 && !std::strstr(l.name, argv[1])) continue;
    Conv2dParams p;
    p.N = l.N, p.C = l.C, p.H = p.W = l.H, p.O = l.O, p.kH = p.kW = l.k, p.sH = p.sW = l.stride,
    p.groups = l.groups;
    p.pT = p.pB = p.pL = p.pR = l.pad;
    p.oH = p.oW = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
    Floats x(p.N * p.C * p.H * p.W), w(p.O * p.C / p.groups * p.kH * p.kW), y(p.N * p.O * p.oH * p.oW);
    Floats dx(x.n), dw(w.n), dy(y.n);
    if (dtype == DType::bfloat16)
      for (Floats* f : {&x, &w, &dy}) f->narrow();
    time_pass(l, "fwd", cpu::conv2d_list(), p, x, w, y, which);
    time_pass(l, "bwd_data", cpu::conv2d_bwd_data_list(), p, dy, w, dx, which);
    time_pass(l, "bwd_weights", cpu::conv2d_bwd_weights_list(), p, x, dy, dw, which);
  }
  return 0;
}
