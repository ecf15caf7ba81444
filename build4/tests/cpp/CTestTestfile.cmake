# CMake generated Testfile for 
# Source directory: /tmp/wt/bench/tests/cpp
# Build directory: /tmp/wt/bench/build4/tests/cpp
# 
# This file includes the relevant testing commands required for 
# testing this directory and lists subdirectories to be tested as well.
add_test("fastcnn_cpp_tests" "/tmp/wt/bench/build4/tests/cpp/fastcnn_cpp_tests")
set_tests_properties("fastcnn_cpp_tests" PROPERTIES  _BACKTRACE_TRIPLES "/tmp/wt/bench/tests/cpp/CMakeLists.txt;13;add_test;/tmp/wt/bench/tests/cpp/CMakeLists.txt;0;")
