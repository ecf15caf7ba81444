// conv2d, conv2d_bwd_data, conv2d_bwd_weights: every implementation on every ISA against the reference.
#include "conv2d_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("conv2d dense: channels, maps and batches") {
  for (int64_t N : {0, 1, 3})
    for (auto [C, O] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {17, 3}, {33, 64}, {64, 33}, {1, 32}})
      check(Case(N, C, 7, 7, O, 3, 3).pad(1).p);
  check(Case(2, 64, 7, 7, 64, 3, 3).pad(1).p);
  check(Case(1, 70, 5, 6, 130, 3, 3).pad(1).p);
  check(Case(2, 16, 33, 31, 16, 3, 3).pad(1).p);
  check(Case(1, 150, 4, 4, 20, 3, 3).pad(1).p);
}

TEST_CASE("conv2d dense: 1x1") {
  check(Case(2, 64, 7, 7, 33, 1, 1).p);
  check(Case(3, 17, 5, 9, 64, 1, 1).p);
  check(Case(1, 1030, 2, 3, 70, 1, 1).p);
  check(Case(2, 33, 7, 8, 17, 1, 1).stride(2, 2).p);
  check(Case(2, 5, 7, 8, 6, 1, 1).pad(1).p);
  check(Case(1, 16, 224, 225, 64, 1, 1).p);  // written past the caches
  check(Case(1, 64, 226, 224, 4, 2, 2).stride(2, 2).p);
  check(Case(2, 200, 9, 11, 40, 1, 1).p);  // fetched ahead
  check(Case(1, 8, 14, 13, 200, 1, 1).p);  // each thread reads all weights, for pixels of its own
  check(Case(1, 300, 5, 7, 480, 1, 1).p);  // tiles fetch the weights of the next block
  check(Case(2, 5, 9, 8, 6, 1, 1).stride(3, 2).pad(0, 1, 1, 0).p);
}

// Windows inside of the image in tiles, of which the last of a row makes pixels again; at its borders one by one.
TEST_CASE("conv2d with few outputs: inputs in lanes") {
  for (int64_t O = 1; O <= 8; ++O) {
    check(Case(2, 33, 9, 13, O, 3, 3).pad(1).p);
    check(Case(1, 128, 6, 5, O, 1, 1).p);
  }
  for (int64_t O : {1, 2, 3, 4, 5}) {
    for (int64_t W : {3, 5, 8, 11, 23}) check(Case(1, 20, 5, W, O, 3, 5).pad(1, 1, 2, 1).p);
    check(Case(2, 64, 15, 14, O, 7, 7).stride(2, 3).pad(3).p);
    check(Case(1, 40, 12, 17, O, 3, 3).dilate(2, 3).pad(2, 1, 4, 5).p);
  }
  check(Case(1, 64, 3, 4, 2, 5, 5).pad(4).p);  // windows wider than the image
  check(Case(1, 48, 2, 2, 3, 3, 3).pad(5).p);  // windows of nothing but padding
  check(Case(40, 256, 4, 4, 3, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 100, 30, 33, 7, 2, 2).p);
  check(Case(2, 128, 9, 10, 16, 7, 7).pad(3).groups(4).p);
  check(Case(1, 96, 14, 13, 8, 5, 5).pad(2).dilate(2, 2).groups(8).p);
  check(Case(3, 48, 7, 7, 4, 1, 1).groups(2).p);
  check(Case(2, 128, 74, 75, 4, 1, 1).groups(2).p, {0, 2});  // rows below are fetched
  check(Case(1, 80, 130, 131, 2, 2, 3).stride(3, 2).p, {0, 2});
}

// Whole vectors of outputs and windows an even step apart, of one and of several runs; rows of whole tiles, with
// what is left of one, and shorter ones.
TEST_CASE("conv2d dense: tiles in a line") {
  for (int64_t O : {16, 32, 48, 96, 144}) check(Case(2, 16, 13, 15, O, 1, 1).p);
  check(Case(1, 24, 56, 56, 144, 1, 1).p);  // more than half of L2: results' places are fetched
  check(Case(1, 32, 60, 61, 64, 1, 1).p);
  check(Case(2, 32, 9, 28, 96, 1, 1).stride(1, 2).p);
  for (int64_t W : {56, 59, 15}) check(Case(2, 3, 20, W, 32, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 3, 112, 224, 48, 3, 3).stride(2, 2).pad(1).p);
  for (int64_t O : {32, 48}) check(Case(2, 1, 28, 28, O, 5, 5).pad(2).p);
  check(Case(2, 2, 11, 36, 96, 3, 3).pad(0, 1, 2, 1).p);
}

