// conv2d and its gradients by adaptors that make another convolution of them (few channels, parts of an image, few
// pixels), and gradients of weights and data by their kernels: which take what, against the reference on every
// ISA.
#include "backend/cpu/grad_plan.h"
#include "conv2d_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("conv2d with few input channels: their gradient in whole vectors of pixels") {
  check(Case(2, 3, 12, 16, 40, 4, 4).stride(2, 2).pad(1).p);
  check(Case(1, 3, 9, 20, 17, 3, 3).pad(1).p);
  check(Case(2, 1, 10, 32, 20, 5, 5).pad(2).p);
  check(Case(1, 2, 11, 24, 9, 7, 7).stride(2, 2).pad(3).p);
  check(Case(1, 4, 13, 24, 33, 3, 5).stride(3, 1).pad(0, 2, 1, 3).dilate(2, 1).p);
  check(Case(1, 3, 15, 12, 8, 5, 4).stride(2, 3).pad(2, 1, 3, 0).p);
  check(Case(2, 1, 8, 16, 5, 1, 3).stride(3, 1).p);
}

TEST_CASE("conv2d backward to data by columns: rings of rows, groups, few pixels") {
  check(Case(3, 3, 40, 37, 40, 7, 7).stride(2, 2).pad(3).p);
  check(Case(1, 2, 61, 9, 33, 5, 5).pad(2, 1, 0, 3).p);                    // several blocks of rows of one image
  check(Case(1, 3, 50, 12, 48, 4, 3).stride(3, 2).dilate(2, 3).pad(4).p);  // steps of rows that meet no tap
  check(Case(2, 16, 8, 33, 64, 3, 3).stride(2, 2).pad(1).dilate(2, 2).groups(16).p);
  check(Case(2, 12, 9, 10, 96, 3, 5).pad(2).groups(3).p);
  check(Case(5, 1, 3, 3, 130, 2, 2).p);
  check(Case(2, 2, 13, 30, 64, 1, 9).stride(1, 4).pad(0, 0, 4, 4).p);
  check(Case(1, 200, 14, 14, 32, 7, 7).stride(3, 3).dilate(2, 2).p);  // one pixel: weights as they lie
  check(Case(2, 40, 6, 5, 70, 4, 4).stride(2, 1).p);                  // eight
  check(Case(2, 40, 5, 4, 70, 4, 4).pad(0, 0, 0, 0).stride(1, 3).p);  // four
  check(
      Case(1, 4, 3, 40, 70, 3, 3).stride(1, 5).pad(0, 4, 0, 0).p);  // rows and columns of dx that no window meets
}

TEST_CASE("conv2d backward to data with few channels and many outputs in a group: outputs in lanes") {
  const Case cases[] = {Case(2, 4, 9, 10, 32, 3, 3).pad(1).groups(4),
                        Case(1, 2, 7, 23, 130, 1, 1).groups(2),
                        Case(3, 3, 8, 9, 128, 1, 1),
                        Case(2, 6, 11, 9, 108, 3, 3).pad(0, 2, 1, 2).groups(2),
                        Case(2, 3, 12, 11, 57, 3, 3).pad(1).dilate(2, 2).groups(3),
                        Case(2, 2, 13, 11, 96, 3, 3).pad(1).stride(2, 2).groups(2),
                        Case(1, 2, 14, 15, 72, 4, 5).pad(2).stride(2, 3).groups(2)};
  for (const Case& c : cases) {
    const Conv2dParams& p = c.p;
    check(p, {0});
    if (!cpu::kernels() || cpu::lanes() < 8) continue;
    CHECK_MESSAGE(takes(cpu::few_outputs_bwd_data_declines, p), text(p));
  }
}

TEST_CASE("conv2d of few channels on both sides: pixels in the lanes") {
  struct {
    Case c;
    bool taken;
  } const cases[] = {
      {Case(8, 3, 40, 41, 3, 3, 3).pad(1), true},
      {Case(9, 3, 30, 29, 7, 4, 4).pad(3).dilate(2, 2), true},  // strips of parts of images
      {Case(40, 2, 15, 14, 2, 5, 5).pad(2), true},              // strips of several images
      {Case(8, 8, 33, 40, 1, 3, 3).pad(0, 2, 1, 0), true},
      {Case(3, 5, 47, 50, 8, 3, 3).pad(5).dilate(3, 4), true},
      {Case(16, 4, 40, 41, 3, 5, 6).pad(2).stride(2, 2).dilate(1, 3), true},
      {Case(16, 4, 34, 37, 2, 3, 3).pad(1).stride(3, 1).dilate(2, 3), true},
      {Case(9, 5, 40, 41, 3, 6, 4).stride(1, 2), true},
      {Case(8, 4, 61, 60, 3, 5, 5).pad(2).stride(2, 2), true},  // residues of dx
      {Case(8, 15, 30, 31, 9, 3, 3).pad(1).groups(3), true},
      {Case(60, 5, 19, 18, 4, 1, 3).pad(0, 0, 1, 1), true},
      {Case(64, 2, 28, 29, 7, 1, 1), true},  // all pixels in rows of even length
      {Case(61, 2, 53, 59, 5, 1, 1), true},
      {Case(1, 2, 1, 8009, 5, 1, 1), false},  // of a prime number
      {Case(4, 16, 20, 20, 12, 3, 3).pad(1), false},
  };
  for (const auto& k : cases) {
    const Conv2dParams& p = k.c.p;
    check(p);
    if (!cpu::kernels() || cpu::lanes() < 16) continue;
    CHECK_MESSAGE(takes(cpu::planes_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::planes_bwd_data_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::planes_bwd_weights_declines, p) == k.taken, text(p));
  }
}

