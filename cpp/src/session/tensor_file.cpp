// See tensor_file.h.
#include "session/tensor_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <random>
#include <system_error>
#include <thread>
#include <unordered_map>

#include "fastcnn/ops.h"
#include "session/crc32.h"
#include "session/json.h"

namespace fastcnn {
namespace {

constexpr uint64_t kMostHeader = 100'000'000;  // the limit of the format's own reader
constexpr const char* kDTypes[kDTypeCount] = {"F32", "BF16", "F16", "F64", "I64", "I32", "U8", "I8", "BOOL"};

struct Descriptor {
  int fd = -1;
  explicit Descriptor(int f) : fd(f) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

std::system_error system_error(const std::string& path, const char* what) {
  return {errno, std::generic_category(), path + ": cannot " + what};
}

class FileSource final : public Source {
 public:
  // Not blocking: a pipe is refused below, where opening it would wait for a writer for ever.
  explicit FileSource(const std::string& path)
      : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (file_.fd < 0) throw system_error(path_, "open");
    struct stat s{};
    if (::fstat(file_.fd, &s)) throw system_error(path_, "read");
    check(S_ISREG(s.st_mode), path_, ": expected a file");
    size_ = static_cast<uint64_t>(s.st_size);
  }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, void* to, size_t bytes) const override {
    auto* p = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t n = ::pread(file_.fd, p, bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw system_error(path_, "read");
      check(n > 0, path_, ": ended while it was read");
      p += n, offset += static_cast<uint64_t>(n), bytes -= static_cast<size_t>(n);
    }
  }

 private:
  std::string path_;
  Descriptor file_;
  uint64_t size_ = 0;
};

class MemorySource final : public Source {
 public:
  MemorySource(const void* data, size_t bytes) : data_(static_cast<const char*>(data)), bytes_(bytes) {}
  uint64_t size() const override { return bytes_; }
  void read(uint64_t offset, void* to, size_t bytes) const override {
    check(offset <= bytes_ && bytes <= bytes_ - offset, "read: expected ", bytes, " bytes at ", offset, " of ",
          bytes_);
    if (bytes) std::memcpy(to, data_ + offset, bytes);
  }

 private:
  const char* data_;
  size_t bytes_;
};

template <class... A>
void whole(bool ok, const A&... why) {
  check(ok, "not a whole safetensors file: ", why...);
}

TensorFile::Entry read_entry(const std::string& name, const Json& info, uint64_t start, uint64_t size) {
  TensorFile::Entry e;
  e.name = name;
  const std::string& dtype = info.at("dtype", "tensor").as_string("dtype");
  const auto* found = std::find(std::begin(kDTypes), std::end(kDTypes), dtype);
  check(found != std::end(kDTypes), "tensor '", name, "' has dtype '", dtype, "', which fastcnn does not have");
  e.dtype = static_cast<DType>(found - std::begin(kDTypes));
  const Json::Array& shape = info.at("shape", "tensor").items("shape");
  whole(shape.size() <= kMaxDims, "tensor '", name, "' has ", shape.size(), " dimensions");
  for (const Json& d : shape) e.shape.push_back(d.as_int("shape"));
  const int64_t n = checked_numel("tensor", e.shape, e.dtype);
  e.bytes = static_cast<size_t>(n) * dtype_size(e.dtype);
  const Json::Array& offsets = info.at("data_offsets", "tensor").items("data_offsets");
  whole(offsets.size() == 2, "tensor '", name, "' has ", offsets.size(), " data_offsets");
  const int64_t begin = offsets[0].as_int("data_offsets"), end = offsets[1].as_int("data_offsets");
  whole(begin >= 0 && end >= begin && static_cast<uint64_t>(end) <= size, "tensor '", name, "' lies at ", begin,
        " to ", end, " of ", size, " bytes");
  whole(static_cast<uint64_t>(end - begin) == e.bytes, "tensor '", name, "' ", dtype, " ", e.shape, " needs ",
        e.bytes, " bytes, its offsets give ", end - begin);
  e.begin = start + static_cast<uint64_t>(begin);
  return e;
}

// Rows (outer, a, b) to (outer, b, a): O,I,kH*kW of files to O,kH*kW,I of memory, and back.
template <class T>
void swap_inner(const T* from, T* to, int64_t outer, int64_t a, int64_t b) {
  constexpr int64_t block = 16;
  for (int64_t o = 0; o < outer; ++o, from += a * b, to += a * b)
    for (int64_t i0 = 0; i0 < a; i0 += block)
      for (int64_t j = 0; j < b; ++j)
        for (int64_t i = i0; i < std::min(i0 + block, a); ++i) to[j * a + i] = from[i * b + j];
}
void swap_inner(const void* from, void* to, int64_t outer, int64_t a, int64_t b, size_t element) {
  auto run = [&]<class T>(T) { swap_inner(static_cast<const T*>(from), static_cast<T*>(to), outer, a, b); };
  switch (element) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    default: run(uint64_t{});
  }
}