TEST_CASE("conv2d: parts of an image that a dilated window sees together") {
  check(Case(2, 40, 24, 22, 36, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 64, 23, 25, 64, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 33, 24, 25, 20, 3, 3).dilate(3, 1).pad(3, 3, 1, 1).p);
  check(Case(2, 20, 37, 40, 17, 3, 3).dilate(17, 18).pad(17, 17, 18, 18).p);
  check(Case(1, 24, 40, 38, 12, 3, 5).dilate(18, 9).pad(18).groups(2).p);
  check(Case(1, 16, 50, 7, 16, 5, 1).dilate(12, 1).pad(12, 36, 0, 0).p);
}

TEST_CASE("conv2d: taps that see nothing but padding, taps that lie far apart") {
  check(Case(2, 40, 8, 9, 24, 3, 3).dilate(36, 36).pad(36).p);  // the middle one alone
  check(Case(1, 36, 20, 33, 20, 3, 3).dilate(20, 20).stride(2, 2).pad(20).p);
  check(Case(2, 12, 18, 17, 8, 3, 3).dilate(17, 18).pad(17, 17, 18, 18).groups(2).p);
  check(Case(1, 20, 9, 50, 17, 1, 3).dilate(1, 24).pad(0, 0, 24, 24).p);
  check(Case(1, 18, 40, 41, 6, 3, 3).dilate(18, 19).pad(7).p);
  check(Case(1, 18, 40, 41, 6, 3, 3).dilate(18, 1).pad(7, 7, 1, 1).p);
  check(Case(1, 16, 5, 6, 12, 7, 7).pad(6).p);
  check(Case(2, 16, 5, 6, 12, 7, 5).pad(6, 5, 4, 2).stride(3, 2).p);
  check(Case(1, 16, 6, 6, 16, 3, 3).dilate(30, 30).pad(28, 32, 33, 27).p);  // the middle meets the image's part
}

TEST_CASE("conv2d dense: stride, padding, dilation") {
  check(Case(2, 17, 9, 8, 20, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 6, 11, 13, 9, 3, 3).stride(3, 3).pad(1, 0, 2, 1).p);
  check(Case(2, 4, 12, 10, 9, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 4, 14, 15, 5, 3, 2).dilate(2, 3).stride(2, 2).pad(3, 1, 0, 2).p);
  check(Case(1, 3, 14, 15, 5, 4, 3).dilate(3, 2).stride(2, 3).pad(3, 2, 4, 2).p);
  check(Case(2, 3, 19, 21, 64, 7, 7).stride(2, 2).pad(3).p);
  check(Case(3, 1, 12, 12, 32, 5, 5).pad(2).p);
  check(Case(2, 8, 8, 8, 12, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 5, 3, 3, 4, 5, 5).pad(2).p);
  check(Case(1, 5, 2, 9, 4, 5, 3).pad(4, 3, 2, 2).p);
  check(Case(2, 9, 4, 4, 8, 4, 4).p);
  check(Case(1, 3, 5, 5, 4, 2, 2).stride(5, 5).p);
  check(Case(1, 2, 9, 300, 3, 3, 9).pad(1, 1, 4, 4).p);
}

