// What it is: reading and writing the last, partial vector of a row.
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

FASTCNN_OP int lanes_at(int64_t i, int64_t n) { return static_cast<int>(n - i < kLanes ? n - i : kLanes); }

template <class T>
FASTCNN_OP vf get(const T* p, int n) {
  return n == kLanes ? load(p) : loadn(p, n);
}
template <class T>
FASTCNN_OP void put(T* p, vf v, int n) {
  if (n == kLanes)
    store(p, v);
  else
    storen(p, v, n);
}

template <class T>
FASTCNN_OP void put(T* p, vf v, int n, bool nt) {
  if (nt && n == kLanes)
    stream(p, v);
  else
    put(p, v, n);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
