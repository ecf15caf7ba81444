// What it is: CRC-32 as in zlib, gzip and PNG (polynomial edb88320), 16 bytes at a time: it finds damage, it does
// not keep forgers out.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastcnn {

uint32_t crc32(const void* data, size_t bytes, uint32_t before = 0);

}  // namespace fastcnn