TEST_CASE("conv2d dense: groups and depthwise") {
  check(Case(2, 12, 7, 7, 20, 3, 3).groups(4).pad(1).p);
  check(Case(1, 34, 6, 6, 66, 3, 3).groups(2).pad(1).stride(2, 2).p);
  check(Case(2, 12, 5, 5, 8, 1, 1).groups(4).p);
  check(Case(2, 64, 7, 9, 64, 3, 3).groups(16).pad(1).p);
  check(Case(1, 30, 9, 8, 45, 3, 3).groups(15).pad(1).stride(2, 2).p);
  check(Case(2, 32, 6, 6, 64, 3, 3).groups(32).pad(1).p);
  check(Case(2, 96, 5, 6, 24, 3, 2).groups(12).pad(1).dilate(2, 1).p);
  for (int64_t C : {1, 3, 17, 40, 96})
    for (int64_t s : {1, 2}) {
      check(Case(2, C, 9, 8, C, 3, 3).groups(C).pad(1).stride(s, s).p);
      check(Case(1, C, 11, 13, C, 5, 5).groups(C).pad(2).stride(s, s).p);
    }
  check(Case(0, 16, 7, 7, 16, 3, 3).groups(16).pad(1).p);
  check(Case(1, 20, 9, 10, 20, 3, 3).groups(20).pad(2).dilate(2, 2).p);
  check(Case(2, 33, 9, 31, 33, 3, 3).groups(33).pad(3).dilate(3, 3).p);
  check(Case(3, 40, 40, 39, 40, 3, 3).groups(40).pad(2).dilate(2, 2).p);  // rows below the last tap's are fetched
  check(Case(1, 24, 11, 27, 24, 4, 4).groups(24).pad(1).stride(2, 2).p);  // runs of half the pixels
  check(Case(1, 16, 8, 5, 16, 5, 5).groups(16).pad(8).dilate(4, 4).p);
  check(Case(1, 16, 12, 12, 16, 3, 3).groups(16).pad(2, 3, 1, 4).dilate(2, 2).stride(2, 2).p);
  check(Case(1, 400, 12, 13, 20, 3, 3).pad(6).dilate(6, 6).p);
  check(Case(1, 20, 9, 10, 20, 4, 2).groups(20).pad(2, 1, 0, 3).stride(3, 1).p);
  check(Case(2, 6, 7, 7, 18, 3, 3).groups(6).pad(1).p);
  check(Case(2, 32, 7, 40, 32, 7, 7).groups(32).pad(3).p);
}

TEST_CASE("conv2d with few channels in a group: outputs of several groups in a vector") {
  for (int64_t each : {2, 4, 8}) {
    check(Case(2, 8 * each, 9, 14, 8 * each, 3, 3).pad(1).groups(8).p);
    check(Case(2, 8 * each, 10, 13, 8 * each, 3, 3).pad(1).stride(2, 2).groups(8).p);
    check(Case(1, 7 * each, 8, 27, 7 * each, 3, 5).pad(2, 0, 1, 3).stride(1, 2).groups(7).p);  // a partial vector
    check(Case(1, 6 * each, 11, 9, 6 * each, 3, 3).pad(2).dilate(2, 2).groups(6).p);
    check(Case(1, 6 * each, 12, 10, 6 * each, 4, 2).pad(1).stride(3, 3).groups(6).p);  // pixels that no tap meets
    check(Case(2, 4 * each, 5, 5, 8 * each, 3, 3).pad(1).groups(4).p);                 // fewer inputs than outputs
    check(Case(2, 8 * each, 5, 5, 4 * each, 3, 3).pad(1).groups(4).p);                 // and more
  }
  check(Case(2, 20, 7, 9, 40, 3, 3).pad(1).groups(20).p);   // depthwise with two outputs for each channel
  check(Case(1, 32, 60, 70, 32, 3, 3).pad(1).groups(8).p);  // several strips
  check(Case(2, 16, 6, 6, 16, 1, 1).groups(4).p);
  check(Case(2, 16, 3, 3, 16, 3, 3).pad(5).groups(4).p);  // windows that see padding alone
  check(Case(2, 16, 2, 3, 16, 3, 3).pad(1).stride(4, 4).groups(4).p);
}

