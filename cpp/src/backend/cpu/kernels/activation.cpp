// What it is: activation and its derivatives over flat arrays of float32 or bfloat16, in float32. begin and end
// count elements; begin is a multiple of 16.
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kUnroll = 4;

template <Act A, class T>
FASTCNN_OP void fwd_loop(const ActParams& p, const T* x, T* y, int64_t begin, int64_t end, bool nt) {
  const float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  int64_t i = begin;
  if (nt) {
    for (; i + kLanes <= end; i += kLanes) stream(y + i, act_fwd<A>(load(x + i), alpha, beta));
    fence();
  } else {
    for (; i + kUnroll * kLanes <= end; i += kUnroll * kLanes)
      for (int u = 0; u < kUnroll; ++u)
        store(y + i + u * kLanes, act_fwd<A>(load(x + i + u * kLanes), alpha, beta));
    for (; i + kLanes <= end; i += kLanes) store(y + i, act_fwd<A>(load(x + i), alpha, beta));
  }
  if (i < end) {
    int n = static_cast<int>(end - i);
    storen(y + i, act_fwd<A>(loadn(x + i, n), alpha, beta), n);
  }
}

template <Act A, class T>
FASTCNN_OP void bwd_loop(const ActParams& p, const T* dy, const T* r, T* dx, int64_t begin, int64_t end, bool nt) {
  const float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  int64_t i = begin;
  if (nt) {
    for (; i + kLanes <= end; i += kLanes) stream(dx + i, act_grad<A>(load(dy + i), load(r + i), alpha, beta));
    fence();
  } else {
    for (; i + kLanes <= end; i += kLanes) store(dx + i, act_grad<A>(load(dy + i), load(r + i), alpha, beta));
  }
  if (i < end) {
    int n = static_cast<int>(end - i);
    storen(dx + i, act_grad<A>(loadn(dy + i, n), loadn(r + i, n), alpha, beta), n);
  }
}

template <Act A>
FASTCNN_OP void bwd2_loop(const ActParams& p, const float* g, const float* dy, const float* r, float* out,
                          int64_t begin, int64_t end) {
  const float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  for (int64_t i = begin; i < end; i += kLanes) {
    int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    vf v = mul(mul(loadn(g + i, n), loadn(dy + i, n)), act_second<A>(loadn(r + i, n), alpha, beta));
    storen(out + i, v, n);
  }
}

}  // namespace

#define FASTCNN_ACT_CASE(a) \
  case Act::a: return FASTCNN_ACT_LOOP(Act::a);

template <class T>
static void forward(const ActParams* p, const T* x, T* y, int64_t begin, int64_t end, int nt) {
#define FASTCNN_ACT_LOOP(a) fwd_loop<a>(*p, x, y, begin, end, nt != 0)
  switch (p->act) {
    FASTCNN_ACTS(FASTCNN_ACT_CASE)
    default: return;
  }
#undef FASTCNN_ACT_LOOP
}

template <class T>
static void backward(const ActParams* p, const T* dy, const T* r, T* dx, int64_t begin, int64_t end, int nt) {
#define FASTCNN_ACT_LOOP(a) bwd_loop<a>(*p, dy, r, dx, begin, end, nt != 0)
  switch (p->act) {
    FASTCNN_ACTS(FASTCNN_ACT_CASE)
    default: return;
  }
#undef FASTCNN_ACT_LOOP
}

void act_forward_bf16(const ActParams* p, const bfloat16* x, bfloat16* y, int64_t begin, int64_t end, int nt) {
  forward(p, x, y, begin, end, nt);
}
void act_backward_bf16(const ActParams* p, const bfloat16* dy, const bfloat16* r, bfloat16* dx, int64_t begin,
                       int64_t end, int nt) {
  backward(p, dy, r, dx, begin, end, nt);
}

#if FASTCNN_SHARED_HERE
void act_forward(const ActParams* p, const float* x, float* y, int64_t begin, int64_t end, int nt) {
  forward(p, x, y, begin, end, nt);
}
void act_backward(const ActParams* p, const float* dy, const float* r, float* dx, int64_t begin, int64_t end,
                  int nt) {
  backward(p, dy, r, dx, begin, end, nt);
}

void act_backward2(const ActParams* p, const float* g, const float* dy, const float* r, float* out, int64_t begin,
                   int64_t end) {
#define FASTCNN_ACT_LOOP(a) bwd2_loop<a>(*p, g, dy, r, out, begin, end)
  switch (p->act) {
    FASTCNN_ACTS(FASTCNN_ACT_CASE)
    default: return;
  }
#undef FASTCNN_ACT_LOOP
}
#endif

#undef FASTCNN_ACT_CASE

}  // namespace fastcnn::cpu::FASTCNN_ISA
