// See crc32.h.
#include "session/crc32.h"

#include <array>
#include <cstring>

namespace fastcnn {
namespace {

constexpr int kSlices = 16;
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables t{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    t[0][i] = c;
  }
  for (int s = 1; s < kSlices; ++s)
    for (uint32_t i = 0; i < 256; ++i) t[s][i] = t[s - 1][i] >> 8 ^ t[0][t[s - 1][i] & 255];
  return t;
}
constexpr Tables kTables = make_tables();

}  // namespace

uint32_t crc32(const void* data, size_t bytes, uint32_t before) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint32_t c = ~before;
  for (; bytes >= kSlices; bytes -= kSlices, p += kSlices) {
    uint32_t w[4];
    std::memcpy(w, p, sizeof w);
    w[0] ^= c;
    c = 0;
    for (int i = 0; i < 4; ++i)
      for (int b = 0; b < 4; ++b) c ^= kTables[15 - 4 * i - b][w[i] >> (8 * b) & 255];
  }
  for (; bytes > 0; --bytes, ++p) c = c >> 8 ^ kTables[0][(c ^ *p) & 255];
  return ~c;
}

}  // namespace fastcnn