TEST_CASE("conv2d with few channels in a group: which ones are held in lanes") {
  Operand in[2], out[1];
  Call c;
  c.in = in, c.out = out;
  const auto reasons = [&](Conv2dParams p) {
    p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH),
    p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
    c.params = &p;
    std::vector<std::string> all;
    for (auto d :
         {cpu::group_lanes_declines, cpu::group_lanes_bwd_data_declines, cpu::group_lanes_bwd_weights_declines}) {
      const char* why = d(c);
      all.emplace_back(why ? why : "");
    }
    return all;
  };
  using All = std::vector<std::string>;
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref" || isa == "portable") continue;
    cpu::set_isa(isa);
    CHECK(reasons(Case(8, 128, 56, 56, 128, 3, 3).pad(1).groups(32).p) == All{"", "", ""});  // ResNeXt
    const std::string wide = "a vector does not hold whole groups", few = "few products";
    const std::string eight = cpu::lanes() == 16 ? "" : wide;
    CHECK(reasons(Case(8, 256, 28, 28, 256, 3, 3).pad(1).groups(32).p) == All{eight, eight, eight});
    CHECK(reasons(Case(8, 512, 14, 14, 512, 3, 3).pad(1).groups(32).p) == All{wide, wide, wide});
    CHECK(reasons(Case(8, 64, 28, 28, 128, 3, 3).pad(1).groups(64).p)[1] ==
          "more channels in a group than outputs");
    CHECK(reasons(Case(8, 64, 28, 28, 64, 1, 1).groups(16).p) == All{few, few, ""});
    CHECK(reasons(Case(8, 64, 28, 28, 64, 3, 3).pad(1).groups(64).p)[0] == "depthwise");
    CHECK(reasons(Case(8, 64, 28, 28, 64, 3, 3).pad(1).p)[0] == "one group");
    CHECK(reasons(Case(8, 12, 28, 28, 16, 3, 3).pad(1).groups(4).p)[0] == "a group has not 1, 2, 4 or 8 channels");
  }
}

TEST_CASE("conv2d over the whole image") {
  check(Case(9, 20, 4, 4, 33, 4, 4).p);
  check(Case(3, 5, 3, 5, 16, 3, 5).stride(2, 2).p);
  check(Case(130, 16, 5, 5, 20, 5, 5).p);
}

TEST_CASE("conv2d 4x4 of stride 2") {
  check(Case(12, 32, 16, 16, 32, 4, 4).stride(2, 2).pad(1).p);
  check(Case(16, 40, 14, 15, 70, 4, 4).stride(2, 2).pad(1, 1, 1, 0).p);  // tiles past the border, partial vectors
  check(Case(3, 33, 32, 34, 35, 4, 4).stride(2, 2).pad(1).p);
  check(Case(13, 48, 17, 18, 33, 4, 4).stride(2, 2).pad(0).p);
  check(Case(13, 64, 12, 13, 96, 4, 4).stride(2, 2).pad(3, 2, 2, 3).p);
  check(Case(50, 96, 8, 8, 130, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 160, 40, 40, 32, 4, 4).stride(2, 2).pad(1).p);
}

TEST_CASE("conv2d depthwise: rows of several tiles") {
  for (int64_t W : {14, 15, 16, 21, 22, 28, 31})
    for (int64_t s : {1, 2}) {
      check(Case(2, 32, 5, W, 32, 3, 3).groups(32).pad(1).stride(s, s).p);
      check(Case(1, 35, 9, W, 35, 5, 5).groups(35).pad(2).stride(s, s).p);
      check(Case(1, 16, 6, W, 16, 5, 5).groups(16).pad(0, 1, 1, 2).stride(s, s).p);
    }
  for (int64_t W : {7, 16, 23, 31})
    for (int64_t k : {2, 4, 7})
      for (int64_t s : {1, 2}) check(Case(1, 35, 8, W, 35, k, k).groups(35).pad(k / 2).stride(s, s).p, {0, 2});
  for (int64_t s : {1, 2, 3}) {
    check(Case(3, 20, 4, 5, 20, 1, 1).groups(20).stride(s, s).p);
    check(Case(128, 32, 4, 4, 32, 1, 1).groups(32).stride(s, s).dilate(3, 3).p);
    check(Case(2, 16, 7, 6, 16, 1, 1).groups(16).stride(s, 1).pad(1).p);
  }
  check(Case(2, 144, 40, 35, 144, 3, 3).groups(144).pad(1).p);  // large enough to fetch ahead
  check(Case(2, 144, 40, 35, 144, 3, 3).groups(144).pad(1).stride(2, 2).p);
  check(Case(1, 512, 64, 100, 512, 3, 3).groups(512).pad(1).p, {0, 2});  // written past the caches
}

