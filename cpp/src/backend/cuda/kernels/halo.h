// What it is: how a convolution's images are cut into tiles that lie in shared memory with the pixels around them
// (their halo), once for all taps: rows of one image, or whole images. Plain functions of the problem, for the
// kernels, the host and the tests. What it is not: the kernels (halo.cuh).
//
// A tile brings pixels of x that are neighbours in memory and makes pixels of y that are neighbours in memory. In
// shared memory an image of it has in_rows rows of `pitch` pixels, padding with them: pixel (row * s, column * s)
// + tap is what y's pixel (row, column) reads. 16-byte chunks of the channels lie in planes of all pixels, so that
// ldmatrix reads eight neighbouring pixels from all banks.
#pragma once
#include <algorithm>

#include "backend/cuda/kernels/fast_div.h"

namespace fastcnn::cuda {

struct HaloTile {
  int32_t from, begin, end;  // pixels of x: the first one brought; those that are there (the others are zero)
  int32_t to, count;         // pixels of y
};

struct Halo {
  int32_t N = 0, H = 0, W = 0, oH = 0, oW = 0, stride = 1;
  int32_t rows = 0, images = 1;  // of y, in a tile: `rows` rows of one image, or whole images
  int32_t tiles = 0, brought = 0, in_rows = 0, pitch = 0;  // brought: rows of x of an image of the tile
  int32_t first = 0, above = 0, left = 0;  // rows above those brought; x's row less y's; columns beside them
  int32_t plane = 0;                       // pixels
  FastDiv by_W, by_oW, by_rows, by_brought, by_strips;

  FASTCNN_INLINE int32_t pixels_brought() const { return images * brought * W; }
  FASTCNN_INLINE HaloTile tile(int32_t t) const {
    int32_t strip;
    const int32_t n = by_strips.split(t, &strip) * images, row = strip * rows;
    const int32_t here = N - n < images ? N - n : images, begin = n * H * W;
    return {begin + (row * stride - above) * W, begin, begin + here * H * W, (n * oH + row) * oW,
            here * (oH - row < rows ? oH - row : rows) * oW};
  }
  // Where in shared memory pixel i of those brought lies.
  FASTCNN_INLINE int32_t place_brought(int32_t i) const {
    int32_t column;
    const int32_t row = by_W.split(i, &column), image = by_brought.quotient(row);
    return (row + image * (in_rows - brought) + first) * pitch + left + column;
  }
  // What tap (0, 0) of pixel i of the tile's y reads; pixels past the last one read some that are there.
  FASTCNN_INLINE int32_t place_read(int32_t i) const {
    int32_t column, row;
    const int32_t image = by_rows.split(by_oW.split(i, &column), &row);
    return image < images ? (image * in_rows + row * stride) * pitch + column * stride : 0;
  }
};

// Tiles of at most `most` pixels of y and, but for tiles of one row, `room` pixels in shared memory; windows
// (window, window), `top` and `left` pixels of padding before x, `chunks` of 16 bytes a pixel. No rows where that
// is not possible.
inline Halo halo_of(int64_t N, int64_t H, int64_t W, int64_t oH, int64_t oW, int64_t top, int64_t left,
                    int64_t window, int64_t stride, int64_t chunks, int64_t most, int64_t room) {
  auto i = [](int64_t v) { return static_cast<int32_t>(v); };
  Halo h;
  if (oW > most || oH < 1 || oW < 1 || H < 1 || W < 1 || N < 1 || top < 0 || left < 0) return h;
  h.N = i(N), h.H = i(H), h.W = i(W), h.oH = i(oH), h.oW = i(oW), h.stride = i(stride), h.left = i(left);
  const int64_t pitch = std::max((oW - 1) * stride + window, left + W);
  int64_t most_rows = std::min(most / oW, oH);
  while (most_rows > 1 && ((most_rows - 1) * stride + window) * pitch > room) --most_rows;
  const int64_t strips = (oH + most_rows - 1) / most_rows, rows = (oH + strips - 1) / strips;
  h.pitch = i(pitch), h.rows = i(rows), h.in_rows = i((rows - 1) * stride + window);
  if (strips == 1) {
    h.in_rows = i(std::max<int64_t>(h.in_rows, top + H)), h.brought = i(H), h.first = i(top);
    const int64_t images = std::min({most / (oH * oW), room / (h.in_rows * pitch), N});
    h.images = i(std::max<int64_t>(images, 1));
  } else {
    h.brought = h.in_rows, h.above = i(top);
  }
  // Chunks of one pixel, and then of the next, fall into different banks.
  const int64_t pixels = int64_t{h.images} * h.in_rows * h.pitch, apart = 8 / chunks;
  h.plane = i((pixels + 7 - apart) / 8 * 8 + apart);
  const int64_t per_image = (oH + rows - 1) / rows;
  h.tiles = i((N + h.images - 1) / h.images * per_image);
  h.by_W = FastDiv(W), h.by_oW = FastDiv(oW), h.by_rows = FastDiv(rows), h.by_brought = FastDiv(h.brought);
  h.by_strips = FastDiv(per_image);
  return h;
}

}  // namespace fastcnn::cuda
