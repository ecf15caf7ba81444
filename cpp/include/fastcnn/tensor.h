// What it is: Dims, Device and Tensor, a counted handle to a strided view of a storage, with its place in
// autograd. What it is not: no arithmetic (ops.h) and no gradient engine (autograd.h). Canonical layout
// ("contiguous"): 4-D tensors are channels-last, logical (N,C,H,W) lies in memory as N,H,W,C; tensors of other
// ranks are row-major.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <span>
#include <type_traits>
#include <vector>

#include "fastcnn/dtype.h"
#include "fastcnn/error.h"

namespace fastcnn {

// Up to kMaxDims integers inline: shapes, strides, lists of dims.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> v) { assign(v.begin(), v.end()); }
  explicit Dims(std::span<const int64_t> v) { assign(v.begin(), v.end()); }
  Dims(int n, int64_t value) {
    for (int i = 0; i < n; ++i) push_back(value);
  }
  int size() const { return n_; }
  bool empty() const { return n_ == 0; }
  int64_t& operator[](int i) { return v_[i]; }
  int64_t operator[](int i) const { return v_[i]; }
  int64_t* begin() { return v_; }
  int64_t* end() { return v_ + n_; }
  const int64_t* begin() const { return v_; }
  const int64_t* end() const { return v_ + n_; }
  int64_t back() const { return v_[n_ - 1]; }
  void push_back(int64_t x) {
    check(n_ < kMaxDims, "expected at most ", kMaxDims, " dimensions");
    v_[n_++] = x;
  }
  void insert(int at, int64_t x) {
    push_back(0);
    for (int i = n_ - 1; i > at; --i) v_[i] = v_[i - 1];
    v_[at] = x;
  }
  void erase(int at) {
    for (int i = at; i + 1 < n_; ++i) v_[i] = v_[i + 1];
    v_[--n_] = 0;
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d : *this) n *= d;
    return n;
  }
  friend bool operator==(const Dims& a, const Dims& b) {
    if (a.n_ != b.n_) return false;
    for (int i = 0; i < a.n_; ++i)
      if (a.v_[i] != b.v_[i]) return false;
    return true;
  }

 private:
  template <class It>
  void assign(It b, It e) {
    for (; b != e; ++b) push_back(*b);
  }
  int n_ = 0;
  int64_t v_[kMaxDims] = {};
};

// Prints as Python does: (8, 64, 56, 56), (5,), ().
FASTCNN_API std::ostream& operator<<(std::ostream& s, const Dims& d);
FASTCNN_API std::ostream& operator<<(std::ostream& s, DType t);

enum class DeviceType : uint8_t { cpu, cuda };
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};
FASTCNN_API std::ostream& operator<<(std::ostream& s, const Device& d);
FASTCNN_API Device parse_device(const std::string& name);  // "cpu", "cuda", "cuda:1"

// Strides of the canonical layout of a shape.
FASTCNN_API Dims canonical_strides(const Dims& shape);
// Number of elements; throws ValueError on negative sizes and where it, or the bytes, would overflow int64.
FASTCNN_API int64_t checked_numel(const char* op, const Dims& shape, DType dtype);

struct TensorImpl;
struct StorageImpl;

class FASTCNN_API Tensor {
 public:
  Tensor() = default;
  explicit Tensor(std::shared_ptr<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const { return impl_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Dims& shape() const;
  const Dims& strides() const;  // in elements
  int64_t offset() const;       // of the first element in the storage, in elements
  int ndim() const { return shape().size(); }
  int64_t size(int dim) const;  // negative counts from the end
  int64_t numel() const;
  DType dtype() const;
  Device device() const;
  bool is_contiguous() const;  // canonical layout, dense
  bool overlaps() const;       // elements share memory, as in an expanded tensor
  bool is_part() const;        // a view that leaves out elements of its memory
  bool is_symbolic() const;    // being traced by compile: it has no memory

  void* data() const;  // first element; ValueError while symbolic
  // The same as numbers: TypeError where the dtype is not that of float, double, int64_t, int32_t or bool. Other T
  // (bytes, halves as uint16_t) are taken as they are.
  template <class T>
  T* data() const {
    using N = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<N, float>) check_dtype(DType::float32);
    if constexpr (std::is_same_v<N, double>) check_dtype(DType::float64);
    if constexpr (std::is_same_v<N, int64_t>) check_dtype(DType::int64);
    if constexpr (std::is_same_v<N, int32_t>) check_dtype(DType::int32);
    if constexpr (std::is_same_v<N, bool>) check_dtype(DType::bool_);
    return static_cast<T*>(data());
  }
  double item() const;  // the one element of the tensor as a number

  bool requires_grad() const;
  Tensor& set_requires_grad(bool on = true);  // ValueError for non-floating dtypes
  bool is_leaf() const;
  Tensor grad() const;  // undefined when there is none
  void set_grad(Tensor g) const;
  void backward(const Tensor& grad = {}) const;  // gradients of all leaves are added to their grad()
  Tensor detach() const;                         // same memory, no history

  const std::shared_ptr<TensorImpl>& impl() const { return impl_; }

 private:
  void check_dtype(DType wanted) const;
  std::shared_ptr<TensorImpl> impl_;
};

// Uninitialised tensor in canonical layout.
FASTCNN_API Tensor empty(const Dims& shape, DType dtype = DType::float32, Device device = {});
// A tensor over memory of somebody else; `owner` is kept alive as long as the memory is in use.
FASTCNN_API Tensor from_blob(void* data, const Dims& shape, const Dims& strides, DType dtype,
                             std::shared_ptr<void> owner = {}, Device device = {});

}  // namespace fastcnn