TEST_CASE("conv2d depthwise: two rows at once, of any height, with windows far outside") {
  for (int64_t k : {3, 5, 7})
    for (int64_t H : {1, 2, 3, 4, 9})
      for (int64_t W : {1, 3, 5, 9, 14})
        for (int64_t pad : {int64_t{0}, k / 2, k - 1}) {
          if (H + 2 * pad < k) continue;
          const int64_t C = 8 + (H * 5 + W) % 11;  // whole vectors, and a last one of any length
          check(Case(2, C, H, W, C, k, k).groups(C).pad(pad, pad, k - 1, pad).p, {static_cast<int>(H + W) % 4});
        }
  for (int64_t d : {2, 3})  // pairs of rows that far apart, with rows left over
    for (int64_t H : {3, 7, 11, 14})
      for (int64_t pad : {int64_t{1}, d, 2 * d}) {
        if (H + 2 * pad <= 2 * d) continue;
        check(Case(2, 19, H, 13, 19, 3, 3).groups(19).dilate(d, d).pad(pad).p, {static_cast<int>(H) % 4});
        check(Case(1, 8, H, 15, 8, 5, 5).groups(8).dilate(d, 1).pad(2 * d).p);
        check(Case(1, 24, H, 10, 24, 3, 3).groups(24).dilate(1, d).pad(pad).p);
      }
  for (int64_t H : {5, 6}) {  // windows on other sides, columns and rows of their own
    check(Case(1, 24, H, 11, 24, 3, 5).groups(24).pad(1, 2, 0, 1).p);
    check(Case(3, 13, H, 9, 13, 5, 5).groups(13).pad(4, 0, 0, 4).p);
  }
}

TEST_CASE("conv2d depthwise: lines of two vectors, pixels that share sets of the cache") {
  for (int64_t k : {1, 2, 3})
    for (int64_t s : {1, 2})
      for (int64_t W : {4, 7, 14, 17}) {
        check(Case(1, 512, 6, W, 512, k, k).groups(512).stride(s, s).pad(k / 2).p, {0, 2});
        check(Case(2, 56, 5, W, 56, k, k).groups(56).stride(s, s).pad(k / 2).p, {1, 3});  // a vector is left over
      }
  check(Case(1, 1024, 9, 13, 1024, 3, 3).groups(1024).dilate(3, 3).pad(3).p, {0});
  check(Case(2, 1024, 7, 7, 1024, 3, 3).groups(1024).pad(1).p, {2, 3});
  check(Case(1, 1024, 20, 33, 1024, 3, 3).groups(1024).stride(2, 2).pad(1).p, {0});
}

TEST_CASE("conv2d 1x1 with a stride: tiles that cross to the next row") {
  for (int64_t W : {5, 13, 26, 41})
    for (int64_t C : {1, 7, 16}) check(Case(2, C, 9, W, 65, 1, 1).stride(2, 2).p, {static_cast<int>(C) % 4});
  check(Case(4, 7, 150, 150, 65, 1, 1).stride(2, 2).p, {0});  // fetched ahead
}

TEST_CASE("conv2d windows of few numbers: all outputs of a pixel before the next") {
  constexpr int64_t kLeast = 128 * 1024;  // results that do not stay in L2
  for (int64_t O : {16, 48, 80})
    for (int64_t C : {int64_t{1}, int64_t{8}, 15 + O / 16, int64_t{32}}) {
      const int variant = static_cast<int>(C + O / 16) % 3;
      const int64_t rows = kLeast / (O * 43) + 1;
      if (variant == 0) check(Case(1, C, rows, 43, O, 1, 1).p, {0, 6});
      if (variant == 1)
        check(Case(2, C, rows, 85, O, 1, 1).stride(2, 2).p, {1, 7});  // rows of whole tiles and a part
      if (variant == 2)
        check(Case(1, C, kLeast / (O * 5) + 1, 9, O, 1, 1).stride(1, 2).p, {4});  // of less than a tile
    }
  check(Case(2, 5, 20, 17, 256, 1, 1).pad(1, 0, 2, 1).p, {7});
  check(Case(3, 2, 160, 52, 128, 1, 1).p, {0});  // past the caches
  // Windows of up to 32 numbers: several rows, parts of tiles, unequal borders, rows apart.
  check(Case(1, 3, 130, 67, 16, 3, 3).pad(1).p, {0, 6});
  check(Case(2, 3, 140, 121, 16, 3, 3).stride(2, 2).pad(1).p, {1, 7});
  check(Case(1, 3, 1700, 5, 16, 3, 3).pad(1).p, {4});
  check(Case(1, 1, 95, 90, 16, 5, 5).pad(2, 1, 3, 2).p, {7});
  check(Case(1, 2, 66, 71, 32, 5, 3).dilate(2, 1).pad(4, 1, 4, 1).p, {0});
  check(Case(3, 3, 101, 203, 48, 3, 3).stride(2, 2).pad(0, 1, 0, 1).p, {6});
}