// Is the row-major order another one than the order in memory?
bool reordered(const Dims& s) { return s.size() == 4 && s[1] > 1 && s[2] * s[3] > 1 && s.numel() > 0; }

uint32_t read_one(const Source& source, const TensorFile::Entry& e, const Tensor& t) {
  const bool swap = reordered(e.shape);
  std::vector<uint8_t> row_major(swap ? e.bytes : 0);
  uint8_t* to = swap ? row_major.data() : static_cast<uint8_t*>(t.data());
  constexpr size_t chunk = 1 << 19;  // read, checked and reordered while it is in the cache
  uint32_t crc = 0;
  for (size_t at = 0; at < e.bytes; at += chunk) {
    const size_t n = std::min(chunk, e.bytes - at);
    source.read(e.begin + at, to + at, n);
    crc = crc32(to + at, n, crc);
  }
  if (e.dtype == DType::bool_)
    for (size_t i = 0; i < e.bytes; ++i)
      check(to[i] <= 1, "tensor '", e.name, "' has BOOL bytes other than 0 and 1");
  if (swap) fill_row_major(t, to);
  return crc;
}

void write_all(int fd, const std::string& path, const void* data, size_t bytes) {
  const auto* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw system_error(path, "write");
    p += n, bytes -= static_cast<size_t>(n);
  }
}

// Where a link leads, and the mode of the file that is there (0: none): a rename over anything but a file would
// put a file in the place of a device or pipe.
std::pair<std::filesystem::path, mode_t> resolve_target(const std::string& path) {
  std::filesystem::path target(path);
  std::error_code no;
  for (int links = 0; std::filesystem::is_symlink(target, no); ++links) {
    if (links == 40) throw std::system_error(ELOOP, std::generic_category(), path + ": cannot write");
    const std::filesystem::path to = std::filesystem::read_symlink(target, no);
    if (no) throw std::system_error(no, path + ": cannot write");
    target = target.parent_path() / to;
  }
  struct stat s{};
  if (::stat(target.c_str(), &s)) return {target, 0};
  if (!S_ISREG(s.st_mode))
    throw std::system_error(S_ISDIR(s.st_mode) ? EISDIR : EINVAL, std::generic_category(),
                            path + ": cannot write: expected the path of a file, which this is not");
  return {target, s.st_mode & 0777};
}

}  // namespace

std::unique_ptr<Source> Source::file(const std::string& path) { return std::make_unique<FileSource>(path); }
std::unique_ptr<Source> Source::memory(const void* data, size_t bytes) {
  return std::make_unique<MemorySource>(data, bytes);
}

void fill_row_major(const Tensor& t, const void* row_major) {
  const Dims& s = t.shape();
  if (reordered(s))
    swap_inner(row_major, t.data(), s[0], s[1], s[2] * s[3], dtype_size(t.dtype()));
  else if (t.numel() > 0)
    std::memcpy(t.data(), row_major, static_cast<size_t>(t.numel()) * dtype_size(t.dtype()));
}

std::vector<uint8_t> row_major_bytes(const Tensor& given) {
  const Tensor t = contiguous(to_device(given.detach(), {}));
  const Dims& s = t.shape();
  std::vector<uint8_t> out(static_cast<size_t>(t.numel()) * dtype_size(t.dtype()));
  if (reordered(s))
    swap_inner(t.data(), out.data(), s[0], s[2] * s[3], s[1], dtype_size(t.dtype()));
  else if (!out.empty())
    std::memcpy(out.data(), t.data(), out.size());
  return out;
}

