// What it is: the table of this ISA's kernels; the one symbol of the build that baseline code refers to.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

#define FASTCNN_STR2(x) #x
#define FASTCNN_STR(x) FASTCNN_STR2(x)

namespace fastcnn::cpu::FASTCNN_ISA {
extern const KernelTable table;
const KernelTable table = {FASTCNN_STR(FASTCNN_ISA), kLanes,
#define FASTCNN_KERNEL_ENTRY(name, ret, ...) &FASTCNN_ISA::name,
                           FASTCNN_KERNELS(FASTCNN_KERNEL_ENTRY)
#undef FASTCNN_KERNEL_ENTRY
};
}  // namespace fastcnn::cpu::FASTCNN_ISA
