// What it is: batch normalisation on CUDA, forward, backward and inference: slices of rows, then one pass that
// applies; in packs where rows allow it and the activation is common, else element by element.
#include <algorithm>

#include "backend/cuda/kernels/batch_norm_packs.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

unsigned columns(int64_t C) { return ceil_div(C, kNormColumns); }
int slices_of(int64_t rows, int64_t C) {
  const int64_t wanted = C ? 512 / columns(C) : 1, most = rows / (4 * kNormRows);
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 256));
}
LaunchPlan over_slices(int64_t rows, int64_t C, size_t value) {
  return {dim3(columns(C), static_cast<unsigned>(slices_of(rows, C))), dim3(kNormColumns, kNormRows),
          kNormColumns * kNormRows * value};
}

// Blocks in packs: about `blocks` of them, each with as many tiles as any other.
struct PackPlan {
  RowTiles tiles;
  unsigned chunks = 1;
  int slices = 1;
  LaunchPlan launch(int values) const {  // values: of shared memory per thread
    return {dim3(chunks, static_cast<unsigned>(slices)), dim3(kPackThreads),
            static_cast<size_t>(values) * kPackThreads * sizeof(float)};
  }
};
PackPlan packs_of(int64_t rows, int64_t C, int64_t width, int unroll, int64_t blocks) {
  PackPlan p;
  RowTiles& t = p.tiles;
  t.rows = rows, t.packs = static_cast<int32_t>(C / width);
  // Up to 512 bytes of a row per block: more would leave the sums of few rows to each of many blocks.
  t.columns = t.packs <= 32 ? t.packs : static_cast<int32_t>((ceil_div(t.packs, ceil_div(t.packs, 32)) + 1) & ~1u);
  t.group = kPackThreads / t.columns;
  p.chunks = ceil_div(t.packs, t.columns);
  t.tiles = ceil_div(rows, int64_t{t.group} * unroll);
  const int64_t per_block = ceil_div(t.tiles * p.chunks, blocks);
  p.slices = static_cast<int>(std::min<int64_t>(ceil_div(t.tiles, per_block), 65535));
  return p;
}
// Sums fill 132 processors once, as each block leaves a part; what applies is cut finer: 12 is whole waves of 2,
// 3, 4 and 6 blocks per processor.
PackPlan moments_packs(int64_t rows, int64_t C, int64_t width) { return packs_of(rows, C, width, 4, 132 * 4); }
template <class T, SlopeFrom from>
PackPlan sums_packs(int64_t rows, int64_t C) {
  using S = SumsShape<T, from>;
  return packs_of(rows, C, Pack<T>::n, S::unroll, 132 * S::blocks);
}
constexpr int64_t kApplyBlocks = 132 * 12;

bool fill_packs(int64_t rows, int64_t C, int64_t width) {
  return rows > 0 && C > 0 && C % width == 0 && C <= INT32_MAX && rows <= (int64_t{1} << 32);
}
// The most slices that sums of this dtype take, whichever kernel runs.
int64_t most_slices(DType t, int64_t rows, int64_t C) {
  int64_t most = slices_of(rows, C);
  with_floating(t, "batch_norm", [&]<class T>() {
    if constexpr (!is_same<T, double>)
      if (fill_packs(rows, C, Pack<T>::n))
        most = std::max<int64_t>(
            {most, moments_packs(rows, C, Pack<T>::n).slices, sums_packs<T, SlopeFrom::none>(rows, C).slices,
             sums_packs<T, SlopeFrom::y>(rows, C).slices, sums_packs<T, SlopeFrom::x>(rows, C).slices});
  });
  return most;
}

