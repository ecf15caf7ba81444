// What it is: a safetensors file as the library reads and writes it: header checked to the last bound before
// anything is allocated, tensors read by several threads with their CRC-32. Values of a file are row-major in
// logical order; 4-D tensors become channels-last on the way. What it is not: graphs (session.cpp).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "fastcnn/session.h"

namespace fastcnn {

// Bytes at offsets, from a file or from memory.
class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t size() const = 0;
  virtual void read(uint64_t offset, void* to, size_t bytes) const = 0;
  static std::unique_ptr<Source> file(const std::string& path);
  static std::unique_ptr<Source> memory(const void* data, size_t bytes);
};

struct TensorFile {
  struct Entry {
    std::string name;
    DType dtype = DType::float32;
    Dims shape;
    uint64_t begin = 0;  // in the source
    size_t bytes = 0;
  };
  std::vector<Entry> entries;  // by place; without holes or overlaps
  std::vector<std::pair<std::string, std::string>> metadata;
};

// ValueError for anything but a whole safetensors file.
TensorFile read_header(const Source& source);

struct ReadTensor {
  NamedTensor named;
  uint32_t crc = 0;  // of its bytes in the file
};
std::vector<ReadTensor> read_tensors(const Source& source, const TensorFile& file, int threads);

std::vector<uint8_t> row_major_bytes(const Tensor& t);  // logical order, on the host
void fill_row_major(const Tensor& t, const void* row_major);

// Writes beside the path, syncs and renames: the old file stays whole until the new one is on the disk.
void write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                   const std::vector<std::pair<std::string, std::string>>& metadata);

}  // namespace fastcnn
