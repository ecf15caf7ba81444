// What it is: which ISAs this build holds, which the machine can run, and the kernel table in use.
// FASTCNN_ISA=ref|portable|avx2|avx512|avx512bf16 lowers the choice; "ref" leaves only the naive references.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu {

const KernelTable* kernels();               // the table in use; nullptr when only references are allowed
std::string isa_name();                     // "ref", "portable", "avx2", "avx512", "avx512bf16"
bool has_bf16_products();                   // one instruction multiplies pairs of bfloat16
bool products_are_cheap();                  // Intel's AVX-512: two 512-bit ones in a cycle, beside slow caches
std::vector<std::string> available_isas();  // that this build holds and this machine runs, best first, then "ref"
void set_isa(const std::string& name);      // throws std::invalid_argument with the available names

}  // namespace fastcnn::cpu