// y from x, or false where only the scalar kernel does it.
template <class T, class R>
bool apply_in_packs(const BatchNormParams& p, const T* x, const R* mean, const R* spread, bool is_variance,
                    const R* gamma, const R* beta, const T* residual, T* y) {
  if constexpr (is_same<T, double>) {
    return false;
  } else {
    if (!fill_packs(p.rows, p.C, Pack<T>::n) || !aligned16({x, mean, spread, gamma, beta, residual, y}))
      return false;
    return with_common_act(p.act.act, [&]<Act A>() {
      auto run = [&]<bool has_residual>() {
        const PackPlan plan = packs_of(p.rows, p.C, Pack<T>::n, has_residual ? 2 : 4, kApplyBlocks);
        launch("bn_apply", plan.launch(0), bn_apply_packs<T, A, has_residual>, plan.tiles, x, mean, spread,
               is_variance, p.eps, gamma, beta, residual, ActOf<R>(p.act), y);
      };
      residual ? run.template operator()<true>() : run.template operator()<false>();
    });
  }
}
template <class T, class R>
void apply(const BatchNormParams& p, const T* x, const R* mean, const R* spread, bool is_variance, const R* gamma,
           const R* beta, const T* residual, T* y) {
  if (!apply_in_packs(p, x, mean, spread, is_variance, gamma, beta, residual, y))
    launch("bn_apply", for_elements(p.rows * p.C), bn_apply<T>, x, mean, spread, is_variance, p.eps, gamma, beta,
           residual, ActOf<R>(p.act), y, p.rows, p.C);
}

// parts of x; returns the number of slices.
template <class T, class R>
int moments(const BatchNormParams& p, const T* x, Moments<R>* parts) {
  if constexpr (!is_same<T, double>)
    if (fill_packs(p.rows, p.C, Pack<T>::n) && aligned16({x})) {
      const PackPlan plan = moments_packs(p.rows, p.C, Pack<T>::n);
      launch("bn_moments", plan.launch(1 + 2 * Pack<T>::n), bn_moments_packs<T>, plan.tiles, x, parts);
      return plan.slices;
    }
  launch("bn_moments", over_slices(p.rows, p.C, sizeof(Moments<R>)), bn_moments<T>, x, p.rows, p.C, parts);
  return slices_of(p.rows, p.C);
}

// f.template operator()<A, from>() where the backward pass in packs takes these operands.
template <class T, class F>
bool with_grad_packs(const BatchNormParams& p, const BnGrad<T>& g, F&& f) {
  if constexpr (is_same<T, double>) {
    return false;
  } else {
    if (!fill_packs(p.rows, p.C, Pack<T>::n) || !aligned16({g.dy, g.dy2, g.x, g.y, g.mean, g.affine}) ||
        (g.y && !act_bwd_uses_output(g.act.act)))
      return false;
    return with_common_act(g.act.act, [&]<Act A>() {
      if constexpr (A == Act::none)
        return f.template operator()<A, SlopeFrom::none>();
      else if (g.affine)
        return f.template operator()<A, SlopeFrom::x>();
      if constexpr (A == Act::relu || A == Act::relu6) f.template operator()<A, SlopeFrom::y>();
    });
  }
}

// Parameters, and statistics of a batch, have the real type of the values: ops widen 16-bit parameters before.
// Running statistics have any floating dtype.
bool all_real(const Call& c, size_t first_in, size_t end_in) {
  const DType want = c.in[0].dtype == DType::float64 ? DType::float64 : DType::float32;
  for (size_t k = first_in; k < end_in; ++k)
    if (c.in[k].dtype != want) return false;
  return true;
}
const char* stats_decline(const Call& c, size_t first_in, size_t end_in) {
  if (!all_real(c, first_in, end_in)) return "parameters or statistics of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}
const char* not_floating(std::span<const Operand> operands) {
  for (const Operand& o : operands)
    if (!is_floating(o.dtype)) return "dtype is not floating";
  return nullptr;
}
ChannelVectors vectors(std::span<const Operand> four) {
  ChannelVectors v;
  for (size_t k = 0; k < 4; ++k) v.p[k] = four[k].data, v.t[k] = four[k].dtype;
  return v;
}

const char* forward_declines(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.has_moments && c.in[c.in.size() - 1].dtype != DType::float64) return "moments of another dtype";
  return stats_decline(c, 1, 3);
}

int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.has_moments) return 0;
  const DType t = c.in[0].dtype;
  const size_t value = t == DType::float64 ? sizeof(Moments<double>) : sizeof(Moments<float>);
  return most_slices(t, p.rows, p.C) * p.C * static_cast<int64_t>(value);
}

