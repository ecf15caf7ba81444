// What it is: the table of this ISA's kernels; the one symbol of the build that baseline code refers to.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

#define FASTCNN_STR2(x) #x
#define FASTCNN_STR(x) FASTCNN_STR2(x)

namespace fastcnn::cpu::FASTCNN_ISA {
extern const KernelTable table;
const KernelTable table = {FASTCNN_STR(FASTCNN_ISA), kLanes,
#define FASTCNN_OWN_ENTRY(name, ret, ...) &FASTCNN_ISA::name,
#define FASTCNN_SHARED_ENTRY(name, ret, ...) &FASTCNN_SHARED_ISA::name,
                           FASTCNN_KERNELS_OWN(FASTCNN_OWN_ENTRY) FASTCNN_KERNELS_SHARED(FASTCNN_SHARED_ENTRY)};
}  // namespace fastcnn::cpu::FASTCNN_ISA
