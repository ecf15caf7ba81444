// See fastcnn/tensor.h and core/tensor_impl.h.
#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "backend/backend.h"
#include "fastcnn/runtime.h"
#include "core/tensor_impl.h"
#include "graph/tape.h"

namespace fastcnn {

std::ostream& operator<<(std::ostream& s, const Dims& d) {
  s << '(';
  for (int i = 0; i < d.size(); ++i) s << (i ? ", " : "") << d[i];
  return s << (d.size() == 1 ? ",)" : ")");
}
std::ostream& operator<<(std::ostream& s, DType t) {
  const int i = static_cast<int>(t);  // callers can make up any, and messages name what they made up
  return i < kDTypeCount ? s << dtype_name(t) : s << "dtype number " << i;
}
std::ostream& operator<<(std::ostream& s, const Device& d) {
  if (d.type == DeviceType::cpu) return s << "cpu";
  return s << "cuda:" << d.index;
}

Device parse_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name.rfind("cuda", 0) == 0) {
    int index = 0;
    if (name.size() > 4) {
      char* end = nullptr;
      index = name[4] == ':' ? static_cast<int>(std::strtol(name.c_str() + 5, &end, 10)) : -1;
      if (name[4] != ':' || !end || *end || end == name.c_str() + 5) index = -1;
    }
    if (index >= 0) {
      check(cuda_device_count() > 0, "device: got '", name,
            "', but no CUDA device can be used here: ", cuda_unavailable_reason());
      check(index < cuda_device_count(), "device: expected one of the ", cuda_device_count(), " CUDA devices (",
            cuda_build(), "), got '", name, "'");
      return {DeviceType::cuda, index};
    }
  }
  throw ValueError("device: expected 'cpu', 'cuda' or 'cuda:N', got '" + name + "'");
}

Dims canonical_strides(const Dims& shape) {
  Dims s(shape.size(), 1);
  if (shape.size() == 4) {
    s[1] = 1;
    s[3] = shape[1];
    s[2] = shape[3] * s[3];
    s[0] = shape[2] * s[2];
  } else {
    for (int i = shape.size() - 2; i >= 0; --i) s[i] = s[i + 1] * shape[i + 1];
  }
  return s;
}

int64_t checked_numel(const char* op, const Dims& shape, DType dtype) {
  check<TypeError>(static_cast<int>(dtype) < kDTypeCount, op, ": expected a DType, got number ",
                   static_cast<int>(dtype));
  int64_t n = 1, limit = INT64_MAX / static_cast<int64_t>(dtype_size(dtype));
  bool zero = false;
  for (int64_t d : shape) {
    check(d >= 0, op, ": expected sizes >= 0, got shape ", shape);
    zero |= d == 0;
    if (d == 0) continue;
    check(n <= limit / d, op, ": shape ", shape, " has more elements than int64 can count");
    n *= d;
  }
  return zero ? 0 : n;
}

namespace {
std::atomic<uint64_t> storages{0};
}
uint64_t storages_born() { return storages.load(std::memory_order_relaxed); }
StorageImpl::StorageImpl() : born(storages.fetch_add(1, std::memory_order_relaxed)) {}
StorageImpl::~StorageImpl() {
  if (owner || !data) return;
  Backend* b = device.type == DeviceType::cpu ? &cpu_backend() : cuda_backend();
  if (b) b->deallocate(data, bytes);
}

TensorImpl::~TensorImpl() {
  if (producer) release_tape(std::move(producer));
}

namespace {
// Memory comes from here alone: devices that C++ callers made up end here.
Backend& checked_backend(Device device) {
  if (device.type == DeviceType::cpu) {
    check(device.index == 0, "device: expected the CPU as index 0, got ", device.index);
    return cpu_backend();
  }
  Backend* b = device.type == DeviceType::cuda ? cuda_backend() : nullptr;
  check(b && device.index >= 0 && device.index < cuda_device_count(), "device: expected one of the ",
        cuda_device_count(), " CUDA devices (", cuda_build(), "), got ", device);
  return *b;
}
}  // namespace

Storage allocate_storage(size_t bytes, Device device) {
  auto s = std::make_shared<StorageImpl>();
  Backend& b = checked_backend(device);
  s->device = device;
  s->data = b.allocate(bytes);
  s->bytes = bytes;
  return s;
}

Storage upload_storage(const void* host, size_t bytes, Device device) {
  auto s = std::make_shared<StorageImpl>();
  Backend& b = checked_backend(device);
  s->device = device;
  s->data = b.upload(host, bytes);
  s->bytes = bytes;
  return s;
}

Tensor make_tensor(Storage storage, const Dims& shape, const Dims& strides, int64_t offset, DType dtype) {
  auto t = std::make_shared<TensorImpl>();
  t->storage = std::move(storage);
  t->shape = shape;
  t->strides = strides;
  t->offset = offset;
  t->dtype = dtype;
  return Tensor(std::move(t));
}

Tensor make_view(const Tensor& base, const Dims& shape, const Dims& strides, int64_t offset) {
  return make_tensor(base.impl()->storage, shape, strides, offset, base.dtype());
}

namespace {
const TensorImpl& get(const Tensor& t) {
  check(t.defined(), "tensor: this handle is empty");
  return *t.impl();
}
}  // namespace

