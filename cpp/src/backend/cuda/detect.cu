// What it is: box_iou, nms, roi_align and its gradient on CUDA.
#include "backend/cuda/kernels/detect.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

constexpr int kNmsThreads = 512;

// f.template operator()<W>() for boxes of float32 or float64.
template <class F>
void by_box_type(const Operand& boxes, F&& f) {
  boxes.dtype == DType::float64 ? f.template operator()<double>() : f.template operator()<float>();
}

void box_iou(const Call& c) {
  const auto& p = c.as<BoxIouParams>();
  by_box_type(c.in[0], [&]<class W>() {
    launch("box_iou", for_elements(p.N * p.M), iou_kernel<W>, c.in[0].as<W>(), c.in[1].as<W>(), c.out[0].as<W>(),
           p.M, p.N * p.M);
  });
}

const char* nms_declines(const Call& c) {
  return c.as<NmsParams>().N >= INT32_MAX ? "more boxes than int32 counts" : nullptr;
}
int64_t nms_workspace(const Call& c) { return c.as<NmsParams>().N * 5; }
void nms(const Call& c) {
  const auto& p = c.as<NmsParams>();
  auto* order = static_cast<int32_t*>(c.workspace);
  auto* out = reinterpret_cast<uint8_t*>(order + p.N);
  if (p.N) rt::zero(out, static_cast<size_t>(p.N));
  by_box_type(c.in[0], [&]<class W>() {
    launch("nms_rank", for_elements(p.N), nms_rank<W>, c.in[1].as<W>(), order, p.N);
    launch("nms_greedy", {dim3(1), dim3(kNmsThreads)}, nms_greedy<W>, p, c.in[0].as<W>(),
           p.has_groups ? c.in[2].as<int64_t>() : nullptr, order, out, c.out[0].as<int64_t>(),
           c.out[1].as<int64_t>());
  });
}

const char* roi_declines(const Call& c) {
  if (c.in[0].dtype != c.out[0].dtype) return "two dtypes";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}
template <bool back>
void roi(const Call& c) {
  const auto& p = c.as<RoiAlignParams>();
  const int64_t n = c.out[0].numel();
  with_floating(c.in[0].dtype, "roi_align", [&]<class T>() {
    by_box_type(c.in[1], [&]<class W>() {
      launch("roi_align", for_elements(n), back ? roi_bwd_kernel<T, W> : roi_kernel<T, W>, p,
             static_cast<int32_t>(c.kind), rt::error_record(), c.in[0].as<T>(), c.in[1].as<W>(), c.out[0].as<T>(),
             n);
    });
  });
}

}  // namespace

List box_iou_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, box_iou}};
  return list;
}
List nms_list() {
  static const Implementation list[] = {{"simt", nms_declines, nms_workspace, nms}};
  return list;
}
List roi_align_list() {
  static const Implementation list[] = {{"simt", roi_declines, nullptr, roi<false>}};
  return list;
}
List roi_align_bwd_list() {
  static const Implementation list[] = {{"simt", roi_declines, nullptr, roi<true>}};
  return list;
}

}  // namespace fastcnn::cuda