void forward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm", [&]<class T>() {
    using R = Real<T>;
    const size_t at = p.stats_only ? 0 : 1;
    const NormStats<R> s{c.out[at].as<R>(), c.out[at + 1].as<R>(), p.has_affine ? c.out[at + 2].as<R>() : nullptr,
                         c.in[1].as<R>(), c.in[2].as<R>()};
    if (p.has_moments) {
      launch("bn_take_moments", for_elements(p.C), bn_take_moments<R>, c.in[c.in.size() - 1].as<double>(), p.C,
             p.eps, s);
    } else {
      auto* parts = static_cast<Moments<R>*>(c.workspace);
      const int slices = moments(p, c.in[0].as<T>(), parts);
      launch("bn_finish", finish_plan(slices, p.C, sizeof(Moments<R>)), bn_finish<R>, parts, slices, p.C, p.eps,
             s);
    }
    if (p.stats_only) return;
    apply<T, R>(p, c.in[0].as<T>(), s.mean, s.invstd, false, s.gamma, s.beta,
                p.has_residual ? c.in[3].as<T>() : nullptr, c.out[0].as<T>());
  });
}

// Vectors of other dtypes are widened first: a launch over C, and images keep their pass in packs.
int64_t infer_workspace(const Call& c) {
  const auto value = static_cast<int64_t>(c.in[0].dtype == DType::float64 ? sizeof(double) : sizeof(float));
  return all_real(c, 1, 5) ? 0 : 4 * c.as<BatchNormParams>().C * value;
}

void infer(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm_infer", [&]<class T>() {
    using R = Real<T>;
    const R* v[4];  // gamma, beta, mean, variance
    for (size_t k = 0; k < 4; ++k) v[k] = c.in[k + 1].as<R>();
    if (!all_real(c, 1, 5)) {
      auto* wide = static_cast<R*>(c.workspace);
      launch("bn_widen", for_elements(p.C), bn_widen<R>, vectors(c.in.subspan(1, 4)), p.C, wide);
      for (int k = 0; k < 4; ++k) v[k] = wide + k * p.C;
    }
    apply<T, R>(p, c.in[0].as<T>(), v[2], v[3], true, v[0], v[1], p.has_residual ? c.in[5].as<T>() : nullptr,
                c.out[0].as<T>());
  });
}
const char* infer_declines(const Call& c) { return not_floating(c.in); }

const char* backward_declines(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.coef_only && p.has_residual) return "coefficients beside a residual's gradient";
  return stats_decline(c, 2, 5);
}
int64_t backward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  const DType t = c.in[0].dtype;
  return (most_slices(t, p.rows, p.C) + 1) * 2 * p.C * (t == DType::float64 ? int64_t{8} : int64_t{4});
}

void backward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm_bwd", [&]<class T>() {
    using R = Real<T>;
    const bool act = p.act.act != Act::none;
    const Operand& last = c.in[c.in.size() - 1];
    BnGrad<T> g{c.in[0].as<T>(), p.has_dy2 ? last.as<T>() : nullptr,
                c.in[1].as<T>(), act && !p.has_affine ? c.in[5].as<T>() : nullptr,
                c.in[3].as<R>(), act && p.has_affine ? c.in[5].as<R>() : nullptr,
                ActOf<R>(p.act)};
    auto* coef = static_cast<R*>(c.workspace);
    R* parts = coef + 2 * p.C;
    const R *gamma = c.in[2].as<R>(), *invstd = c.in[4].as<R>();
    T *dx = p.coef_only ? nullptr : c.out[0].as<T>(), *dresidual = p.has_residual ? c.out[3].as<T>() : nullptr;

    // The residual's gradient is dz: made by the pass of sums, it is all that the other pass reads beside x.
    T* made = (g.dy2 || g.y) && aligned16({dresidual}) ? dresidual : nullptr;
    int slices = slices_of(p.rows, p.C);
    if (!p.has_sums && with_grad_packs(p, g, [&]<Act A, SlopeFrom from>() {
          const PackPlan plan = sums_packs<T, from>(p.rows, p.C);
          slices = plan.slices;
          launch("bn_bwd_sums", plan.launch(2 * Pack<T>::n), bn_bwd_sums_packs<T, A, from>, plan.tiles, g, parts,
                 made);
        })) {
      if (made) {
        g.dy = made, g.dy2 = g.y = nullptr, g.affine = nullptr, g.act.act = Act::none;
        dresidual = nullptr;
      }
    } else if (!p.has_sums) {
      launch("bn_bwd_sums", over_slices(p.rows, p.C, 2 * sizeof(R)), bn_bwd_sums<T>, g, p.rows, p.C, parts);
    }
    launch("bn_bwd_finish", finish_plan(p.has_sums ? 1 : slices, p.C, 2 * sizeof(R)), bn_bwd_finish<R>, parts,
           slices, p.rows, p.C, p.has_sums ? last.as<double>() : nullptr, p.coef_only ? gamma : nullptr, invstd,
           c.out[1].as<R>(), c.out[2].as<R>(), p.coef_only ? c.out[0].as<R>() : coef);
    if (p.coef_only) return;
    if (!aligned16({gamma, invstd, coef, dx, dresidual}) || !with_grad_packs(p, g, [&]<Act A, SlopeFrom from>() {
          const PackPlan plan = packs_of(p.rows, p.C, Pack<T>::n, 2, kApplyBlocks);
          launch("bn_bwd_apply", plan.launch(0), bn_bwd_apply_packs<T, A, from>, plan.tiles, g, gamma, invstd,
                 coef, dx, dresidual);
        }))
      launch("bn_bwd_apply", for_elements(p.rows * p.C), bn_bwd_apply<T>, g, gamma, invstd, coef, dx, dresidual,
             p.rows, p.C);
  });
}

