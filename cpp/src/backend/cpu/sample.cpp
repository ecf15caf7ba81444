// What it is: the implementation list of affine_sample on the CPU: chooses the kernel of each image by its matrix,
// runs it in passes where a colour stage wants the mean of what is before it, and deals images or rows to threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/sample_axis.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

struct Job {
  AffineSampleParams p;
  const char* x = nullptr;
  char* y = nullptr;
  const float *matrix = nullptr, *fill = nullptr, *displacement = nullptr, *color = nullptr, *norm = nullptr;
  const void* copied_fill = nullptr;
  bool x_float = false, y_float = false;
};

bool whole(float v) { return std::fabs(v) < kFarthest && v == std::floor(v); }

// Is every output pixel, before colour stages, one pixel of x as it is?
bool copies(const Job& j, const float* m) {
  return !j.displacement && (j.p.stages ? j.x_float == j.y_float : !j.norm) && sample_axis_aligned(m) &&
         std::fabs(m[0]) == 1 && std::fabs(m[4]) == 1 && whole(m[2]) && whole(m[5]);
}

bool wants_mean(const float* stage, int64_t C) {
  return std::any_of(stage + C * C, stage + 2 * C * C, [](float b) { return b != 0; });
}

// Memory of the thread that runs an image, reused by the next.
struct ImageMemory {
  SampleAxisTaps rows, cols;
  std::vector<float> stages, sums, line;
};
ImageMemory& image_memory() {
  thread_local ImageMemory memory;
  return memory;
}

// Asks for the image after this one, some at each strip of rows: turned rows meet its memory in an order that no
// machine foresees.
constexpr int64_t kStrip = 4, kLine = 64;
struct NextImage {
  const char* from;
  int64_t bytes, rows, done = 0;
  NextImage(const Job& j, int64_t n) : bytes(j.p.H * j.p.W * j.p.C * (j.x_float ? 4 : 1)), rows(j.p.oH) {
    from = j.x + n * bytes;
  }
  void fetch(int64_t row) {
    for (const int64_t end = bytes * std::min(row + kStrip, rows) / rows; done < end; done += kLine)
      __builtin_prefetch(from + done, 0, 2);
  }
};

// rows(f) calls f(begin, end) for all output rows.
template <class Rows>
void run_image(const Job& j, int64_t n, Rows rows) {
  const KernelTable& k = *kernels();
  const AffineSampleParams& p = j.p;
  const int64_t C = p.C, in = p.H * p.W * C * (j.x_float ? 4 : 1), out = p.oH * p.oW * C * (j.y_float ? 4 : 1);
  ImageMemory& memory = image_memory();
  SampleTask t;
  t.p = p, t.x_float = j.x_float, t.y_float = j.y_float, t.x = j.x + n * in, t.y = j.y + n * out;
  t.matrix = j.matrix + n * 9, t.fill = j.fill, t.copied_fill = j.copied_fill;
  if (j.displacement) t.displacement = j.displacement + n * p.oH * p.oW * 2;
  bool sampled = copies(j, t.matrix), has_mean = false;
  if (sampled) {
    rows([&](int64_t b, int64_t e) { k.sample_copied_rows(t, b, e); });
    if (!p.stages) return;
  }
  const bool resized =
      p.antialias && !j.displacement && p.mode != Interp::nearest && sample_axis_aligned(t.matrix);
  if (resized) {
    memory.rows.fill(p, p.H, p.oH, t.matrix[4], t.matrix[5]);
    memory.cols.fill(p, p.W, p.oW, t.matrix[0], t.matrix[2]);
    t.rows = memory.rows.view(), t.cols = memory.cols.view();
  }
  const int64_t size = resolved_stage_floats(C);
  memory.stages.resize(p.stages * size);
  t.stage = memory.stages.data();
  std::vector<double> mean(C);
  auto stage_of = [&](int64_t s) { return j.color + (n * p.stages + s) * sample_stage_floats(C); };
  // Appends a stage to those of the pass, unless it changes nothing.
  auto add_stage = [&](int64_t s) {
    const float *A = stage_of(s), *B = A + C * C, *shift = B + C * C;
    float* r = memory.stages.data() + t.last * size;
    std::copy(A, A + C * C, r);
    bool unit = shift[C] == 0;
    for (int64_t a = 0; a < C; ++a) {
      double v = shift[a];
      for (int64_t b = 0; b < C; ++b) v += double(B[a * C + b]) * mean[b], unit &= A[a * C + b] == (a == b);
      r[C * C + a] = static_cast<float>(v);
      unit &= r[C * C + a] == 0;
    }
    r[size - 1] = shift[C];
    t.last += !unit;
  };
  for (int64_t done = 0;;) {  // stages
    t.first = t.last = 0;
    if (has_mean) add_stage(done++);
    while (done < p.stages && !wants_mean(stage_of(done), C)) add_stage(done++);
    const bool last = done == p.stages;
    if (!last) memory.sums.resize(p.oH * C);
    t.sums = last ? nullptr : memory.sums.data();
    t.norm = last ? j.norm : nullptr;
    rows([&](int64_t b, int64_t e) {
      if (sampled) return k.sample_colored_rows(t, b, e);
      if (!resized) return k.sample_rows(t, b, e);
      std::vector<float>& line = image_memory().line;  // of the thread of these rows
      line.resize(resize_scratch(t));
      k.sample_resized_rows(t, line.data(), b, e);
    });
    if (last) return;
    sampled = has_mean = true;
    std::fill(mean.begin(), mean.end(), 0.0);
    for (int64_t i = 0; i < p.oH * C; ++i) mean[i % C] += memory.sums[i];
    for (double& m : mean) m /= static_cast<double>(p.oH * p.oW);
  }
}