TEST_CASE("conv2d: results past the caches are written as whole lines") {
  const auto streams = [](int64_t O, int64_t channels) {
    alignas(64) float y[16];
    GemmTask t;
    t.nc = 1, t.O = O, t.y = y;
    cpu::choose_stream(t, cpu::kStreamFloats, channels);
    return t.stream != 0;
  };
  CHECK(streams(48, 48));
  CHECK(streams(16, 64));
  CHECK(!streams(24, 24));
  CHECK(!streams(8, 16));
  CHECK(!streams(16, 40));
  check(Case(24, 4, 56, 56, 48, 1, 1).p, {0, 3});
  check(Case(12, 48, 80, 80, 4, 1, 1).stride(2, 2).p, {0});
  check(Case(6, 9, 150, 150, 24, 1, 1).p, {1});
  check(Case(1, 3, 230, 230, 72, 3, 3).pad(1).p, {2});
}

TEST_CASE("conv2d depthwise with few channels: pixels of whole windows as one run of floats") {
  for (int64_t C : {9, 10, 12, 14, 15, 17, 18, 20, 28, 31, 36}) {
    check(Case(2, C, 9, 21, C, 3, 3).groups(C).pad(1).p, {0, 2});
    check(Case(1, C, 12, 19, C, 5, 7).groups(C).pad(2, 1, 3, 2).dilate(1, 2).p, {1, 3});
  }
  for (int64_t C = 2; C <= 8; ++C) {
    check(Case(2, C, 17, 37, C, 3, 3).groups(C).pad(1).p);
    check(Case(1, C, 18, 40, C, 2 + C % 6, 1 + C % 7).groups(C).pad(1, 0, 2, 1).dilate(1, 2).p);
  }
  check(Case(1, 3, 19, 130, 3, 7, 7).groups(3).pad(3).p);
  check(Case(2, 2, 20, 150, 2, 4, 6).groups(2).pad(2).dilate(3, 3).p);
  check(Case(1, 4, 16, 33, 4, 1, 9).groups(4).pad(0, 0, 7, 12).p);
  check(Case(1, 4, 16, 33, 4, 8, 8).groups(4).pad(4).p);    // more taps than a run takes
  check(Case(9, 2, 90, 95, 2, 3, 3).groups(2).pad(1).p);    // rows below are fetched
  check(Case(2, 3, 25, 40, 3, 3, 45).groups(3).pad(30).p);  // no window is whole
  check(Case(1, 2, 16, 60, 2, 3, 3).groups(2).pad(1).stride(2, 1).p);
  check(Case(1, 4, 7, 2100, 4, 3, 3).groups(4).pad(1).p);  // few rows for each thread: the same bits
}

