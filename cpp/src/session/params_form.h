// What it is: the params of each op as named JSON fields, apart from fields that plans alone set (fusions). Fields
// that have their default stay out of files: a later version may add fields, and reads old files. A field that
// this version does not know makes a file unreadable, with a message that says so.
#pragma once
#include "graph/op_kinds.h"
#include "graph/params_blob.h"
#include "session/json.h"

namespace fastcnn {

bool has_form(OpKind kind);  // false: an op of plans, never of traces
// Every field. ValueError where the params hold what no field tells.
Json params_form(OpKind kind, const Params& params);
Json without_defaults(OpKind kind, const Json& fields);
Params params_at(OpKind kind, const Json* fields, int64_t batch);
OpKind op_of_name(const std::string& name);  // OpKind::count: none

}  // namespace fastcnn
