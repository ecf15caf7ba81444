// What it is: numbers of a graph that depend on the batch size n, as JSON: whole numbers as text, "N", "64*N",
// "3*N-1"; floating ones as {"value": 1.0, "over": "64*N"} (value / n-dependent) or {"value": 2.0, "times": "N"};
// numbers that do not depend on it as they are, infinities as "inf", "-inf", "nan".
// What it is not: arithmetic of shapes; what is no straight line in n has no such form.
#pragma once
#include <cstdint>
#include <vector>

#include "fastcnn/tensor.h"
#include "session/json.h"

namespace fastcnn {

// One tree out of trees of the same traced function at different batch sizes: what differs becomes a function of
// n. ValueError where the trees differ in more than numbers, or in numbers without a form. `what` names the place.
Json merge_batches(const std::vector<Json>& trees, const std::vector<int64_t>& batches, const std::string& what);

int64_t int_at(const Json& j, int64_t batch, const char* what);
double double_at(const Json& j, int64_t batch, const char* what);
Json double_form(double v);
Dims dims_at(const Json& j, int64_t batch, const char* what);
Json dims_form(const Dims& d);
bool depends_on_batch(const Json& j);  // does the text of a whole number name N?

}  // namespace fastcnn