TEST_CASE("conv2d whose stride and dilation have a common divisor: the part of the image that is read") {
  struct {
    Case c;
    bool taken, back;  // by conv2d and the gradient of weights; by that of the data
  } const cases[] = {
      {Case(2, 5, 13, 14, 12, 4, 4).stride(2, 2).dilate(2, 2).pad(4), true, true},
      {Case(2, 19, 14, 17, 24, 3, 3).stride(3, 3).dilate(3, 3).pad(1), true, true},
      {Case(1, 16, 17, 19, 32, 3, 3).stride(2, 2).dilate(2, 2).pad(3, 0, 1, 2), true, true},
      {Case(2, 6, 15, 16, 8, 3, 2).stride(4, 1).dilate(2, 3).pad(2), true,
       true},  // a stride of 2 is left, rows alone
      {Case(1, 6, 23, 21, 9, 3, 3).stride(2, 3).dilate(4, 6).pad(5).groups(3), true, true},
      {Case(2, 40, 17, 15, 40, 5, 5).stride(2, 2).dilate(2, 2).pad(3).groups(40), true, true},
      {Case(2, 7, 12, 11, 7, 1, 1).stride(2, 3).groups(7), false, true},
      {Case(2, 33, 9, 10, 20, 1, 1).stride(2, 2), false, true},
      {Case(2, 32, 9, 10, 20, 1, 1).stride(2, 2), false, false},
      {Case(1, 8, 9, 10, 20, 1, 3).stride(3, 1).pad(2, 2, 1, 1), true,
       true},  // rows of padding, one tap of any dilation
      {Case(1, 8, 9, 10, 20, 3, 3).stride(2, 3).dilate(3, 2).pad(2), false, false},
      {Case(1, 4, 1, 6, 5, 1, 1).stride(4, 4).pad(2), false, false},  // sees padding alone
  };
  for (const auto& k : cases) {
    const Conv2dParams& p = k.c.p;
    check(p);
    if (!cpu::kernels()) continue;
    CHECK_MESSAGE(takes(cpu::subsampled_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::subsampled_bwd_data_declines, p) == k.back, text(p));
    CHECK_MESSAGE(takes(cpu::subsampled_bwd_weights_declines, p) == k.taken, text(p));
  }
}

TEST_CASE("conv2d of few pixels: products that read the weights as they lie") {
  const Case cases[] = {Case(1, 37, 1, 1, 50, 1, 1), Case(4, 130, 1, 1, 9, 1, 1), Case(1, 33, 2, 2, 17, 1, 1),
                        Case(3, 19, 3, 5, 40, 3, 5), Case(1, 1, 1, 2, 1, 1, 2).stride(2, 3)};
  for (const Case& c : cases) {
    const Conv2dParams& p = c.p;
    check(p);
    if (!cpu::kernels()) continue;
    CHECK_MESSAGE(takes(cpu::product_declines, p), text(p));
    CHECK_MESSAGE(takes(cpu::product_bwd_data_declines, p), text(p));
    CHECK_MESSAGE(takes(cpu::product_bwd_weights_declines, p), text(p));
  }
  if (cpu::kernels()) CHECK(!takes(cpu::product_declines, Case(5, 37, 1, 1, 50, 1, 1).p));
}

TEST_CASE("conv2d weight gradients of a single tile: neighbouring pixels have sums of their own") {
  check(Case(3, 3, 11, 13, 16, 1, 1).p, {0});
  check(Case(5, 16, 30, 31, 3, 1, 1).p, {0});  // several strips
  check(Case(2, 1, 9, 50, 8, 2, 4).pad(1).p, {0});
  check(Case(2, 8, 9, 11, 4, 3, 3).pad(1).dilate(2, 2).p, {0});
  check(Case(1, 8, 1, 3, 1, 1, 1).p, {0});
  if (!cpu::kernels()) return;
  const auto few = [](Conv2dParams p) {
    p.oH = p.H, p.oW = p.W;
    WeightsGradTask t = cpu::weights_task(p);
    return cpu::plan_weights_grad(t, 1, cpu::lanes(), 2) && t.few;
  };
  CHECK(few(Case(3, 3, 11, 13, cpu::lanes(), 1, 1).p));
  CHECK(few(Case(3, cpu::lanes(), 11, 13, 4, 1, 1).p));
  CHECK(!few(Case(3, 5, 11, 13, cpu::lanes(), 1, 1).p));
  CHECK(!few(Case(3, 3, 11, 13, cpu::lanes() + 1, 1, 1).p));
}