const Dims& Tensor::shape() const { return get(*this).shape; }
const Dims& Tensor::strides() const { return get(*this).strides; }
int64_t Tensor::offset() const { return get(*this).offset; }
DType Tensor::dtype() const { return get(*this).dtype; }
Device Tensor::device() const { return get(*this).storage->device; }
bool Tensor::is_symbolic() const { return get(*this).storage->trace != 0; }
int64_t Tensor::numel() const { return shape().numel(); }

int64_t Tensor::size(int dim) const {
  int n = ndim(), d = dim < 0 ? dim + n : dim;
  check<IndexError>(d >= 0 && d < n, "size: expected a dim in [", -n, ", ", n, ") for shape ", shape(), ", got ",
                    dim);
  return shape()[d];
}

bool Tensor::overlaps() const {
  if (numel() == 0) return false;
  for (int d = 0; d < ndim(); ++d)
    if (shape()[d] > 1 && strides()[d] == 0) return true;
  return false;
}

bool Tensor::is_part() const {
  return static_cast<size_t>(numel()) * dtype_size(dtype()) < get(*this).storage->bytes;
}

bool Tensor::is_contiguous() const {
  const TensorImpl& t = get(*this);
  Dims want = canonical_strides(t.shape);
  if (t.shape.numel() == 0) return true;
  for (int i = 0; i < want.size(); ++i)
    if (t.shape[i] != 1 && t.strides[i] != want[i]) return false;
  return true;
}

void* Tensor::data() const {
  const TensorImpl& t = get(*this);
  check(t.storage->trace == 0, "tensor: its values are not known while compile traces the function (shape ",
        t.shape, "); move item(), numpy() and tests on values out of the compiled function");
  return static_cast<char*>(t.storage->data) + t.offset * static_cast<int64_t>(dtype_size(t.dtype));
}

void Tensor::check_dtype(DType wanted) const {
  const TensorImpl& t = get(*this);
  check<TypeError>(t.dtype == wanted, "data: expected a tensor of dtype ", wanted,
                   " for numbers of that type, got ", t.dtype, " (shape ", t.shape, ")");
}

double Tensor::item() const {
  check(numel() == 1, "item: expected a tensor with one element, got shape ", shape());
  const void* p = data();
  alignas(8) unsigned char here[8];
  if (device().type == DeviceType::cuda) {
    cuda_backend()->copy(here, p, dtype_size(dtype()), Copy::out);
    p = here;
  }
  switch (dtype()) {
    case DType::float32: return *static_cast<const float*>(p);
    case DType::float64: return *static_cast<const double*>(p);
    case DType::bfloat16: return static_cast<float>(*static_cast<const bfloat16*>(p));
    case DType::float16: return static_cast<float>(*static_cast<const float16*>(p));
    case DType::int64: return static_cast<double>(*static_cast<const int64_t*>(p));
    case DType::int32: return *static_cast<const int32_t*>(p);
    case DType::uint8: return *static_cast<const uint8_t*>(p);
    case DType::int8: return *static_cast<const int8_t*>(p);
    case DType::bool_: return *static_cast<const bool*>(p);
  }
  return 0;
}

bool Tensor::requires_grad() const { return get(*this).requires_grad || get(*this).producer; }
bool Tensor::is_leaf() const { return !get(*this).producer; }

Tensor& Tensor::set_requires_grad(bool on) {
  check<TypeError>(!on || is_floating(dtype()), "requires_grad: expected a floating dtype, got ", dtype());
  check(on || is_leaf(), "requires_grad: only leaves can stop requiring gradients; use detach()");
  if (is_leaf()) impl_->requires_grad = on;
  return *this;
}

Tensor Tensor::detach() const { return make_view(*this, shape(), strides(), offset()); }

Tensor empty(const Dims& shape, DType dtype, Device device) {
  int64_t n = checked_numel("empty", shape, dtype);
  return make_tensor(allocate_storage(static_cast<size_t>(n) * dtype_size(dtype), device), shape,
                     canonical_strides(shape), 0, dtype);
}

Tensor from_blob(void* data, const Dims& shape, const Dims& strides, DType dtype, std::shared_ptr<void> owner,
                 Device device) {
  check(shape.size() == strides.size(), "from_blob: expected as many strides as sizes, got ", strides, " for ",
        shape);
  const int64_t n = checked_numel("from_blob", shape, dtype);
  check(data != nullptr || n == 0, "from_blob: expected memory of shape ", shape, ", got a null pointer");
  auto s = std::make_shared<StorageImpl>();
  s->data = data;
  int64_t reach =
      n > 0;  // elements up to the last one; those before the first, of negative strides, are not counted
  for (int d = 0; d < shape.size(); ++d) reach += n > 0 ? std::max<int64_t>(0, (shape[d] - 1) * strides[d]) : 0;
  s->bytes = static_cast<size_t>(reach) * dtype_size(dtype);
  s->exports = 1;  // its owner may write it for ever
  s->device = device;
  s->owner = owner ? std::move(owner) : std::shared_ptr<void>(data, [](void*) {});
  return make_tensor(std::move(s), shape, strides, 0, dtype);
}

}  // namespace fastcnn