TEST_CASE("conv2d depthwise: windows of any kind") {
  for (int64_t W : {7, 10, 13, 16, 19, 22, 25, 28, 31})
    check(Case(1, 70, 7, W, 70, 3, 3).groups(70).stride(3, 2).p);
  for (int64_t W : {9, 20, 29, 41}) check(Case(1, 20, 8, W, 20, 2, 2).groups(20).stride(2, 2).pad(1).p);
  check(Case(1, 130, 15, 14, 130, 7, 7).groups(130).stride(3, 3).pad(3).p);  // channels in blocks
  check(Case(1, 100, 30, 31, 100, 6, 6).groups(100).stride(3, 3).pad(1).p);
  check(Case(2, 64, 40, 41, 64, 3, 3).groups(64).stride(3, 3).pad(1).p);  // rows below are fetched
  check(Case(2, 48, 47, 50, 48, 2, 2).groups(48).stride(4, 3).p);         // and those that no window sees are not
  check(Case(3, 33, 41, 40, 33, 1, 1).groups(33).stride(2, 2).p);
  check(Case(2, 40, 9, 1, 40, 7, 7).groups(40).stride(2, 2).pad(3).p);  // one column: six of padding alone
  check(Case(2, 40, 1, 9, 40, 5, 5).groups(40).pad(2).p);
  check(Case(3, 20, 4, 5, 20, 3, 3).groups(20).stride(3, 3).p);  // small images: dx in residues
}

TEST_CASE("conv2d dense: groups strip by strip, residues of dx piece by piece") {
  check(Case(2, 40, 31, 29, 24, 3, 3).groups(4).stride(2, 2).pad(1).p);
  check(Case(3, 96, 20, 19, 80, 1, 1).groups(16).p);
  check(Case(1, 144, 17, 40, 144, 2, 3).groups(3).pad(1).p);
  check(Case(2, 20, 83, 81, 8, 3, 3).stride(2, 2).pad(1).p);
  check(Case(2, 16, 70, 75, 20, 4, 3).stride(3, 3).dilate(1, 2).pad(2).p);
  check(Case(1, 200, 12, 11, 260, 3, 3).stride(2, 2).pad(1).p);  // weights that do not stay in L2
  check(Case(1, 17, 2, 3, 40, 1, 1).stride(3, 2).p);             // residues without taps
  check(Case(2, 192, 60, 64, 16, 1, 1).groups(8).p);             // chunks of the weights' gradient that fit L2
}

TEST_CASE("conv2d dense: windows that do not leave the image are read in place") {
  check(Case(2, 130, 14, 13, 40, 4, 4).stride(3, 3).p);  // blocks of channels
  check(Case(2, 64, 9, 10, 48, 3, 3).groups(2).stride(2, 1).p);
  check(Case(1, 24, 15, 17, 33, 3, 3).dilate(2, 2).p);
  check(Case(1, 1024, 5, 6, 20, 2, 2).p);                // rows of pixels in one set of the cache
  check(Case(3, 20, 9, 9, 17, 3, 3).pad(0, 1, 0, 1).p);  // these do, by one
  check(Case(2, 20, 10, 9, 17, 3, 3).stride(3, 3).p);    // rows below that no window sees
  check(Case(5, 8, 16, 12, 24, 4, 4).stride(4, 4).p);    // patches
  check(Case(1, 3, 40, 41, 33, 8, 5).stride(8, 5).p);
  check(Case(40, 16, 3, 3, 20, 2, 2).p);  // strips of several images
}

TEST_CASE("conv2d dense: taps that see padding are left out, pixels sorted by the others") {
  check(Case(2, 20, 7, 7, 100, 5, 5).dilate(3, 3).pad(6).p);
  check(Case(2, 24, 33, 33, 20, 3, 3).dilate(18, 18).pad(18).p);
  check(Case(1, 300, 33, 30, 17, 3, 3).dilate(24, 20).pad(24, 24, 20, 20).p);  // blocks of channels
  check(Case(3, 17, 14, 13, 20, 5, 4).stride(2, 1).dilate(3, 2).pad(6).p);
  check(Case(6, 33, 28, 1, 40, 2, 2).pad(1).p);
  check(Case(20, 24, 7, 7, 40, 7, 7).pad(3).p);
  check(Case(2, 32, 9, 8, 24, 3, 3).groups(2).dilate(4, 4).pad(4).p);
  check(Case(2, 16, 5, 5, 48, 3, 3).dilate(4, 4).pad(9).p);  // pixels that see nothing
  check(Case(9, 40, 6, 6, 33, 3, 8).dilate(1, 2).pad(1, 1, 7, 7).p);
  check(Case(2, 40, 11, 10, 36, 4, 4).p);  // back to data: most of the image is border
  check(Case(3, 33, 5, 6, 48, 5, 5).stride(3, 3).dilate(2, 2).pad(4).p);
}