const char* declines(const Call& c) {
  const auto& p = c.as<AffineSampleParams>();
  if (!kernels()) return "isa is ref";
  if (p.stages && p.C != 1 && p.C != 3) return "colour stages of neither 1 nor 3 channels";
  const int64_t bytes = p.H * p.W * p.C * (c.in[0].dtype == DType::float32 ? 4 : 1);
  if (bytes < 4) return "images of less than a word";
  if (bytes >= INT32_MAX || p.oW >= kFarthest || p.oH >= kFarthest) return "images too large for int32 offsets";
  return nullptr;
}

void run(const Call& c) {
  const auto& p = c.as<AffineSampleParams>();
  if (p.N * p.oH * p.oW * p.C == 0) return;
  Job j;
  j.p = p, j.x = c.in[0].as<char>(), j.y = c.out[0].as<char>();
  j.matrix = c.in[1].as<float>(), j.fill = c.in[2].as<float>();
  size_t operand = 3;
  if (p.has_displacement) j.displacement = c.in[operand++].as<float>();
  if (p.stages) j.color = c.in[operand++].as<float>();
  if (p.has_norm) j.norm = c.in[operand].as<float>();
  j.x_float = c.in[0].dtype == DType::float32, j.y_float = c.out[0].dtype == DType::float32;
  std::vector<uint8_t> bytes(p.C);
  for (int64_t i = 0; i < p.C; ++i)
    bytes[i] = static_cast<uint8_t>(std::nearbyint(std::clamp(j.fill[i], 0.0f, 255.0f)));
  j.copied_fill = j.x_float ? static_cast<const void*>(j.fill) : bytes.data();
  const int64_t grain = std::max<int64_t>(1, 16 * 1024 / std::max<int64_t>(1, p.oW * p.C));  // rows
  if (p.N >= num_threads()) {
    parallel_for(p.N, ceil_div(grain, p.oH), [&](int64_t b, int64_t e, int) {
      for (int64_t n = b; n < e; ++n) {
        NextImage next(j, n + 1 < e ? n + 1 : n);
        run_image(j, n, [&](auto&& f) {
          for (int64_t oy = 0; oy < p.oH; oy += kStrip) {
            next.fetch(oy);
            f(oy, std::min(p.oH, oy + kStrip));
          }
        });
      }
    });
  } else {
    for (int64_t n = 0; n < p.N; ++n)
      run_image(j, n, [&](auto&& f) { parallel_for(p.oH, grain, [&](int64_t b, int64_t e, int) { f(b, e); }); });
  }
}

}  // namespace

List affine_sample_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, run},
                                        {"ref", nullptr, nullptr, ref::affine_sample}};
  return list;
}

}  // namespace fastcnn::cpu
