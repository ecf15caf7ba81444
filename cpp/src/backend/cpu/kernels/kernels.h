// What it is: the list of optimised CPU kernels and the table that one ISA build fills with their addresses.
// What it is not: no choice is made here (backend/cpu/*.cpp lists choose) and no thread is started here: a kernel
// works on the range [begin, end) of its work items that the caller hands it, so any split gives the same numbers.
// To add a kernel: one line in a list_*.h, one function of that name in a file of this folder, inside namespace
// FASTCNN_ISA.
#pragma once
#include <stdint.h>

#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

#include "backend/cpu/kernels/columns_args.h"
#include "backend/cpu/kernels/depthwise_args.h"
#include "backend/cpu/kernels/few_args.h"
#include "backend/cpu/kernels/group_lanes_args.h"
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/planes_args.h"
#include "backend/cpu/kernels/winograd_args.h"
#include "backend/cpu/kernels/winograd2x2_args.h"

// X(name, return type, arguments…). Kernels that use products of bfloat16 pairs or of bytes, or convert to
// bfloat16:
#define FASTCNN_KERNELS_OWN(X) \
  FASTCNN_KERNELS_CONV_BF16(X) \
  FASTCNN_KERNELS_GEMM_BF16(X) \
  FASTCNN_KERNELS_NORM_BF16(X) \
  FASTCNN_KERNELS_POOL_BF16(X) \
  FASTCNN_KERNELS_PEAK(X)      \
  FASTCNN_KERNELS_QUANTIZED(X)
// Others: avx512bf16 takes those of avx512, which come out the same. Files of these alone are left out there
// (CMakeLists.txt, FASTCNN_SHARED_KERNELS); files of both have them under #if FASTCNN_SHARED_HERE.
#define FASTCNN_KERNELS_SHARED(X) \
  FASTCNN_KERNELS_CONV(X)         \
  FASTCNN_KERNELS_GEMM(X)         \
  FASTCNN_KERNELS_NORM(X)         \
  FASTCNN_KERNELS_POOL(X)         \
  FASTCNN_KERNELS_DEPTHWISE(X)    \
  FASTCNN_KERNELS_WINOGRAD(X)     \
  FASTCNN_KERNELS_ELEMENTWISE(X)  \
  FASTCNN_KERNELS_OPTIM(X)        \
  FASTCNN_KERNELS_SAMPLE(X)       \
  FASTCNN_KERNELS_BOXES(X)        \
  FASTCNN_KERNELS_CAPSULE(X)
#define FASTCNN_KERNELS(X) \
  FASTCNN_KERNELS_OWN(X)   \
  FASTCNN_KERNELS_SHARED(X)

#include "backend/cpu/kernels/list_boxes.h"
#include "backend/cpu/kernels/list_capsule.h"
#include "backend/cpu/kernels/list_conv.h"
#include "backend/cpu/kernels/list_depthwise.h"
#include "backend/cpu/kernels/list_elementwise.h"
#include "backend/cpu/kernels/list_gemm.h"
#include "backend/cpu/kernels/list_norm.h"
#include "backend/cpu/kernels/list_optim.h"
#include "backend/cpu/kernels/list_peak.h"
#include "backend/cpu/kernels/list_pool.h"
#include "backend/cpu/kernels/list_quantized.h"
#include "backend/cpu/kernels/list_sample.h"
#include "backend/cpu/kernels/list_winograd.h"

namespace fastcnn::cpu {

struct KernelTable {
  const char* isa;    // "portable", "avx2", "avx512", "avx512bf16"
  int vector_floats;  // float lanes of one vector
#define FASTCNN_KERNEL_FIELD(name, ret, ...) ret (*name)(__VA_ARGS__);
  FASTCNN_KERNELS(FASTCNN_KERNEL_FIELD)
#undef FASTCNN_KERNEL_FIELD
};

}  // namespace fastcnn::cpu

#ifdef FASTCNN_ISA
#ifdef FASTCNN_SHARED_ISA
#define FASTCNN_SHARED_HERE 0
#else
#define FASTCNN_SHARED_ISA FASTCNN_ISA
#define FASTCNN_SHARED_HERE 1
#endif
#define FASTCNN_KERNEL_DECL(name, ret, ...) ret name(__VA_ARGS__);
namespace fastcnn::cpu::FASTCNN_ISA {
FASTCNN_KERNELS_OWN(FASTCNN_KERNEL_DECL)
}
namespace fastcnn::cpu::FASTCNN_SHARED_ISA {
FASTCNN_KERNELS_SHARED(FASTCNN_KERNEL_DECL)
}
#undef FASTCNN_KERNEL_DECL
#endif