TEST_CASE("conv2d dense: fusions are declined where they would multiply padding") {
  Operand in[4], out[2];
  Call c;
  c.in = {in, 2}, c.out = {out, 1};
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref") continue;
    cpu::set_isa(isa);
    const auto reason = [&](Conv2dParams p, bool norm, bool moments) -> std::string {
      p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH),
      p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
      p.has_norm_in = norm, p.has_moments = moments;
      c.params = &p, c.in = {in, norm ? size_t{4} : size_t{2}}, c.out = {out, moments ? size_t{2} : size_t{1}};
      const char* why = cpu::dense_declines(c);
      return why ? why : "";
    };
    const std::string padding = "input norm or moments: taps that see padding are left out without";
    const Conv2dParams far = Case(2, 64, 33, 33, 64, 3, 3).dilate(18, 18).pad(18).p;
    CHECK(reason(far, false, false) == "");
    CHECK(reason(far, true, false) == padding);
    CHECK(reason(far, false, true) == padding);
    const Conv2dParams near = Case(2, 64, 28, 28, 64, 3, 3).pad(1).p;
    CHECK(reason(near, true, false) == "");
    CHECK(reason(near, false, true) == "");
  }
}

TEST_CASE("conv2d depthwise of bfloat16: NaN and infinity reach the windows that hold them, no others") {
  for (int64_t k : {3, 5})
    for (int64_t s : {1, 2})
      for (Act act : {Act::none, Act::relu, Act::relu6}) {
        Conv2dParams p = Case(1, 40, 9, 30, 40, k, k).groups(40).pad(1).stride(s, s).p;
        p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
        p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
        p.act.act = act;
        Array x = normal(9 * 30 * 40, 1);
        const float values[] = {NAN, -NAN, INFINITY, -INFINITY};
        for (int64_t i = 0; i < 24; ++i) x.f()[(i * 431 + 7) % x.n] = values[i % 4];
        CHECK(check_op(cpu::conv2d_list(), &p, {rounded(x), rounded(normal(k * k * 40, 2))},
                       {{40 * p.oH * p.oW, DType::bfloat16}}, "bf16 not finite " + text(p)) > 0);
      }
}

TEST_CASE("conv2d: every activation, after dense and depthwise kernels") {
  for (int a = 0; a < static_cast<int>(Act::count); ++a)
    for (Conv2dParams p : {Case(2, 20, 6, 7, 35, 1, 1).p, Case(1, 600, 5, 5, 40, 1, 1).p,
                           Case(1, 19, 9, 9, 19, 3, 3).pad(1).groups(19).stride(2, 2).p,
                           Case(2, 6, 7, 8, 12, 3, 3).pad(1).groups(2).p}) {
      p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
      p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
      p.act.act = static_cast<Act>(a), p.act.alpha = 0.4, p.act.beta = p.act.act == Act::softplus ? 20 : 1.5;
      const std::vector<Array> in{normal(p.N * p.C * p.H * p.W, 1),
                                  normal(p.O * p.C / p.groups * p.kH * p.kW, 2, 0.2f)};
      CHECK(check_op(cpu::conv2d_list(), &p, in, {{p.N * p.O * p.oH * p.oW}},
                     text(p) + " activation " + std::to_string(a)) > 0);
    }
}

TEST_CASE("conv2d: other dtypes are left to the reference") {
  Conv2dParams p = Case(1, 4, 5, 5, 4, 3, 3).pad(1).p;
  p.oH = p.oW = 5;
  Buffer x(100), w(144), y(100);
  Operand in[2] = {operand(x), operand(w)}, out[1] = {operand(y)};
  Call c;
  c.params = &p, c.in = in, c.out = out;
  in[0].dtype = in[1].dtype = out[0].dtype = DType::float64;
  for (cpu::List l : {cpu::conv2d_list(), cpu::conv2d_bwd_data_list(), cpu::conv2d_bwd_weights_list()})
    for (const Implementation& i : l.first(l.size() - 1)) CHECK(i.declines(c) != nullptr);
}