TEST_CASE("conv2d weight gradients: columns that a tap sees as padding are left out") {
  check(Case(2, 64, 4, 5, 33, 7, 7).pad(3).p, {0});
  check(Case(1, 20, 9, 7, 100, 3, 3).pad(4).dilate(4, 4).p, {0});
  check(Case(2, 7, 6, 9, 40, 5, 5).pad(5, 3, 6, 2).stride(1, 2).p, {0});
  check(Case(1, 48, 5, 40, 24, 3, 3).pad(9).dilate(9, 11).p, {0});  // strips of a row that a tap does not see
  check(Case(2, 8, 15, 14, 64, 3, 3).pad(1).groups(2).p, {0});
}

TEST_CASE("conv2d weight gradients: vectors over outputs where channels leave lanes idle") {
  check(Case(2, 65, 9, 8, 64, 7, 7).pad(3).p);
  check(Case(3, 17, 14, 13, 31, 3, 3).dilate(3, 3).pad(1).p);
  check(Case(2, 100, 7, 7, 256, 2, 2).pad(1).p);
  check(Case(1, 8, 30, 31, 160, 3, 3).dilate(2, 2).p);
  check(Case(2, 20, 28, 28, 64, 1, 1).p);
  check(Case(4, 8, 1, 1, 144, 1, 1).p);   // groups of outputs that are no whole vectors, up to the end of dy
  check(Case(3, 5, 20, 20, 31, 1, 1).p);  // vectors that reach into the next strip
  check(Case(2, 72, 9, 12, 96, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 40, 12, 12, 128, 3, 3).groups(2).pad(1).stride(2, 2).p);
}

TEST_CASE("conv2d weight gradients of 1x1: few channels, read beside many outputs") {
  for (int64_t C : {1, 4, 8, 15, 16, 24, 25})
    for (int64_t O : {2 * C, int64_t{48}, int64_t{52}})
      check(Case(2, C, 13, 17 + C % 3, O, 1, 1).stride(1 + O % 3, 1 + O % 3).p, {0});
  check(Case(2, 16, 60, 60, 96, 1, 1).p, {1});
}

TEST_CASE("conv2d weight gradients: rows without borders are one, short rows, rows between them") {
  for (int64_t O : {5, 13, 24, 40, 41, 48, 64, 72, 130}) {
    check(Case(3, 48, 7, 7, O, 1, 1).p, {0});  // one run over images
    check(Case(2, 40, 9, 15, O, 1, 1).stride(2, 2).p, {0});
    check(Case(3, 20, 5, 8, O, 2, 2).stride(2, 2).pad(1).p, {0});
    check(Case(5, 32, 6, 4, O, 3, 3).pad(1).p, {0});
  }
  check(Case(2, 65, 16, 16, 72, 4, 4).stride(2, 2).dilate(2, 2).pad(2).p, {0});
  check(Case(9, 32, 13, 13, 40, 7, 7).stride(2, 2).pad(3).p, {0});
  check(Case(2, 64, 57, 56, 264, 1, 1).p, {0});  // what comes next is fetched
  check(Case(2, 264, 57, 56, 64, 1, 1).p, {0});
  check(Case(1, 48, 3, 700, 1024, 1, 1).p, {0});  // parts of dy
}

TEST_CASE("conv2d weight gradients: panels, phases of columns and strips ahead") {
  check(Case(2, 100, 20, 19, 70, 1, 1).stride(2, 2).p);        // several panels, of every second pixel
  check(Case(2, 70, 9, 10, 33, 1, 1).stride(1, 2).pad(1).p);   // zeros around a single tap
  check(Case(1, 66, 15, 16, 40, 3, 3).stride(2, 2).pad(1).p);  // two phases, four in bfloat16
  check(Case(1, 40, 17, 19, 35, 3, 3).stride(2, 3).dilate(1, 2).pad(2).p);
  check(Case(2, 48, 11, 13, 20, 3, 1).stride(2, 2).pad(1, 1, 0, 0).p);
  check(Case(2, 48, 11, 13, 20, 1, 3).stride(2, 1).pad(0, 0, 1, 1).p);
  check(Case(2, 32, 3, 400, 300, 1, 3).pad(0, 0, 1, 1).p);  // columns of several strips, outputs of several parts
  check(Case(3, 64, 40, 41, 130, 1, 1).p);                  // large enough to fetch the next strip
}