TensorFile read_header(const Source& source) {
  uint8_t head[8];
  whole(source.size() >= 8, "expected 8 bytes of header length, got ", source.size());
  source.read(0, head, 8);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | head[i];
  whole(length <= kMostHeader, "header length ", length, " is over the format's limit of ", kMostHeader);
  whole(length <= source.size() - 8, "header of ", length, " bytes, but only ", source.size() - 8, " follow");
  std::string text(length, '\0');
  source.read(8, text.data(), length);
  const Json header = Json::parse(text, 16);
  TensorFile file;
  const uint64_t start = 8 + length, size = source.size() - start;
  for (const auto& [name, info] : header.members("safetensors header")) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : info.members("metadata"))
        file.metadata.emplace_back(key, value.as_string("metadata"));
      continue;
    }
    file.entries.push_back(read_entry(name, info, start, size));
  }
  std::sort(file.entries.begin(), file.entries.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.bytes < b.bytes;
  });
  uint64_t at = start;
  for (const TensorFile::Entry& e : file.entries) {
    whole(e.begin == at, "tensor '", e.name, "' leaves a hole or overlaps another");
    at += e.bytes;
  }
  whole(at == source.size(), source.size() - at, " bytes belong to no tensor");
  return file;
}

std::vector<ReadTensor> read_tensors(const Source& source, const TensorFile& file, int threads) {
  std::vector<ReadTensor> out;
  for (const TensorFile::Entry& e : file.entries) out.push_back({{e.name, empty(e.shape, e.dtype)}, 0});
  std::vector<size_t> order(out.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return file.entries[a].bytes > file.entries[b].bytes; });
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  auto work = [&] {
    try {
      for (size_t i = next++; i < order.size(); i = next++)
        out[order[i]].crc = read_one(source, file.entries[order[i]], out[order[i]].named.tensor);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
      next = order.size();
    }
  };
  std::vector<std::thread> others;
  constexpr uint64_t worth_a_thread = 1 << 21;
  const auto most = static_cast<int>(std::min<uint64_t>(64, source.size() / worth_a_thread));
  try {
    for (int i = 1; i < std::min(threads, most); ++i) others.emplace_back(work);
  } catch (const std::system_error&) {  // the system gives no more threads: those that run do it
  }
  work();
  for (std::thread& t : others) t.join();
  if (error) std::rethrow_exception(error);
  return out;
}

void write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                   const std::vector<std::pair<std::string, std::string>>& metadata) {
  // Wide elements first: every tensor is then aligned for readers that map the file.
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t(0));
  auto width = [&](size_t i) { return dtype_size(tensors[i].tensor.dtype()); };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return width(a) > width(b); });
  Json header = Json::object(), extra = Json::object();
  for (const auto& [key, value] : metadata) extra.set(key, Json::string(value));
  header.set("__metadata__", std::move(extra));
  int64_t offset = 0;
  for (const size_t i : order) {
    const Tensor& t = tensors[i].tensor;
    check(tensors[i].name != "__metadata__", "save: '__metadata__' cannot be the name of a tensor");
    Json shape = Json::array();
    for (const int64_t d : t.shape()) shape.push(Json::integer(d));
    const int64_t end = offset + t.numel() * static_cast<int64_t>(width(i));
    Json info = Json::object();
    info.set("dtype", Json::string(kDTypes[static_cast<int>(t.dtype())]));
    info.set("shape", std::move(shape));
    info.set("data_offsets", Json::array({Json::integer(offset), Json::integer(end)}));
    header.set(tensors[i].name, std::move(info));
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  check(text.size() <= kMostHeader, "save: a header of ", text.size(), " bytes is over the format's limit of ",
        kMostHeader);

  const auto [target, mode] = resolve_target(path);
  const std::string folder = target.has_parent_path() ? target.parent_path().string() : ".";
  std::random_device random;
  const std::string temporary = (std::filesystem::path(folder) /
                                 concat(".", target.filename().string(), ".", ::getpid(), ".", random(), ".tmp"))
                                    .string();
  struct Remove {
    const std::string& path;
    bool done = false;
    ~Remove() {
      if (!done) ::unlink(path.c_str());
    }
  } remove{temporary};
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (file.fd < 0) throw system_error(path, "write");
    if (mode && ::fchmod(file.fd, mode)) throw system_error(path, "write");
    uint8_t head[8];
    for (int i = 0; i < 8; ++i) head[i] = static_cast<uint8_t>(text.size() >> (8 * i));
    write_all(file.fd, path, head, sizeof head);
    write_all(file.fd, path, text.data(), text.size());
    for (const size_t i : order) {
      const std::vector<uint8_t> bytes = row_major_bytes(tensors[i].tensor);
      write_all(file.fd, path, bytes.data(), bytes.size());
    }
    if (::fsync(file.fd)) throw system_error(path, "write");
  }
  if (::rename(temporary.c_str(), target.c_str())) throw system_error(path, "write");
  remove.done = true;
  const Descriptor dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.fd >= 0 && ::fsync(dir.fd)) throw system_error(folder, "sync");
}

}  // namespace fastcnn