template <int most>
void update_running(std::span<const Call> calls) {
  for (size_t i = 0; i < calls.size();) {
    RunningTable<most> table;
    for (; i < calls.size() && table.count < most; ++i) {
      const Call& c = calls[i];
      const auto& p = c.as<BnUpdateParams>();
      if (p.rows == 1)
        throw std::invalid_argument("batch_norm: expected more than 1 value per channel when training, got 1");
      if (p.C)
        table.add({vectors(c.in.first(4)), static_cast<int32_t>(p.C), c.out[0].data, c.out[1].data,
                   c.in.size() > 4 ? c.in[4].as<int64_t>() : nullptr, p.rows, p.eps, p.momentum},
                  ceil_div(p.C, kRunningChannels));
    }
    launch("bn_running", {dim3(static_cast<unsigned>(table.blocks)), dim3(kRunningChannels)}, bn_running<most>,
           table);
  }
}
void update_running_one(const Call& c) { update_running<1>({&c, 1}); }
bool any_join(const Call&, const Call&) { return true; }
void fold(const Call& c) {
  const auto& p = c.as<FoldParams>();
  const int64_t n = c.in[0].numel();
  with_floating(c.out[0].dtype, "fold_batch_norm", [&]<class T>() {
    launch("bn_fold", for_elements(std::max(n, p.C)), bn_fold<T>, p, n, c.in[0].as<T>(), c.in[1].as<T>(),
           c.in[2].as<T>(), c.in[3].as<T>(), c.in[4].as<T>(), p.has_bias ? c.in[5].as<T>() : nullptr,
           c.out[0].as<T>(), c.out[1].as<T>());
  });
}
const char* running_declines(const Call& c) {
  for (size_t k = 0; k < 2; ++k)
    if (c.out[k].dtype != c.in[k + 2].dtype) return "statistics change their dtype";
  return not_floating(c.in.first(4));
}

}  // namespace

List batch_norm_list() {
  static const Implementation list[] = {{"simt", forward_declines, forward_workspace, forward}};
  return list;
}
List batch_norm_bwd_list() {
  static const Implementation list[] = {{"simt", backward_declines, backward_workspace, backward}};
  return list;
}
List batch_norm_infer_list() {
  static const Implementation list[] = {{"simt", infer_declines, infer_workspace, infer}};
  return list;
}
List fold_batch_norm_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, fold}};
  return list;
}
List bn_update_running_list() {
  static const Implementation list[] = {{"simt", running_declines, nullptr, update_running_one, nullptr, nullptr,
                                         nullptr, update_running<kMostNorms>, any_join}};
  return list;
}

}  // namespace fastcnn::cuda
